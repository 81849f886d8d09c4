//! What came of a soak, for programs (`docs/json.md`).

use std::collections::BTreeMap;

use serde::Serialize;

use super::Soak;
use crate::json::SCHEMA;
use crate::machine::Machine;

#[derive(Serialize)]
pub(super) struct Output<'a> {
    schema: u32,
    command: &'static str,
    machine: Machine,
    outcome: &'static str,
    first_seed: u64,
    runs: u64,
    outcomes: &'a BTreeMap<&'static str, u64>,
    skipped: u64,
    skipped_reason: Option<&'a str>,
    violation: Option<Violation<'a>>,
    elapsed_ns: u64,
}

#[derive(Serialize)]
struct Violation<'a> {
    seed: u64,
    what: &'a str,
    run: &'a str,
    repeat: &'a str,
}

impl<'a> Output<'a> {
    pub(super) fn of(soak: &'a Soak) -> Output<'a> {
        let violation = soak.violation.as_ref().map(|violation| Violation {
            seed: violation.seed,
            what: &violation.what,
            run: &violation.run,
            repeat: &violation.repeat,
        });
        Output {
            schema: SCHEMA,
            command: "run --soak",
            machine: Machine::Kvm,
            outcome: match violation {
                Some(_) => "violated",
                None => "held",
            },
            first_seed: soak.first,
            runs: soak.runs,
            outcomes: &soak.outcomes,
            skipped: soak.skipped.0,
            skipped_reason: soak.skipped.1.as_deref(),
            violation,
            elapsed_ns: u64::try_from(soak.elapsed.as_nanos()).unwrap_or(u64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Violation;
    use super::*;
    use crate::json::fields::assert_described;

    #[test]
    fn every_field_is_described() {
        let soak = Soak {
            violation: Some(Violation {
                seed: 7,
                what: "a sum is wrong".into(),
                run: "surefault run --seed 7".into(),
                repeat: "surefault run --soak 1ms --seed 7".into(),
            }),
            ..Soak::default()
        };
        let value = serde_json::to_value(Output::of(&soak)).unwrap();
        assert_eq!(value["outcome"], "violated");
        assert_described("surefault run --soak", &value, &["outcomes"]);
    }
}
