//! The worker that serves the pages is killed between any two of its steps, and another one goes on.
//! The larger systems are in `docs/policies.md`, with their command.

use std::sync::Arc;

use surefault_check::system::{Checked, Config, Property, System, check_system};
use surefault_check::{Limits, Verdict};
use surefault_core::faults::Paging;
use surefault_core::policy::PolicyKind;
use surefault_sim::machine::Mistake;
use surefault_sim::world::{Budgets, World};

/// One task and its page, which the balloon may take, and one death.
fn config() -> Config {
    Config {
        tasks: 1,
        pages: 1,
        failing: 0,
        budgets: Budgets {
            removals: 1,
            deaths: 1,
            ..Budgets::NONE
        },
        ..Config::one_vcpu(PolicyKind::Exact)
    }
}

fn judge(config: &Config, mistake: Option<Mistake>) -> Checked {
    let setup = Arc::new(config.setup().expect("a configuration"));
    let mut world = World::new(setup, config.budgets).expect("a setup");
    if let Some(mistake) = mistake {
        world = world.with_pager_mistake(mistake);
    }
    check_system(&System::of(config, world), &Limits::default(), |_| {})
}

/// What is violated, and after how many steps.
fn caught(checked: &Checked) -> Vec<(&'static str, usize)> {
    let verdicts = checked.verdicts.iter();
    verdicts
        .filter_map(|(property, verdict)| match verdict {
            Verdict::Violated(way) => Some((Property::as_str(*property), way.len())),
            Verdict::Holds => None,
            Verdict::Incomplete => panic!("{property} was not explored to the end"),
        })
        .collect()
}

#[test]
fn no_death_brings_old_data_back_or_loses_a_fault() {
    let synchronous = Config {
        apf: false,
        ..config()
    };
    let shadow = Config {
        paging: Paging::Shadow,
        ..config()
    };
    let failing = Config {
        failing: 1,
        ..config()
    };
    let healing = Config {
        healing: 1,
        ..config()
    };
    let shared = Config {
        vcpus: 2,
        tasks: 2,
        incidents: 0,
        ..config()
    };
    for config in [config(), synchronous, shadow, failing, healing, shared] {
        let checked = judge(&config, None);
        println!("{} states", checked.states);
        assert!(checked.states > 300, "{config:?}");
        assert_eq!(caught(&checked), [], "{config:?}");
    }
}

#[test]
fn mistakes_of_a_pager_are_caught() {
    for (mistake, property) in [
        (Mistake::ReadUnrecorded, "right-contents"),
        (Mistake::ClearedTooSoon, "right-contents"),
        (Mistake::NotReplayed, "right-contents"),
        (Mistake::ReplayedTooLate, "right-contents"),
        (Mistake::RemovalForgotten, "right-contents"),
        (Mistake::AskedOutsideGate, "right-contents"),
        (Mistake::IntentTrusted, "right-contents"),
        (Mistake::PresentTooSoon, "right-contents"),
        (Mistake::NotWoken, "healthy-ends"),
        (Mistake::ZeroWokenOnce, "healthy-ends"),
    ] {
        let config = config();
        let checked = judge(&config, Some(mistake));
        let caught = caught(&checked);
        println!("{mistake:?}: {caught:?}");
        let found = caught.iter().find(|(name, _)| *name == property);
        let (_, steps) = found.unwrap_or_else(|| panic!("{mistake:?}: {property}"));
        assert!(*steps <= 30, "{mistake:?}: {steps} steps");
    }
}
