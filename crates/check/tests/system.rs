//! The smaller set: what is expected of each policy, found on systems of a few thousand states.
//! The larger ones are in `docs/policies.md`, with their command.

use std::path::Path;

use surefault_check::system::{Checked, Config, Property, check, trace_of};
use surefault_check::{Counterexample, Limits, Verdict};
use surefault_core::faults::Paging;
use surefault_core::policy::PolicyKind;
use surefault_sim::trace::{Ending, Trace, replay};
use surefault_sim::world::{Budgets, Step};

fn judge(config: &Config) -> Checked {
    let checked = check(config, &Limits::default(), |_| {}).expect("a configuration");
    for (property, verdict) in &checked.verdicts {
        if let Verdict::Violated(way) = verdict {
            replays(config, *property, way);
        }
    }
    checked
}

/// Written as a trace and read again, the way is the simulator's, too, and comes to the same end; its
/// cycle is a loop by the simulator's own rule.
fn replays(config: &Config, property: Property, way: &Counterexample<Step>) {
    let name = format!("{}-{property}.trace", config.policy);
    let written = trace_of(config, way).expect("a counterexample replays");
    let trace = Trace::parse(Path::new(&name), &written.to_string()).expect("a trace");
    assert_eq!(trace.setup, written.setup, "{name}");
    assert_eq!(trace.steps, written.steps, "{name}");
    assert_eq!(trace.cycle, written.cycle, "{name}");
    let replayed = replay(&trace).expect("its steps are possible");
    assert_eq!(replayed.no_loop, None, "{name}:\n{written}");
    assert_eq!(replayed.check(&trace), Ok(()), "{name}:\n{written}");
    if let (Property::Promise(_), false) = (property, way.cycle.is_empty()) {
        assert_eq!(replayed.ending, Ending::Looped, "{name}");
    }
}

fn violated(checked: &Checked) -> Vec<&'static str> {
    assert!(
        checked
            .verdicts
            .iter()
            .all(|(_, verdict)| *verdict != Verdict::Incomplete)
    );
    let violated = |verdict: &Verdict<_>| matches!(verdict, Verdict::Violated(_));
    let verdicts = checked.verdicts.iter();
    verdicts
        .filter(|(_, verdict)| violated(verdict))
        .map(|(property, _)| property.as_str())
        .collect()
}

/// Two tasks on one vCPU, and a page for each.
fn small(policy: PolicyKind, failing: u32, incidents: u8) -> Config {
    Config {
        tasks: 2,
        pages: 2,
        failing,
        incidents,
        ..Config::one_vcpu(policy)
    }
}

#[test]
fn retry_never_ends() {
    let checked = judge(&small(PolicyKind::Retry, 1, 0));
    assert_eq!(violated(&checked), ["one-retry", "failing-ends"]);
}

#[test]
fn error_gfn_ends_with_one_failing_task_and_not_with_two() {
    let one = judge(&small(PolicyKind::ErrorGfn, 1, 0));
    assert_eq!(violated(&one), Vec::<&str>::new());
    let two = judge(&small(PolicyKind::ErrorGfn, 2, 0));
    assert_eq!(violated(&two), ["one-retry", "failing-ends"]);
}

#[test]
fn error_pending_stays_off_when_the_failing_task_is_killed() {
    let calm = judge(&small(PolicyKind::ErrorPending, 2, 0));
    assert_eq!(violated(&calm), Vec::<&str>::new());
    let mut killed = small(PolicyKind::ErrorPending, 1, 1);
    killed.budgets = Budgets {
        kills: 1,
        ..Budgets::NONE
    };
    assert!(violated(&judge(&killed)).contains(&"async-comes-back"));
}

#[test]
fn error_gfn_table_loses_what_collides() {
    let mut config = small(PolicyKind::ErrorGfnTable, 2, 0);
    assert_eq!(violated(&judge(&config)), ["one-retry", "failing-ends"]);
    config.slots = 8;
    assert_eq!(violated(&judge(&config)), Vec::<&str>::new());
}

#[test]
fn exit_on_completion_reports_the_wrong_task() {
    let checked = judge(&small(PolicyKind::ExitOnCompletion, 1, 0));
    assert_eq!(violated(&checked), ["report-task"]);
}

#[test]
fn guest_error_ends_as_long_as_the_guest_can_be_told() {
    let checked = judge(&small(PolicyKind::GuestError, 2, 0));
    assert_eq!(violated(&checked), Vec::<&str>::new());
}

#[test]
fn everything_holds_for_exact() {
    let two_vcpus = Config {
        incidents: 0,
        ..Config::two_vcpus(PolicyKind::Exact)
    };
    for paging in [Paging::TwoDimensional, Paging::Shadow] {
        for config in [&small(PolicyKind::Exact, 1, 1), &two_vcpus] {
            let config = Config {
                paging,
                ..config.clone()
            };
            assert_eq!(violated(&judge(&config)), Vec::<&str>::new(), "{config:?}");
        }
    }
}

#[test]
fn everything_holds_where_every_fault_is_synchronous() {
    for &policy in PolicyKind::ALL {
        let config = Config {
            apf: false,
            ..small(policy, 1, 1)
        };
        assert_eq!(violated(&judge(&config)), Vec::<&str>::new(), "{policy}");
    }
}
