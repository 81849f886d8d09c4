//! Pages that fail: the report names them, and whoever heals them goes on.

use std::time::Duration;

use surefault_core::run::{Outcome, TaskId};
use surefault_core::workload::{FirstTouch, Workload};
use surefault_core::{Access, CauseKind, Gpa, PageCount, PageIndex, PageSize, SlotId};
use surefault_guest::abi::DATA_BASE;

use crate::Case;
use crate::rig::{Healer, PAGE, assert_finished, assert_sums, failing, go, spec};

pub(crate) const CASES: &[Case] = &[
    ("a_failing_page_is_named", named),
    ("a_stalled_page_is_reported_at_its_deadline", stalled),
    ("a_truncated_source_is_reported", truncated),
    ("temporary_errors_beyond_the_budget_are_reported", exhausted),
    ("a_healed_page_lets_the_guest_go_on", healed),
    ("a_vcpu_that_is_run_on_unhealed_reports_the_same", unhealed),
];

fn named() {
    let spec = spec(40, 3, 2);
    let workload = Workload::partition(spec.pages, spec.tasks, spec.seed);
    for page in [0, 5, 39] {
        let spec = failing(spec.clone(), &page.to_string());
        let result = go(&spec, &mut ());
        assert_eq!(result.outcome, Outcome::Reported);
        assert_sums(&result);
        let reported = result.report.unwrap();
        let (task, touch) = (0..)
            .zip(workload.tasks())
            .find_map(|(task, touches)| {
                let touch = touches.iter().find(|touch| touch.page.get() == page)?;
                Some((task, touch))
            })
            .unwrap();
        assert_eq!(reported.page, PageIndex::new(page));
        assert_eq!(reported.task, Some(TaskId::new(task)));
        let report = reported.report;
        let gpa = Gpa::new(DATA_BASE + u64::from(page) * PAGE);
        assert_eq!(report.gpa, gpa);
        assert_eq!(report.gfn.gpa(PageSize::KIB_4), Some(gpa));
        assert_eq!(report.memslot, SlotId::new(1));
        assert_eq!(report.vcpu.get(), u32::from(task % spec.vcpus));
        let access = match touch.first {
            FirstTouch::Write => Access::Write,
            FirstTouch::Read => Access::Read,
            FirstTouch::Call => Access::Fetch,
        };
        assert_eq!(report.access, access);
        assert_eq!(report.failure.cause.kind, CauseKind::Injected);
        assert_eq!(report.failure.attempts, 1);
        assert!(!reported.cause.is_empty());
    }
}

fn stalled() {
    let mut spec = failing(spec(16, 2, 1), "6:stall");
    spec.deadline = Duration::from_millis(300);
    let result = go(&spec, &mut ());
    assert_eq!(result.outcome, Outcome::Reported);
    assert_sums(&result);
    assert!(result.stats.elapsed >= spec.deadline);
    let reported = result.report.unwrap();
    assert_eq!(reported.page, PageIndex::new(6));
    assert_eq!(reported.report.failure.cause.kind, CauseKind::Deadline);
}

fn truncated() {
    let result = go(&failing(spec(16, 2, 1), "6:truncate"), &mut ());
    assert_eq!(result.outcome, Outcome::Reported);
    let reported = result.report.unwrap();
    assert_eq!(reported.page, PageIndex::new(6));
    assert_eq!(reported.report.failure.cause.kind, CauseKind::Truncated);
}

fn exhausted() {
    let result = go(&failing(spec(16, 2, 1), "6:temporary=3"), &mut ());
    assert_eq!(result.outcome, Outcome::Reported);
    assert_eq!(result.report.unwrap().report.failure.attempts, 3);
}

fn healed() {
    for (tasks, vcpus) in [(1, 1), (4, 1), (4, 2)] {
        let mut healer = Healer::default();
        let spec = failing(spec(64, tasks, vcpus), "2,17,40-43");
        let result = go(&spec, &mut healer);
        assert_finished(&result, &spec);
        assert_eq!(result.stats.healed, 6);
        let mut pages: Vec<_> = healer.reports.iter().map(|r| r.page.get()).collect();
        pages.sort_unstable();
        assert_eq!(pages, [2, 17, 40, 41, 42, 43]);
    }
}

/// Resumes without healing, twice, and then heals.
#[derive(Default)]
struct Stubborn(Healer);

fn unhealed() {
    let spec = failing(spec(8, 1, 1), "3");
    assert_eq!(spec.pages, PageCount::new(8));
    let mut stubborn = Stubborn::default();
    let result = go(&spec, &mut stubborn);
    assert_finished(&result, &spec);
    let [first, second, third] = &stubborn.0.reports[..] else {
        panic!("{:?}", stubborn.0.reports);
    };
    assert_eq!((first, second), (second, third));
    assert_eq!(result.stats.healed, 1);
}

impl surefault_kvm::runner::Observer for Stubborn {
    fn reported(
        &mut self,
        reported: &surefault_core::run::Reported,
    ) -> surefault_kvm::runner::AfterReport {
        let after = self.0.reported(reported);
        match self.0.reports.len() {
            3 => after,
            _ => surefault_kvm::runner::AfterReport::Resume,
        }
    }
}
