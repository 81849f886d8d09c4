//! What each published policy does, on the smallest guest that shows it. Every run is bounded: by
//! 200 ms of simulated time, in which a loop turns thousands of times.

use super::*;
use crate::{Scheduling, Sim};
use surefault_core::VcpuId;
use surefault_core::faults::Paging;
use surefault_core::policy::{ErrorPending, Exact, Policy};
use surefault_core::run::TaskId;

#[test]
fn retry_loops_whether_the_guest_is_told_or_halted() {
    let told = lists(&[&[1, 2, 3]], &[2]);
    let halted = SimSpec {
        guest_apf: false,
        ..told.clone()
    };
    for spec in [told, halted] {
        let result = under(PolicyKind::Retry, &spec);
        assert_eq!(result.run.outcome, Outcome::Looped, "{result:?}");
        assert_eq!(result.run.stats.pages_done, 1, "stuck at its second page");
        assert!(result.counts.max_asked_again > 1000, "{result:?}");
        assert_retried_once(&under(PolicyKind::Exact, &spec), &[2]);
    }
}

#[test]
fn error_gfn_ends_one_failing_task() {
    let result = under(PolicyKind::ErrorGfn, &lists(&[&[1, 2], &[5, 6]], &[2]));
    assert_retried_once(&result, &[2]);
}

#[test]
fn error_gfn_is_overwritten_by_a_second_failing_task() {
    // No timer interrupt that would break their step: each is overwritten just before its turn.
    let spec = SimSpec {
        tick: Duration::from_secs(10),
        ..lists(&[&[1], &[2]], &[1, 2])
    };
    let result = under(PolicyKind::ErrorGfn, &spec);
    assert_eq!(result.run.outcome, Outcome::Looped, "{result:?}");
    assert_eq!(result.counts.reports, 0);
    assert_retried_once(&under(PolicyKind::Exact, &spec), &[1, 2]);
}

#[test]
fn error_gfn_with_two_failing_tasks_needs_luck() {
    let spec = |seed| {
        let mut spec = SimSpec {
            scheduling: Scheduling::Random,
            ..lists(&[&[1], &[2], &[3], &[4]], &[1, 2, 3, 4])
        };
        spec.run.seed = seed;
        spec
    };
    let retries: Vec<u64> = (0..40)
        .map(|seed| {
            assert_retried_once(&under(PolicyKind::Exact, &spec(seed)), &[1, 2, 3, 4]);
            under(PolicyKind::ErrorGfn, &spec(seed)).counts.max_retries
        })
        .collect();
    assert!(retries.contains(&1), "lucky at times: {retries:?}");
    assert!(
        retries.iter().any(|&retries| retries >= 4),
        "and not at others: {retries:?}"
    );
}

#[test]
fn error_gfn_never_takes_gfn_0_asynchronously() {
    let spec = SimSpec {
        first_gfn: surefault_core::Gfn::new(0),
        ..lists(&[&[0, 1]], &[])
    };
    let result = under(PolicyKind::ErrorGfn, &spec);
    assert_eq!(
        (result.counts.synchronous, result.counts.asynchronous),
        (1, 1)
    );
    assert_eq!(under(PolicyKind::Exact, &spec).counts.synchronous, 0);
}

#[test]
fn error_pending_makes_progress_with_any_number_of_failing_tasks() {
    let spec = lists(&[&[1], &[2], &[3], &[4]], &[1, 2, 3, 4]);
    let result = under(PolicyKind::ErrorPending, &spec);
    assert_eq!(result.run.outcome, Outcome::Reported, "{result:?}");
    assert!(result.counts.max_retries <= 4, "{result:?}");
    assert_retried_once(&under(PolicyKind::Exact, &spec), &[1, 2, 3, 4]);
}

/// Task 0 fails and is killed while it waits; task 1 has healthy pages only.
fn ghost() -> SimSpec {
    let healthy: Vec<u32> = (10..40).collect();
    SimSpec {
        killed: [TaskId::new(0)].into(),
        ..lists(&[&[1], &healthy], &[1])
    }
}

#[test]
fn error_pending_stays_off_when_the_failing_task_never_returns() {
    fn play<P: Policy>() -> (SimResult, Sim<P>) {
        let spec = ghost();
        let policy = P::new(&surefault_core::faults::FaultsConfig::new(1));
        Sim::with_policy(&spec, policy)
            .expect("a spec that makes sense")
            .run_and_keep()
    }
    let (pending, machine) = play::<ErrorPending>();
    assert_eq!(pending.run.outcome, Outcome::Finished, "{pending:?}");
    assert!(
        machine.faults().policy().is_pending(VcpuId::new(0)),
        "still off at the end"
    );
    assert!(pending.counts.refused_healthy > 20, "{pending:?}");

    let (exact, machine) = play::<Exact>();
    assert_eq!(exact.run.outcome, Outcome::Finished);
    assert_eq!(exact.counts.refused_healthy, 0);
    assert_eq!(machine.faults().owed(), 1, "known, and in nobody's way");
    assert!(exact.run.stats.progress > pending.run.stats.progress);
}

#[test]
fn under_shadow_paging_with_task_switches_both_loop() {
    let spec = SimSpec {
        paging: Paging::Shadow,
        ..lists(&[&[1, 2, 3]], &[2])
    };
    // While the task waits, the counting task runs: the prefault is skipped, nothing is noted.
    for policy in [PolicyKind::ErrorGfn, PolicyKind::ErrorPending] {
        let result = under(policy, &spec);
        assert_eq!(result.run.outcome, Outcome::Looped, "{policy}: {result:?}");
    }
    assert_retried_once(&under(PolicyKind::Exact, &spec), &[2]);
    // Without a switch (the vCPU is halted instead) both end.
    let halted = SimSpec {
        guest_apf: false,
        ..spec
    };
    for policy in [PolicyKind::ErrorGfn, PolicyKind::ErrorPending] {
        assert_retried_once(&under(policy, &halted), &[2]);
    }
}
