//! The checker checks itself: machines with deliberate mistakes, each of which must be caught, and by
//! which property.

use std::sync::Arc;

use surefault_check::system::{Checked, Config, Property, System, check_system};
use surefault_check::{Limits, Verdict};
use surefault_core::faults::{self, Paging};
use surefault_core::policy::PolicyKind;
use surefault_core::residency;
use surefault_sim::world::World;

/// A small system for each mistake, and all properties that catch it.
fn judge(config: &Config, break_it: impl Fn(World<Any>) -> World<Any>) -> Checked {
    let setup = Arc::new(config.setup().expect("a configuration"));
    let world = World::new(setup, config.budgets).expect("a setup");
    let system = System::of(config, break_it(world));
    check_system(&system, &Limits::default(), |_| {})
}

type Any = surefault_core::policy::AnyPolicy;

fn caught(checked: &Checked) -> Vec<&'static str> {
    let violated = |verdict: &Verdict<_>| matches!(verdict, Verdict::Violated(_));
    let verdicts = checked.verdicts.iter();
    verdicts
        .filter(|(_, verdict)| violated(verdict))
        .map(|(property, _)| Property::as_str(*property))
        .collect()
}

fn config(incidents: u8) -> Config {
    Config {
        tasks: 2,
        pages: 2,
        failing: 1,
        incidents,
        ..Config::one_vcpu(PolicyKind::Exact)
    }
}

#[test]
fn mistakes_in_the_machine_of_vcpus_are_caught() {
    use faults::Defect;
    let one = config(1);
    let calm = config(0);
    let two = Config {
        vcpus: 2,
        ..config(0)
    };
    let cap = Config {
        cap: 1,
        ..config(0)
    };
    for (defect, config, property) in [
        (Defect::DroppedWakeUp, &calm, "invariants"),
        (Defect::AckIgnored, &calm, "failing-ends"),
        (Defect::CapOffByOne, &cap, "invariants"),
        (Defect::HashEntryLeft, &calm, "invariants"),
        (Defect::DoubleDelivery, &calm, "token-once"),
        (Defect::WrongVcpuReported, &two, "report-task"),
        (Defect::StaleTokenAfterDisable, &one, "invariants"),
        (Defect::SlotOverwritten, &calm, "token-kept"),
        (Defect::FailureSwallowed, &calm, "failing-ends"),
        (Defect::UnclaimedLost, &one, "error-kept"),
    ] {
        let caught = caught(&judge(config, |world| world.with_faults_defect(defect)));
        println!("{defect:?}: caught by {}", caught.join(", "));
        assert!(caught.contains(&property), "{defect:?}: {property}");
    }
}

#[test]
fn mistakes_in_the_machine_of_pages_are_caught() {
    use residency::Defect;
    let one = config(1);
    for (defect, config, property) in [
        (Defect::NoGenerationCheck, &one, "no-stale-install"),
        (Defect::LateCompletionAfterRemoval, &one, "no-stale-install"),
        (Defect::BudgetOverrun, &one, "report-same"),
    ] {
        let caught = caught(&judge(config, |world| world.with_pages_defect(defect)));
        println!("{defect:?}: caught by {}", caught.join(", "));
        assert!(caught.contains(&property), "{defect:?}: {property}");
    }
}

#[test]
fn without_a_mistake_nothing_is_caught() {
    for paging in [Paging::TwoDimensional, Paging::Shadow] {
        let config = Config {
            paging,
            ..config(1)
        };
        let checked = judge(&config, |world| world);
        assert_eq!(caught(&checked), Vec::<&str>::new());
    }
}
