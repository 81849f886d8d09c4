use super::*;
use crate::SimError;
use crate::compare::{Row, compare};

fn sized(kind: WorkloadKind, size: Size, seeds: u64) -> Vec<Row> {
    let spec = |policy, seed| Ok(spec(kind, size, policy, seed).expect("a size that fits"));
    compare::<SimError>(PolicyKind::ALL, seeds, spec, |_| {}).expect("specs that make sense")
}

fn row(rows: &[Row], policy: PolicyKind) -> &Row {
    let found = rows.iter().find(|row| row.policy == policy);
    found.expect("a row for every policy")
}

fn small(kind: WorkloadKind) -> Vec<Row> {
    let usual = kind.size();
    let size = Size {
        tasks: usual.tasks.min(16),
        failing: usual.failing.min(6),
        ..usual
    };
    sized(kind, size, 3)
}

/// What is promised of `exact`, whatever the workload.
fn assert_exact_keeps_its_promises(rows: &[Row], kind: WorkloadKind) {
    let exact = row(rows, PolicyKind::Exact);
    assert_eq!(exact.ended, exact.runs, "{}: {exact:?}", kind.as_str());
    assert!(
        exact.retries.max() <= Some(1),
        "{}: {exact:?}",
        kind.as_str()
    );
    let paid = (exact.wrong_reports, exact.refused_healthy, exact.off);
    assert_eq!(paid, (0, 0, Duration::ZERO), "{}: {exact:?}", kind.as_str());
    assert_eq!(exact.state_bytes, 0);
    let ghosts = if kind == WorkloadKind::Ghost {
        exact.runs
    } else {
        0
    };
    assert_eq!(exact.unclaimed, ghosts, "{}: {exact:?}", kind.as_str());
}

/// The expectations that were written down before anything was run. Each that is met otherwise than
/// they say has its reason beside it, and in docs/policies.md.
#[test]
fn every_workload_shows_what_it_is_named_for() {
    use PolicyKind::*;
    for &kind in WorkloadKind::ALL {
        let rows = small(kind);
        assert_exact_keeps_its_promises(&rows, kind);
        let row = |policy| row(&rows, policy);
        let loops = |policy| row(policy).looped == row(policy).runs;
        let ends = |policy| row(policy).ended == row(policy).runs;
        match kind {
            WorkloadKind::One => {
                assert!(loops(Retry), "{:?}", row(Retry));
                for posted in [ErrorGfn, ErrorPending, ErrorGfnTable] {
                    assert!(ends(posted) && row(posted).retries.max() == Some(1));
                }
                let exit = row(ExitOnCompletion);
                assert_eq!(
                    exit.wrong_reports, exit.runs,
                    "the counting task ran: {exit:?}"
                );
                assert_eq!(row(GuestError).told, row(GuestError).runs);
            }
            WorkloadKind::Crowd => {
                assert!(loops(Retry));
                // With 6 failing pages, not 32, more than one retry, not tens.
                assert!(
                    row(ErrorGfn).retries.max() > Some(1),
                    "luck: {:?}",
                    row(ErrorGfn)
                );
                assert!(row(ErrorPending).refused_healthy > 0);
                assert!(row(ErrorPending).progress_per_mille < row(Exact).progress_per_mille);
                assert!(row(ExitOnCompletion).wrong_reports > 0);
            }
            WorkloadKind::Ghost => {
                // Nobody comes back, so nothing is retried: even `retry` ends here.
                assert!(PolicyKind::ALL.iter().all(|&policy| ends(policy)));
                assert!(row(ErrorPending).refused_healthy > 0);
                assert!(!row(ErrorPending).off.is_zero());
                assert!(row(ErrorPending).progress_per_mille < row(Exact).progress_per_mille);
            }
            WorkloadKind::Collide => {
                assert!(loops(Retry));
                assert!(
                    row(ErrorGfnTable).retries.max() > Some(1),
                    "{:?}",
                    row(ErrorGfnTable)
                );
            }
            WorkloadKind::Flaky => {
                // Nothing is permanent, so `retry` ends; what it costs is retries by the guest.
                assert!(ends(Retry) && row(Retry).retries.max() > Some(1));
            }
            WorkloadKind::Kernel => {
                assert!(loops(Retry));
                assert_eq!(row(GuestError).told, 0, "nobody to signal");
                assert!(ends(GuestError), "the fallback");
            }
            WorkloadKind::Masked => {
                assert!(loops(Retry));
                // Its error waits, too: it is looked at when the guest can be told of the next page.
                let longest = row(ExitOnCompletion).report_us.max();
                assert!(longest > Some(300), "{longest:?}");
            }
            WorkloadKind::Migrate => {
                assert!(loops(Retry));
                for posted in [ErrorGfn, ErrorGfnTable] {
                    assert!(row(posted).retries.max() > Some(1), "{:?}", row(posted));
                }
            }
            WorkloadKind::Shadow => {
                for posted in [Retry, ErrorGfn, ErrorPending, ErrorGfnTable] {
                    assert!(loops(posted), "{:?}", row(posted));
                }
                // Both look at what the work met, which no task switch hides.
                assert!(ends(ExitOnCompletion) && ends(GuestError));
            }
            WorkloadKind::Repair => {
                assert!(
                    PolicyKind::ALL
                        .iter()
                        .all(|&policy| ends(policy) || policy == GuestError)
                );
                assert!(row(Retry).retries.max() > row(Exact).retries.max());
                assert!(
                    row(GuestError).told > 0,
                    "killed for what was about to be repaired"
                );
            }
            WorkloadKind::Storm => assert!(loops(Retry)),
        }
    }
}

#[test]
fn the_same_seeds_give_the_same_rows_in_any_order() {
    let size = Size {
        tasks: 8,
        failing: 3,
        vcpus: 2,
    };
    let kind = WorkloadKind::Migrate;
    let run = |policies: &[PolicyKind]| {
        let spec = |policy, seed| Ok(spec(kind, size, policy, seed).expect("a size that fits"));
        compare::<SimError>(policies, 2, spec, |_| {}).expect("specs that make sense")
    };
    let forth = run(PolicyKind::ALL);
    let back: Vec<PolicyKind> = PolicyKind::ALL.iter().rev().copied().collect();
    let mut back = run(&back);
    back.reverse();
    assert_eq!(forth, back);
}

#[test]
fn sizes_that_contradict_themselves_are_refused() {
    let size = |tasks, failing, vcpus| Size {
        tasks,
        failing,
        vcpus,
    };
    for (kind, bad) in [
        (WorkloadKind::Crowd, size(0, 1, 1)),
        (WorkloadKind::Crowd, size(4, 1, 0)),
        (WorkloadKind::Crowd, size(2, 1, 4)),
        (WorkloadKind::Crowd, size(2, 1000, 1)),
        (WorkloadKind::Migrate, size(4, 1, 1)),
        (WorkloadKind::Collide, size(4, 1, 1)),
    ] {
        let refused = spec(kind, bad, PolicyKind::Exact, 1);
        assert!(refused.is_err(), "{} {bad:?}", kind.as_str());
    }
}

/// A stretch with interrupts off takes as long as is said, and "ready" waits for its end.
#[test]
fn interrupts_that_are_off_hold_up_what_is_said() {
    let size = |tasks| Size {
        tasks,
        failing: 0,
        vcpus: 1,
    };
    let alone = |masked_for| {
        let mut spec = spec(WorkloadKind::Masked, size(1), PolicyKind::Exact, 1).expect("a size");
        spec.irqs_off_for = masked_for;
        crate::run(&spec).expect("a spec that makes sense")
    };
    let (short, long) = (alone(Duration::ZERO), alone(Duration::from_millis(3)));
    let elapsed = |result: &crate::SimResult| result.run.stats.elapsed;
    let twice = Duration::from_millis(6);
    assert_eq!(elapsed(&long) - elapsed(&short), twice, "{long:?}");
    let together = |masked: bool| {
        let mut spec = spec(WorkloadKind::Masked, size(8), PolicyKind::Exact, 1).expect("a size");
        if !masked {
            spec.irqs_off.clear();
        }
        crate::run(&spec).expect("a spec that makes sense").counts
    };
    let (masked, open) = (together(true), together(false));
    assert_eq!(open.held, 0);
    assert!(masked.held >= 8, "{masked:?}");
    assert_eq!(masked.readies, masked.asynchronous + 1, "each comes, late");
}

/// A guest that cannot be told is halted again and again while a slow source has not answered. Nobody
/// told it "ready" meanwhile, so nothing has looped.
#[test]
fn artificial_halts_are_no_loop() {
    let size = Size {
        tasks: 4,
        failing: 0,
        vcpus: 1,
    };
    let mut slow = spec(WorkloadKind::Crowd, size, PolicyKind::Retry, 1).expect("a size that fits");
    slow.guest_apf = false;
    slow.run.plan = FaultPlan::new(1, Latency::fixed(Duration::from_secs(2)));
    let result = crate::run(&slow).expect("a spec that makes sense");
    assert!(result.counts.halts > 1000, "{result:?}");
    assert!(result.counts.max_asked_again <= 1, "{result:?}");
    assert_ne!(result.run.outcome, surefault_core::run::Outcome::Looped);
}
