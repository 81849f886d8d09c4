//! The rows, for programs. `docs/json.md` says what the fields mean.

use serde::Serialize;
use surefault_sim::Histogram;
use surefault_sim::compare::Row;

use super::Played;

#[derive(Serialize, Debug)]
pub(super) struct Output<'a> {
    schema: u32,
    command: &'static str,
    machine: &'static str,
    rows: Vec<JsonRow<'a>>,
}

#[derive(Serialize, Debug)]
struct JsonRow<'a> {
    workload: &'a str,
    tasks: u16,
    failing: u32,
    vcpus: u16,
    policy: &'static str,
    runs: u64,
    ended: u64,
    looped: u64,
    retries: Quantiles,
    report_after_ns: Quantiles,
    wrong_reports: u64,
    told: u64,
    refused_healthy: u64,
    off_ns: u64,
    progress_per_mille: Option<u64>,
    state_bytes: u64,
    unclaimed: u64,
    wall_ns: Option<u64>,
}

#[derive(Serialize, Debug)]
struct Quantiles {
    count: u64,
    p50: Option<u64>,
    p99: Option<u64>,
    max: Option<u64>,
}

impl Quantiles {
    fn of(seen: &Histogram, unit: u64) -> Quantiles {
        let scaled = |value: Option<u64>| value.map(|value| value.saturating_mul(unit));
        Quantiles {
            count: seen.count(),
            p50: scaled(seen.quantile(500)),
            p99: scaled(seen.quantile(990)),
            max: scaled(seen.max()),
        }
    }
}

impl<'a> Output<'a> {
    pub(super) fn of(played: &'a [Played]) -> Output<'a> {
        let rows = played
            .iter()
            .flat_map(|of| (0..of.rows.len()).map(move |n| JsonRow::of(of, n)));
        let real = played.iter().any(|of| of.walls.is_some());
        Output {
            schema: 1,
            command: "compare",
            machine: if real { "kvm" } else { "simulated" },
            rows: rows.collect(),
        }
    }
}

impl<'a> JsonRow<'a> {
    fn of(played: &'a Played, n: usize) -> JsonRow<'a> {
        let row: &Row = &played.rows[n];
        let wall = played.walls.as_ref().map(|walls| walls[n].as_nanos());
        JsonRow {
            workload: &played.name,
            tasks: played.size.tasks,
            failing: played.size.failing,
            vcpus: played.size.vcpus,
            policy: row.policy.as_str(),
            runs: row.runs,
            ended: row.ended,
            looped: row.looped,
            retries: Quantiles::of(&row.retries, 1),
            report_after_ns: Quantiles::of(&row.report_us, 1000),
            wrong_reports: row.wrong_reports,
            told: row.told,
            refused_healthy: row.refused_healthy,
            off_ns: u64::try_from(row.off.as_nanos()).unwrap_or(u64::MAX),
            progress_per_mille: row.progress_per_mille,
            state_bytes: row.state_bytes,
            unclaimed: row.unclaimed,
            wall_ns: wall.map(|wall| u64::try_from(wall).unwrap_or(u64::MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::plot::tests::played;
    use crate::json::fields::assert_described;

    #[test]
    fn every_field_is_described() {
        let played = [played("crowd")];
        let value = serde_json::to_value(Output::of(&played)).expect("plain data");
        assert_described("surefault compare", &value, &[]);
    }
}
