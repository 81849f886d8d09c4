//! A replayed trace, for programs.

use serde::Serialize;
use surefault_core::policy::PolicyKind;
use surefault_sim::trace::{Line, Tally};

use super::Played;
use crate::json::SCHEMA;
use crate::machine::Machine;

#[derive(Serialize, Debug)]
pub(crate) struct Output {
    schema: u32,
    command: &'static str,
    machine: Machine,
    policy: &'static str,
    outcome: &'static str,
    as_expected: Option<bool>,
    differs: Vec<String>,
    no_loop: Option<String>,
    cycle: Option<usize>,
    steps: Vec<Step>,
    counts: Tally,
    digest: String,
    trace: String,
}

#[derive(Serialize, Debug)]
struct Step {
    step: String,
    kind: &'static str,
    happened: Vec<String>,
}

impl Output {
    pub(super) fn of(played: &Played) -> Output {
        let replayed = &played.replayed;
        let expects = !played.trace.expected.is_empty();
        let own = played.policy == played.trace.setup.policy;
        Output {
            schema: SCHEMA,
            command: "replay",
            machine: Machine::Simulated,
            policy: PolicyKind::as_str(played.policy),
            outcome: replayed.ending.as_str(),
            as_expected: (expects && own).then_some(played.differs.is_empty()),
            differs: played.differs.iter().map(ToString::to_string).collect(),
            no_loop: replayed.no_loop.as_ref().map(ToString::to_string),
            cycle: replayed.cycle,
            steps: replayed.lines.iter().map(Step::of).collect(),
            counts: replayed.tally,
            digest: format!("{:016x}", replayed.digest()),
            trace: played.trace.to_string(),
        }
    }
}

impl Step {
    fn of(line: &Line) -> Step {
        Step {
            step: line.step.to_string(),
            kind: match (&line.happened, line.added) {
                (None, _) => "passed-over",
                (Some(_), true) => "added",
                (Some(_), false) => "played",
            },
            happened: line
                .happened
                .iter()
                .flatten()
                .map(ToString::to_string)
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use surefault_sim::trace::{Trace, follow};

    use super::*;
    use crate::json::fields::assert_described;

    #[test]
    fn every_field_is_described() {
        let text = include_str!("../../../sim/traces/shadow-error-gfn.trace");
        let trace = Trace::parse(Path::new("shadow-error-gfn.trace"), text).expect("a trace");
        let replayed = follow(&trace, PolicyKind::Exact).expect("a machine that makes sense");
        let differs = replayed.differences(&trace);
        assert!(!differs.is_empty(), "a loop is expected, and does not come");
        let output = Output::of(&Played {
            policy: PolicyKind::Exact,
            trace,
            replayed,
            differs,
        });
        let mut value = serde_json::to_value(output).expect("JSON");
        let steps = value["steps"].as_array_mut().expect("an array");
        steps.retain(|step| {
            step["happened"]
                .as_array()
                .is_some_and(|all| !all.is_empty())
        });
        assert_described(
            "surefault replay",
            &value,
            &["steps[].happened[]", "differs[]"],
        );
    }
}
