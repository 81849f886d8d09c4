//! Linux runs its asynchronous page faults, or user space does, the pager resolves behind them: every report is the one
//! that a synchronous fault gives, and of the task that touched the page.

use std::time::Duration;

use surefault_core::plan::{FailureMode, FaultPlan, Latency};
use surefault_core::run::{ApfMode, Outcome, Reported, RunSpec, TaskId};
use surefault_core::workload::{FirstTouch, Touch, Workload};
use surefault_core::{Access, PageCount, PageIndex};
use surefault_kvm::runner::run_workload;
use surefault_kvm::signals;

use crate::Case;
use crate::rig::{Healer, assert_finished, assert_sums, failing, go, modes, pattern, spec};

pub(crate) const CASES: &[Case] = &[
    ("one_task_reports_the_same_in_every_mode", same),
    ("many_tasks_report_what_they_touched", many),
    ("healed_pages_let_the_guest_go_on_in_every_mode", healed),
    (
        "alternating_tasks_are_each_reported_for_their_own",
        alternating,
    ),
];

/// Long enough for a fault to be asynchronous, with room for pages to come out of order.
fn slow(spec: RunSpec) -> RunSpec {
    let latency = Latency::new(Duration::from_micros(20), Duration::from_millis(2)).unwrap();
    RunSpec {
        plan: FaultPlan::new(spec.seed, latency),
        ..spec
    }
}

fn in_mode(spec: &RunSpec, apf: ApfMode) -> RunSpec {
    RunSpec {
        apf,
        ..spec.clone()
    }
}

fn same() {
    for (page, seed) in [(0, 1), (5, 2), (31, 3)] {
        let spec = RunSpec {
            seed,
            ..spec(32, 1, 1)
        };
        for spec in [spec.clone(), slow(spec)] {
            for fail in ["", ":temporary=9", ":truncate"] {
                let spec = failing(spec.clone(), &format!("{page}{fail}"));
                let mut ran = modes()
                    .into_iter()
                    .map(|apf| go(&in_mode(&spec, apf), &mut ()));
                let off = ran.next().expect("the synchronous one");
                assert_eq!(off.outcome, Outcome::Reported);
                assert_sums(&off);
                for other in ran {
                    assert_eq!(other.outcome, Outcome::Reported);
                    assert_eq!(off.report, other.report);
                    assert_eq!(off.stats.pages_done, other.stats.pages_done);
                    assert_sums(&other);
                }
                assert_eq!(off.report.unwrap().page, PageIndex::new(page));
            }
        }
    }
}

/// The report names a page that fails, the task whose page it is, and what that does with it.
fn assert_true(reported: &Reported, spec: &RunSpec, workload: &Workload) {
    let page = reported.page;
    assert_ne!(
        spec.plan.mode_of(page),
        FailureMode::Healthy,
        "{reported:?}"
    );
    let task = reported.task.expect("a task stands there");
    let touches = &workload.tasks()[usize::from(task.get())];
    let touch = touches.iter().find(|touch| touch.page == page);
    let touch = touch.unwrap_or_else(|| panic!("task {task} never touches it: {reported:?}"));
    let access = match touch.first {
        FirstTouch::Write => Access::Write,
        FirstTouch::Read => Access::Read,
        FirstTouch::Call => Access::Fetch,
    };
    assert_eq!(reported.report.access, access, "{reported:?}");
    let vcpu = u32::from(task.get() % spec.vcpus);
    assert_eq!(reported.report.vcpu.get(), vcpu, "{reported:?}");
}

fn many() {
    for seed in 0..6 {
        for (tasks, vcpus) in [(5, 1), (8, 2)] {
            let spec = RunSpec {
                seed,
                ..spec(64, tasks, vcpus)
            };
            let spec = failing(slow(spec), "3,20-24,50");
            let workload = Workload::partition(spec.pages, spec.tasks, spec.seed);
            for apf in modes() {
                let result = go(&in_mode(&spec, apf), &mut ());
                assert_eq!(result.outcome, Outcome::Reported);
                assert_sums(&result);
                assert_true(&result.report.unwrap(), &spec, &workload);
            }
        }
    }
}

fn healed() {
    for seed in 0..2 {
        for (tasks, vcpus) in [(1, 1), (8, 1), (8, 2)] {
            let spec = RunSpec {
                seed,
                ..spec(128, tasks, vcpus)
            };
            let spec = failing(slow(spec), "p=0.2");
            let workload = Workload::partition(spec.pages, spec.tasks, spec.seed);
            for apf in modes() {
                let mut healer = Healer::default();
                let result = go(&in_mode(&spec, apf), &mut healer);
                assert_finished(&result, &spec);
                assert_eq!(result.stats.tokens_left, 0);
                let mut pages: Vec<_> = healer.reports.iter().map(|r| r.page).collect();
                pages.sort_unstable();
                let planned = (0..128)
                    .map(PageIndex::new)
                    .filter(|&page| spec.plan.mode_of(page) != FailureMode::Healthy);
                assert_eq!(pages, planned.collect::<Vec<_>>(), "seed {seed}");
                for reported in &healer.reports {
                    assert_true(reported, &spec, &workload);
                }
            }
        }
    }
}

/// Tasks that meet a bad page at every other touch, so that the signal for one keeps coming while
/// another runs, and two vCPUs stop at once.
fn alternating() {
    const TASKS: u16 = 4;
    const TOUCHES: u32 = 24;
    let touch = |task: u16, n: u32| Touch {
        page: PageIndex::new(u32::from(task) * TOUCHES + n),
        first: FirstTouch::Read,
    };
    let list = |task| (0..TOUCHES).map(move |n| touch(task, n)).collect();
    let pages = u32::from(TASKS) * TOUCHES;
    let bad: Vec<String> = (1..pages).step_by(2).map(|page| page.to_string()).collect();
    let asynchronous = modes().into_iter().filter(|&apf| apf != ApfMode::Off);
    let rounds = [(0, 1), (1, 1), (2, 2), (3, 2)];
    for (apf, (round, vcpus)) in asynchronous.flat_map(|apf| rounds.map(|round| (apf, round))) {
        let workload = Workload::new(PageCount::new(pages.into()), (0..TASKS).map(list).collect());
        let workload = workload.unwrap();
        let healthy = RunSpec {
            seed: round,
            ..spec(pages.into(), TASKS, vcpus)
        };
        let spec = in_mode(&failing(slow(healthy), &bad.join(",")), apf);
        let mut healer = Healer::default();
        let signals = signals::install().unwrap();
        let result = run_workload(&spec, workload, pattern(&spec), signals, &mut healer).unwrap();
        assert_finished(&result, &spec);
        assert_eq!(result.stats.healed, u64::from(pages / 2));
        for reported in &healer.reports {
            let task = TaskId::new((reported.page.get() / TOUCHES) as u16);
            assert_eq!(reported.task, Some(task), "{reported:?}");
            assert_eq!(reported.report.access, Access::Read, "{reported:?}");
        }
    }
}
