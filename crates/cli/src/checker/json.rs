//! The verdicts, for programs. `docs/json.md` says what the fields mean.

use serde::Serialize;
use surefault_check::Verdict;
use surefault_check::system::Property;
use surefault_sim::world::Step;

use super::Row;

#[derive(Serialize, Debug)]
pub(super) struct Output {
    schema: u32,
    command: &'static str,
    machine: &'static str,
    verdicts: Vec<JsonVerdict>,
}

#[derive(Serialize, Debug)]
struct JsonVerdict {
    policy: &'static str,
    property: &'static str,
    verdict: &'static str,
    states: usize,
    depth: usize,
    seconds: f64,
    counterexample: Option<Way>,
}

#[derive(Serialize, Debug)]
struct Way {
    stem: Vec<String>,
    cycle: Vec<String>,
}

impl Output {
    pub(super) fn of(rows: &[Row]) -> Output {
        let verdicts = rows.iter().flat_map(|row| {
            row.verdicts()
                .map(|(property, verdict)| JsonVerdict::of(row, *property, verdict))
        });
        Output {
            schema: 1,
            command: "check",
            machine: "simulated",
            verdicts: verdicts.collect(),
        }
    }
}

impl JsonVerdict {
    fn of(row: &Row, property: Property, verdict: &Verdict<Step>) -> JsonVerdict {
        let text = |steps: &[Step]| steps.iter().map(Step::to_string).collect();
        JsonVerdict {
            policy: row.checked.config.policy.as_str(),
            property: property.as_str(),
            verdict: verdict.as_str(),
            states: row.checked.states,
            depth: row.checked.depth,
            seconds: row.checked.elapsed.as_secs_f64(),
            counterexample: match verdict {
                Verdict::Violated(way) => Some(Way {
                    stem: text(&way.stem),
                    cycle: text(&way.cycle),
                }),
                Verdict::Holds | Verdict::Incomplete => None,
            },
        }
    }
}
