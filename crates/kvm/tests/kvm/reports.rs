//! Pages that fail: the report names them, and whoever heals them goes on.

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use surefault_core::plan::{FailureMode, FaultPlan, Latency};
use surefault_core::run::{ApfMode, Outcome, Reported, RunSpec, TaskId};
use surefault_core::workload::{FirstTouch, Workload};
use surefault_core::{Access, CauseKind, Gpa, PageIndex, PageSize, SlotId};
use surefault_guest::abi::DATA_BASE;
use surefault_kvm::runner::{AfterReport, Observer, run};
use surefault_kvm::signals;
use surefault_store::{FileStore, ReadRequest, Store};
use tempfile::NamedTempFile;

use crate::Case;
use crate::rig::{Healer, PAGE, assert_finished, assert_sums, failing, go, pattern, spec};

pub(crate) const CASES: &[Case] = &[
    ("a_failing_page_is_named", named),
    ("a_stalled_page_is_reported_at_its_deadline", stalled),
    ("a_truncated_source_is_reported", truncated),
    ("a_file_cut_short_while_running_is_reported", cut_short),
    ("temporary_errors_beyond_the_budget_are_reported", exhausted),
    ("a_healed_page_lets_the_guest_go_on", healed),
    ("failures_anywhere_are_each_reported_once", anywhere),
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

/// Cuts a file short when a first page has been reported, heals that, and mends the file when it is
/// reported.
struct Cutter {
    file: NamedTempFile,
    contents: Vec<u8>,
    reports: Vec<Reported>,
}

impl Observer for Cutter {
    fn reported(&mut self, reported: &Reported) -> AfterReport {
        match self.reports.len() {
            0 => self.file.as_file().set_len(4 * PAGE + 100).unwrap(),
            _ => self.file.as_file().write_all_at(&self.contents, 0).unwrap(),
        }
        self.reports.push(reported.clone());
        AfterReport::Heal
    }
}

fn cut_short() {
    const PAGES: u64 = 64;
    let mut contents = vec![0; (PAGES * PAGE) as usize];
    let healthy = spec(PAGES, 2, 1);
    pattern(&healthy)
        .read(ReadRequest::first(0), &mut contents)
        .unwrap();
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(&contents).unwrap();
    let source = FileStore::open(file.path(), PageSize::KIB_4, PAGES * PAGE).unwrap();
    let first = Workload::partition(healthy.pages, 2, healthy.seed).tasks()[0][3].page;
    let spec = failing(healthy, &first.to_string());
    let mut cutter = Cutter {
        file,
        contents,
        reports: Vec::new(),
    };
    let signals = signals::install().unwrap();
    let result = run(&spec, Arc::new(source), signals, &mut cutter).unwrap();
    assert_finished(&result, &spec);
    let [planned, cut, ..] = &cutter.reports[..] else {
        panic!("{:?}", cutter.reports);
    };
    assert_eq!(planned.page, first);
    assert!(cut.page.get() >= 4);
    assert_eq!(cut.report.failure.cause.kind, CauseKind::Truncated);
    for size in [4 * PAGE + 100, u64::from(cut.page.get() + 1) * PAGE] {
        assert!(cut.cause.contains(&size.to_string()), "{}", cut.cause);
    }
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

fn anywhere() {
    for seed in 0..20 {
        let mut spec = spec(96, 6, 2);
        spec.seed = seed;
        spec.plan = FaultPlan::new(seed, Latency::default());
        let spec = failing(spec, "p=0.2");
        let mut healer = Healer::default();
        let result = go(&spec, &mut healer);
        assert_finished(&result, &spec);
        let mut pages: Vec<_> = healer.reports.iter().map(|r| r.page).collect();
        pages.sort_unstable();
        let planned = (0..96)
            .map(PageIndex::new)
            .filter(|&page| spec.plan.mode_of(page) != FailureMode::Healthy);
        assert_eq!(pages, planned.collect::<Vec<_>>(), "seed {seed}");
    }
}

/// Resumes without healing, twice, and then heals.
#[derive(Default)]
struct Stubborn(Healer);

fn unhealed() {
    for apf in [ApfMode::Off, ApfMode::Kernel] {
        let spec = RunSpec {
            apf,
            ..failing(spec(8, 1, 1), "3")
        };
        let mut stubborn = Stubborn::default();
        let result = go(&spec, &mut stubborn);
        assert_finished(&result, &spec);
        let [first, second, third] = &stubborn.0.reports[..] else {
            panic!("{:?}", stubborn.0.reports);
        };
        assert_eq!((first, second), (second, third));
        assert_eq!(result.stats.healed, 1);
    }
}

impl Observer for Stubborn {
    fn reported(&mut self, reported: &Reported) -> AfterReport {
        let after = self.0.reported(reported);
        match self.0.reports.len() {
            3 => after,
            _ => AfterReport::Resume,
        }
    }
}
