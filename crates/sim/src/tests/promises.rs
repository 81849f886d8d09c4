//! The promises, over many machines: every run ends, every report is right, nothing is left.

use proptest::prelude::*;

use super::*;
use crate::{OnReport, Scheduling, Sim};
use surefault_core::faults::{Paging, VcpuState};
use surefault_core::policy::{Exact, Policy, PolicyKind};
use surefault_core::{CauseKind, VcpuId};

/// The usual workload with random failures, all of them healed when reported.
fn crowd(tasks: u16, vcpus: u16, pages: u64, seed: u64) -> SimSpec {
    let latency = Latency::new(MS / 50, 5 * MS).expect("the right way round");
    let mut plan = FaultPlan::new(seed, latency);
    for (p, mode) in [
        (0.1, FailureMode::Permanent),
        (0.1, FailureMode::Temporary { failures: 2 }),
        (0.03, FailureMode::Truncate),
        (0.02, FailureMode::Stall),
    ] {
        plan.push(Rule {
            pages: PageSet::Random(Probability::new(p).expect("a probability")),
            mode,
            latency: None,
        });
    }
    SimSpec {
        scheduling: Scheduling::Random,
        on_report: OnReport::Heal,
        max_steps: 2_000_000,
        ..SimSpec::new(RunSpec {
            tasks,
            vcpus,
            pages: PageCount::new(pages),
            seed,
            plan,
            deadline: 50 * MS,
            attempts: 3,
            timeout: Duration::from_secs(60),
            pager: PagerMode::Surefault,
            apf: ApfMode::User,
            irqchip: Irqchip::Kernel,
            on_error: OnError::Exit,
            policy: PolicyKind::default(),
        })
    }
}

/// Reports to be expected: one for each page that never comes.
fn hopeless(spec: &SimSpec) -> u64 {
    let mode = |page| spec.run.plan.mode_of(PageIndex::new(page));
    let hopeless = |&page: &u32| match mode(page) {
        FailureMode::Permanent | FailureMode::Truncate | FailureMode::Stall => true,
        FailureMode::Healthy | FailureMode::Temporary { .. } => false,
    };
    (0..spec.run.pages.get() as u32).filter(hopeless).count() as u64
}

/// Runs the machine and holds the end against every promise that is made for `exact`.
fn kept<P: Policy>(spec: &SimSpec, sim: Sim<P>) -> Result<(), String> {
    let (result, sim) = sim.run_and_keep();
    let (run, counts) = (&result.run, &result.counts);
    // Behind Linux a signal is believed at its second time.
    let retries = if spec.is_watched() { 2 } else { 1 };
    let vcpus = (0..u32::from(spec.run.vcpus)).map(VcpuId::new);
    let at_rest = |vcpu| {
        let state = sim.faults().vcpu_state(vcpu);
        sim.faults().queued(vcpu) == 0 && state != Some(VcpuState::Halted)
    };
    let promises = [
        ("every task ends", run.outcome == Outcome::Finished),
        (
            "every page is read",
            run.stats.pages_done == spec.run.pages.get(),
        ),
        (
            "what never comes is reported",
            counts.reports >= hopeless(spec),
        ),
        ("nothing else is reported", counts.reports <= hopeless(spec)),
        ("a report is the faulting task's", counts.wrong_reports == 0),
        (
            "the budget is kept",
            counts.max_attempts <= spec.run.attempts,
        ),
        ("one retry for each failure", counts.max_retries <= retries),
        ("no page is ever wrong", counts.wrong_pages == 0),
        ("a healthy page never pays", counts.refused_healthy == 0),
        (
            "whoever comes back is told",
            counts.unclaimed == 0 && sim.faults().owed() == 0,
        ),
        ("no page is left pending", sim.pages().pending() == 0),
        ("nothing is left in a queue", { vcpus }.all(at_rest)),
        (
            "the vCPUs are sound",
            sim.faults().check_invariants().is_ok(),
        ),
        (
            "the pages are sound",
            sim.pages().check_invariants().is_ok(),
        ),
    ];
    match promises.iter().find(|(_, kept)| !kept) {
        Some((promise, _)) => Err(format!("not kept: {promise}: {result:?}")),
        None => Ok(()),
    }
}

/// The promises notice what is wrong with either machine. Mistakes that need resets, ranges, prefetches,
/// removals or unlucky drivers are left to the machines' own tests.
#[test]
fn the_promises_catch_broken_machines() {
    use surefault_core::{faults, residency};
    let in_faults = [
        faults::Defect::DroppedWakeUp,
        faults::Defect::AckIgnored,
        faults::Defect::HashEntryLeft,
        faults::Defect::WrongVcpuReported,
        faults::Defect::SlotOverwritten,
        faults::Defect::FailureSwallowed,
    ];
    let in_residency = [residency::Defect::BudgetOverrun];
    let caught = |break_it: &dyn Fn(&mut Sim<Exact>)| {
        (0..100).find_map(|seed| {
            let mut spec = crowd(1 + (seed % 8) as u16, 2, 40, seed);
            spec.max_steps = 20_000;
            let whole = Sim::with_policy(&spec, Exact).expect("a spec that makes sense");
            let mut broken = whole.clone();
            break_it(&mut broken);
            kept(&spec, whole).expect("the machine without the mistake keeps them");
            kept(&spec, broken).err()
        })
    };
    for defect in in_faults {
        let by = caught(&|sim| sim.machine.faults = sim.machine.faults.clone().with_defect(defect));
        println!(
            "{defect:?}: {}",
            by.unwrap_or_else(|| panic!("{defect:?} got away"))
        );
    }
    for defect in in_residency {
        let by = caught(&|sim| sim.machine.pages = sim.machine.pages.clone().with_defect(defect));
        println!(
            "{defect:?}: {}",
            by.unwrap_or_else(|| panic!("{defect:?} got away"))
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn under_exact_every_access_ends_and_nothing_is_left(
        tasks in 1u16..17,
        vcpus in 1u16..3,
        pages in 4u64..200,
        seed: u64,
        shadow: bool,
        guest_apf: bool,
        mode in 0usize..3,
    ) {
        let mut spec = crowd(tasks, vcpus, pages, seed);
        spec.guest_apf = guest_apf;
        spec.paging = if shadow { Paging::Shadow } else { Paging::TwoDimensional };
        spec.run.apf = [ApfMode::Off, ApfMode::Kernel, ApfMode::User][mode];
        kept(&spec, Sim::new(&spec).expect("a spec that makes sense")).map_err(TestCaseError::fail)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Several tasks want the same pages, on both vCPUs; a page may be reported by each of them.
    #[test]
    fn tasks_that_share_failing_pages_all_end(
        lists in prop::collection::vec(prop::collection::vec(0u32..6, 1..8), 1..6),
        failing in prop::collection::btree_set(0u32..6, 0..4),
        shadow: bool,
        guest_apf: bool,
        seed: u64,
    ) {
        let slices: Vec<&[u32]> = lists.iter().map(Vec::as_slice).collect();
        let failing: Vec<u32> = failing.into_iter().collect();
        let mut spec = super::lists(&slices, &failing);
        spec.run.vcpus = 2;
        spec.run.seed = seed;
        spec.scheduling = Scheduling::Random;
        spec.on_report = OnReport::Heal;
        spec.guest_apf = guest_apf;
        spec.paging = if shadow { Paging::Shadow } else { Paging::TwoDimensional };
        let (result, sim) = Sim::new(&spec).expect("a spec that makes sense").run_and_keep();
        let touches: usize = lists.iter().map(Vec::len).sum();
        prop_assert_eq!(result.run.outcome, Outcome::Finished, "{:?}", result);
        prop_assert_eq!(result.run.stats.pages_done, touches as u64);
        prop_assert_eq!((result.counts.wrong_reports, result.counts.refused_healthy), (0, 0));
        prop_assert!(result.counts.max_retries <= 1, "{:?}", result);
        prop_assert_eq!(sim.faults().owed(), 0);
        prop_assert_eq!(sim.pages().pending(), 0);
    }
}

proptest! {
    // Most of these loop until the limit.
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn the_same_spec_gives_the_same_result(tasks in 1u16..9, seed: u64, kind in 0..PolicyKind::ALL.len()) {
        let spec = SimSpec { policy: PolicyKind::ALL[kind], ..crowd(tasks, 2, 40, seed) };
        let spec = SimSpec { max_steps: 3_000, ..spec };
        prop_assert_eq!(run(&spec), run(&spec));
    }
}

#[test]
fn temporary_errors_within_the_budget_are_never_reported() {
    let mut spec = lists(&[&[1, 2], &[3, 4]], &[]);
    spec.run
        .plan
        .push(rule(2, FailureMode::Temporary { failures: 2 }));
    let result = run(&spec);
    assert_eq!(result.run.outcome, Outcome::Finished, "{result:?}");
    spec.run.attempts = 2;
    assert_eq!(run(&spec).run.outcome, Outcome::Reported);
}

#[test]
fn a_stalled_page_is_reported_at_its_deadline_and_holds_nobody_up() {
    let healthy: Vec<u32> = (10..40).collect();
    let mut spec = lists(&[&[1], &healthy], &[]);
    spec.run.plan.push(rule(1, FailureMode::Stall));
    spec.run.deadline = 100 * MS;
    let result = run(&spec);
    assert_eq!(result.run.outcome, Outcome::Reported);
    let report = result.run.report.expect("a report").report;
    assert_eq!(report.failure.cause.kind, CauseKind::Deadline);
    assert!(result.run.stats.elapsed >= 100 * MS);
    assert_eq!(result.run.stats.pages_done, 30, "the others went on");
}
