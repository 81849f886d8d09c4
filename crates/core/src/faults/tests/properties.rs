//! Arbitrary interleavings, then a fair end; and that the same harness catches every defect.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::world::{Caught, STEPS, Step, World};
use crate::faults::{Defect, DoubleFault, FaultsConfig, Paging};
use crate::policy::{
    AnyPolicy, ErrorGfn, ErrorGfnTable, ErrorPending, Exact, ExitOnCompletion, GuestError, Policy,
    Retry,
};

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec((0..STEPS, any::<u8>(), any::<u8>()), 0..150)
}

/// Small, so that caps, collisions, wraps and full tables are within reach.
fn configs() -> impl Strategy<Value = FaultsConfig> {
    let sizes = prop_oneof![Just((1, 1, 2, 2)), Just((2, 2, 3, 2)), Just((3, 4, 8, 3))];
    let flags = (any::<bool>(), any::<bool>());
    let telling = (any::<bool>(), 1u16..4);
    (1u16..3, flags, sizes, 1u16..4, telling).prop_map(
        |(vcpus, (shadow, queue), sizes, tables, telling)| {
            let (queue_cap, gfn_slots, item_slots, token_id_bits) = sizes;
            let paging = if shadow {
                Paging::Shadow
            } else {
                Paging::TwoDimensional
            };
            let double_fault = match queue {
                true => DoubleFault::Queue,
                false => DoubleFault::Halt,
            };
            FaultsConfig {
                paging,
                double_fault,
                queue_cap,
                gfn_slots,
                item_slots,
                token_id_bits,
                owed_slots: tables,
                observed_slots: tables,
                error_slots: 2,
                errors_to_guest: telling.0,
                told_limit: telling.1,
                ..FaultsConfig::new(vcpus)
            }
        },
    )
}

fn run<P: Policy>(
    config: FaultsConfig,
    defect: Option<Defect>,
    steps: &[Step],
) -> Result<(), Caught> {
    World::<P>::new(config, defect).run(steps).map(drop)
}

proptest! {
    #![proptest_config(Config::with_cases(256))]

    #[test]
    fn everything_ends_under_exact(config in configs(), steps in steps()) {
        run::<Exact>(config, None, &steps).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn everything_ends_under_the_posted_policies_once_healed(config in configs(), steps in steps()) {
        run::<Retry>(config, None, &steps).map_err(TestCaseError::fail)?;
        run::<ErrorGfn>(config, None, &steps).map_err(TestCaseError::fail)?;
        run::<ErrorPending>(config, None, &steps).map_err(TestCaseError::fail)?;
        run::<ErrorGfnTable>(config, None, &steps).map_err(TestCaseError::fail)?;
        run::<GuestError>(config, None, &steps).map_err(TestCaseError::fail)?;
        run::<AnyPolicy>(config, None, &steps).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn exit_on_completion_ends_too_but_reports_whatever_runs(config in configs(), steps in steps()) {
        let world = World::<ExitOnCompletion>::new(config, None).exiting_early();
        world.run(&steps).map(drop).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn watching_ends_in_one_answer_each(config in configs(), steps in steps()) {
        World::<Exact>::watch(config, &steps).map_err(TestCaseError::fail)?;
    }

}

proptest! {
    // Each case compares after every step, in every direction.
    #![proptest_config(Config::with_cases(64))]

    #[test]
    fn equal_views_have_equal_successors(config in configs(), steps in steps()) {
        World::<ErrorPending>::new(config, None).views_agree(&steps).map_err(TestCaseError::fail)?;
    }
}

/// The harness reaches reports and machine checks, so that what it says of them means something.
#[test]
fn reports_are_reached() {
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        TestRng::deterministic_rng(RngAlgorithm::ChaCha),
    );
    let (mut reports, mut machine_checks) = (0, 0);
    for _ in 0..50 {
        let tree = (configs(), steps()).new_tree(&mut runner).expect("a case");
        let (config, steps) = tree.current();
        let world = World::<Exact>::new(config, None).run(&steps);
        let world = world.unwrap_or_else(|caught| panic!("{caught}"));
        reports += world.reports();
        machine_checks += world.machine_checks();
    }
    assert!(
        reports > 0 && machine_checks > 0,
        "{reports}, {machine_checks}"
    );
}

/// Each defect is caught by the harness that passes without it, within 2000 cases.
#[test]
fn every_defect_is_caught() {
    let mut caught = Vec::new();
    for defect in Defect::ALL {
        let mut runner = TestRunner::new_with_rng(
            Config::default(),
            TestRng::deterministic_rng(RngAlgorithm::ChaCha),
        );
        let by = (0..2000).find_map(|case| {
            let tree = (configs(), steps()).new_tree(&mut runner).expect("a case");
            let (config, steps) = tree.current();
            let caught = run::<Exact>(config, Some(defect), &steps).err()?;
            run::<Exact>(config, None, &steps).expect("the machine without the defect passes");
            Some((case, caught))
        });
        let Some((case, by)) = by else {
            panic!("{defect:?} got away");
        };
        caught.push(format!("{defect:?}: case {case}: {by}"));
    }
    println!("{}", caught.join("\n"));
}

use proptest::strategy::ValueTree;
