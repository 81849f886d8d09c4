//! The worker that serves the pages is killed at random moments, and another one goes on.

use proptest::prelude::*;

use super::*;
use crate::machine::Mistake;
use crate::{Deaths, OnReport, Scheduling, Sim};
use surefault_core::faults::Paging;
use surefault_core::plan::mix;

/// Tasks that share pages, some of which are given up meanwhile, under a worker that is killed.
fn killed(seed: u64, deaths: u16, removals: u64) -> SimSpec {
    let draw = |n: u64, below: u64| mix(seed ^ mix(n)) % below;
    let list = |task: u64| -> Vec<u32> {
        let visits = 0..4 + draw(task, 12);
        visits.map(|n| draw(task << 8 | n, 24) as u32).collect()
    };
    let lists: Vec<Vec<u32>> = (0..2 + draw(1, 6)).map(list).collect();
    let slices: Vec<&[u32]> = lists.iter().map(Vec::as_slice).collect();
    let failing: Vec<u32> = (0..draw(2, 3)).map(|n| 4 + n as u32).collect();
    let removal = |n| {
        let page = PageIndex::new(draw(0x100 + n, 24) as u32);
        (MS / 20 * draw(0x200 + n, 200) as u32, page)
    };
    let mut spec = super::lists(&slices, &failing);
    spec.run
        .plan
        .push(rule(8, FailureMode::Temporary { failures: 2 }));
    spec.run.vcpus = 1 + draw(3, 2) as u16;
    spec.run.seed = seed;
    spec.run.timeout = Duration::from_secs(60);
    spec.run.apf =
        [ApfMode::User, ApfMode::User, ApfMode::Off, ApfMode::Kernel][draw(4, 4) as usize];
    spec.guest_apf = draw(5, 3) != 0;
    spec.paging = [Paging::TwoDimensional, Paging::Shadow][draw(6, 2) as usize];
    spec.scheduling = Scheduling::Random;
    spec.on_report = OnReport::Heal;
    spec.removals = (0..removals).map(removal).collect();
    spec.deaths.random = deaths;
    spec.max_steps = 200_000;
    spec
}

/// Whether a run ends as it should.
fn kept<P: surefault_core::policy::Policy>(sim: Sim<P>) -> Result<u64, String> {
    let (result, sim) = sim.run_and_keep();
    let counts = &result.counts;
    let promises = [
        ("every task ends", result.run.outcome == Outcome::Finished),
        ("no page is ever wrong", counts.wrong_pages == 0),
        ("a report is right", counts.wrong_reports == 0),
        ("a healthy page never pays", counts.refused_healthy == 0),
        (
            "the machines are sound",
            sim.faults().check_invariants().is_ok() && sim.pages().check_invariants().is_ok(),
        ),
    ];
    match promises.iter().find(|(_, kept)| !kept) {
        Some((promise, _)) => Err(format!("not kept: {promise}: {result:?}")),
        None => Ok(counts.deaths),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn whoever_waits_is_served_however_often_the_worker_is_killed(
        seed: u64,
        deaths in 1u16..12,
        removals in 0u64..12,
    ) {
        let sim = Sim::new(&killed(seed, deaths, removals)).expect("a spec that makes sense");
        let died = kept(sim).map_err(TestCaseError::fail)?;
        prop_assert!(died <= u64::from(deaths));
    }
}

#[test]
fn random_deaths_catch_the_mistakes_of_a_pager() {
    // A thread takes its page away between two steps of the pager, and another faults on it between the
    // next two: chance does not bring that about. The checker does.
    let rare = |mistake: &Mistake| *mistake == Mistake::ZeroWokenOnce;
    for mistake in Mistake::ALL.into_iter().filter(|mistake| !rare(mistake)) {
        let caught = (0..1000).find_map(|seed| {
            let sim = Sim::new(&killed(seed, 8, 12)).expect("a spec that makes sense");
            kept(sim.with_pager_mistake(mistake))
                .err()
                .map(|by| (seed, by))
        });
        let (seed, by) = caught.unwrap_or_else(|| panic!("{mistake:?} got away"));
        println!(
            "{mistake:?}, seed {seed}: {}",
            by.split(": R").next().unwrap_or_default()
        );
    }
}

#[test]
fn a_worker_dies_when_it_is_told_to() {
    let mut spec = killed(3, 0, 4);
    let without = run(&spec).counts;
    assert_eq!(without.deaths, 0);
    spec.deaths.after = vec![MS, 3 * MS];
    spec.deaths.at_steps = [30, 60].into();
    let result = run(&spec);
    assert_eq!(result.counts.deaths, 4, "{result:?}");
    assert_eq!(result.run.outcome, Outcome::Finished);
    // A death at a step is the line of the trace.
    spec.deaths = Deaths {
        at_steps: [30].into(),
        ..Deaths::default()
    };
    assert_eq!(run(&spec).counts.deaths, 1);
}

#[test]
fn what_keeps_no_records_is_not_killed() {
    let mut spec = killed(3, 1, 0);
    spec.keeps_record = false;
    let refused = crate::run(&spec).expect_err("there is nothing to go on from");
    assert_eq!(refused, crate::SimError::NothingToGoOnFrom);
}
