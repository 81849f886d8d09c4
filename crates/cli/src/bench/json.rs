//! The same, for programs. `docs/json.md` says what the fields mean.

use serde::Serialize;
use surefault_bench::{Contest, Order, Row, Spread};

use super::table::cores;
use crate::json::SCHEMA;

#[derive(Serialize, Debug)]
pub(super) struct Output {
    schema: u32,
    command: &'static str,
    pages: u32,
    rounds: u32,
    cores: usize,
    load_before: Option<f64>,
    load_after: Option<f64>,
    rows: Vec<JsonRow>,
}

#[derive(Serialize, Debug)]
struct JsonRow {
    handler: &'static str,
    order: &'static str,
    threads: usize,
    pages_per_second: Values,
    p50_ns: Values,
    p99_ns: Values,
    to_floor: Values,
    to_ceiling: Option<Values>,
    to_unsupervised: Option<Values>,
}

#[derive(Serialize, Debug)]
struct Values {
    median: f64,
    min: f64,
    max: f64,
}

impl Output {
    pub(super) fn of(contest: &Contest, rows: &[Row], load: (Option<f64>, Option<f64>)) -> Output {
        Output {
            schema: SCHEMA,
            command: "bench serve",
            pages: contest.pages,
            rounds: contest.rounds,
            cores: cores(),
            load_before: load.0,
            load_after: load.1,
            rows: rows.iter().map(|row| JsonRow::of(contest, row)).collect(),
        }
    }
}

impl JsonRow {
    fn of(contest: &Contest, row: &Row) -> JsonRow {
        JsonRow {
            handler: row.entrant.name,
            order: match row.entrant.order {
                Order::Random => "random",
                Order::Sequential => "sequential",
            },
            threads: row.entrant.threads,
            pages_per_second: Values::of(&row.pages_per_second),
            p50_ns: Values::of(&row.p50_ns),
            p99_ns: Values::of(&row.p99_ns),
            to_floor: Values::of(&row.to_floor),
            to_ceiling: match row.entrant.order {
                Order::Random => None,
                Order::Sequential => Some(Values::of(&row.to_ceiling)),
            },
            to_unsupervised: contest
                .unsupervised
                .then(|| Values::of(&row.to_unsupervised)),
        }
    }
}

impl Values {
    fn of(spread: &Spread) -> Values {
        Values {
            median: spread.median(),
            min: spread.min(),
            max: spread.max(),
        }
    }
}

#[cfg(test)]
mod tests {
    use surefault_bench::{Entrant, HandlerKind};

    use super::*;
    use crate::json::fields::assert_described;

    #[test]
    fn every_field_is_described() {
        let row = Row {
            entrant: Entrant {
                name: HandlerKind::Floor.name(),
                order: Order::Sequential,
                threads: 1,
            },
            pages_per_second: Spread::of([1e5]),
            p50_ns: Spread::of([9e3]),
            p99_ns: Spread::of([3e4]),
            to_floor: Spread::of([1.0]),
            to_ceiling: Spread::of([0.2]),
            to_unsupervised: Spread::of([0.99]),
        };
        let contest = Contest {
            pages: 64,
            threads: vec![1],
            rounds: 1,
            surefault: HandlerKind::Floor,
            unsupervised: true,
            player: |_| unreachable!("nothing is measured"),
            interrupted: || false,
        };
        let written = Output::of(&contest, &[row], (Some(0.5), None));
        let value = serde_json::to_value(written).expect("JSON");
        assert_described("surefault bench serve", &value, &[]);
    }
}
