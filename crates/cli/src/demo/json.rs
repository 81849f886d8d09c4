//! The story for programs.

use core::time::Duration;

use serde::Serialize;
use surefault_core::run::Outcome;

use super::Played;
use crate::json::{Report, SCHEMA, Stats};
use crate::machine::Machine;

/// The one object that is written.
#[derive(Serialize, Debug)]
pub(super) struct Story<'a> {
    schema: u32,
    command: &'static str,
    machine: Machine,
    outcome: Ended,
    elapsed_ns: u64,
    steps: Vec<Step<'a>>,
    no_user: Option<&'a str>,
}

/// How the story ended.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "kebab-case")]
enum Ended {
    AsTold,
    NotAsTold,
}

#[derive(Serialize, Debug)]
struct Step<'a> {
    name: &'static str,
    expected: Outcome,
    outcome: Outcome,
    problem: Option<&'a str>,
    report: Option<Report<'a>>,
    stats: Stats<'a>,
}

impl<'a> Story<'a> {
    pub(super) fn of(
        machine: Machine,
        played: &'a [Played],
        no_user: Option<&'a str>,
        elapsed: Duration,
    ) -> Story<'a> {
        let as_told = played.iter().all(|played| played.problem.is_none());
        Story {
            schema: SCHEMA,
            command: "demo",
            machine,
            outcome: match as_told {
                true => Ended::AsTold,
                false => Ended::NotAsTold,
            },
            elapsed_ns: u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX),
            steps: played.iter().map(Step::of).collect(),
            no_user,
        }
    }
}

impl<'a> Step<'a> {
    fn of(played: &'a Played) -> Step<'a> {
        let Played {
            scene,
            ran,
            problem,
        } = played;
        Step {
            name: scene.name,
            expected: scene.expected,
            outcome: ran.result.outcome,
            problem: problem.as_deref(),
            report: Report::of(ran),
            stats: Stats::of(ran),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::scene;
    use crate::json::fields::assert_described;
    use crate::json::tests::reported;

    fn played(problem: Option<&str>) -> Played {
        Played {
            scene: scene::all(false).next().expect("scenes"),
            ran: reported(),
            problem: problem.map(str::to_owned),
        }
    }

    #[test]
    fn every_field_is_described() {
        let played = [played(None)];
        let story = Story::of(Machine::Kvm, &played, None, Duration::from_secs(3));
        let value = serde_json::to_value(story).unwrap();
        assert_described(
            "surefault demo",
            &value,
            &["steps[].report", "steps[].stats"],
        );
        assert_eq!(value["outcome"], "as-told");
        assert_eq!(value["steps"][0]["expected"], "reported");
    }

    #[test]
    fn one_step_can_spoil_it() {
        let played = [played(None), played(Some("a sum is wrong"))];
        let story = Story::of(Machine::Kvm, &played, None, Duration::from_secs(3));
        let value = serde_json::to_value(story).unwrap();
        assert_eq!(value["outcome"], "not-as-told");
        assert_eq!(value["steps"][1]["problem"], "a sum is wrong");
    }
}
