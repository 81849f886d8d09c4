//! Linux alone, the source mapped: what Surefault is there to end.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use surefault_core::run::{ApfMode, Outcome, PagerMode, RunResult, RunSpec, TaskId};
use surefault_core::workload::Workload;
use surefault_core::{CauseKind, PageIndex, PageSize};
use surefault_kvm::runner::{RunError, run};
use surefault_kvm::signals;
use surefault_store::{FileStore, ReadRequest};
use tempfile::NamedTempFile;

use crate::Case;
use crate::rig::{Healer, PAGE, assert_finished, assert_sums, failing, go, pattern, spec};

pub(crate) const CASES: &[Case] = &[
    ("linux_alone_loops_on_a_failing_page", loops),
    ("linux_alone_says_bad_address_when_synchronous", bad_address),
    ("linux_alone_serves_healthy_pages", healthy),
    ("a_file_cut_short_fails_linux_alone", cut_short),
    ("a_plan_that_linux_cannot_play_is_refused", unplayable),
];

fn alone(pages: u64, tasks: u16, vcpus: u16, apf: ApfMode) -> RunSpec {
    RunSpec {
        pager: PagerMode::None,
        apf,
        ..spec(pages, tasks, vcpus)
    }
}

fn counted(result: &RunResult, name: &str) -> u64 {
    let value = result.stats.kvm.get(name).copied();
    value.unwrap_or_else(|| panic!("KVM counts no {name}: {:?}", result.stats.kvm))
}

fn loops() {
    for (tasks, vcpus, fail) in [(1, 1, "3"), (4, 1, "3,9"), (4, 2, "3")] {
        let mut spec = failing(alone(32, tasks, vcpus, ApfMode::Kernel), fail);
        let looped = |result: &RunResult| result.outcome == Outcome::Looped;
        // A busy host needs longer to ask a hundred times.
        let results = [2, 8, 30]
            .map(Duration::from_secs)
            .into_iter()
            .map(|timeout| {
                spec.timeout = timeout;
                let started = Instant::now();
                let result = go(&spec, &mut ());
                // Over in time, with nothing left behind that would have to be waited for.
                assert!(started.elapsed() < timeout + Duration::from_secs(10));
                result
            });
        let mut results = results.peekable();
        while results.next_if(|result| !looped(result)).is_some() {}
        let result = results.next().expect("a loop within 30 s");
        assert_eq!(result.outcome, Outcome::Looped, "{result:?}");
        assert_eq!(result.report, None);
        assert_sums(&result);
        // Thousands, on a quiet host.
        assert!(counted(&result, "pf_taken") > 100, "{:?}", result.stats);
        // But for a vCPU that was done with all of its tasks.
        assert!(
            result.stats.returns <= u64::from(vcpus - 1),
            "{:?}",
            result.stats
        );
        assert!(result.stats.tasks_finished < tasks);
    }
}

fn bad_address() {
    let workload = Workload::partition(alone(32, 3, 1, ApfMode::Off).pages, 3, spec(32, 3, 1).seed);
    for page in [0, 9, 31] {
        let spec = failing(alone(32, 3, 1, ApfMode::Off), &page.to_string());
        let result = go(&spec, &mut ());
        assert_eq!(result.outcome, Outcome::Reported);
        assert_sums(&result);
        let reported = result.report.unwrap();
        assert_eq!(reported.report.failure.cause.kind, CauseKind::BadAddress);
        assert_eq!(reported.page, PageIndex::new(page));
        let touches = |task: TaskId| &workload.tasks()[usize::from(task.get())];
        let task = reported.task.unwrap();
        assert!(
            touches(task)
                .iter()
                .any(|touch| touch.page == reported.page)
        );
        // The same page, task and instruction as with Surefault; only the reason is missing.
        let surefault = RunSpec {
            pager: PagerMode::Surefault,
            ..spec
        };
        let with = go(&surefault, &mut ()).report.unwrap();
        assert_eq!((with.page, with.task), (reported.page, reported.task));
        let (with, without) = (with.report, reported.report);
        assert_eq!(
            (with.gpa, with.rip, with.access),
            (without.gpa, without.rip, without.access)
        );
    }
}

fn healthy() {
    for apf in [ApfMode::Off, ApfMode::Kernel] {
        let healthy = alone(64, 4, 2, apf);
        assert_finished(&go(&healthy, &mut ()), &healthy);
    }
    let spec = failing(alone(64, 4, 2, ApfMode::Off), "2,17,40-43");
    let mut healer = Healer::default();
    let result = go(&spec, &mut healer);
    assert_finished(&result, &spec);
    assert_eq!(result.stats.healed, 6);
}

fn cut_short() {
    let spec = alone(32, 1, 1, ApfMode::Off);
    let mut contents = vec![0; 32 * PAGE as usize];
    pattern(&spec)
        .read(ReadRequest::first(0), &mut contents)
        .unwrap();
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(&contents).unwrap();
    let source = FileStore::open(file.path(), PageSize::KIB_4, 32 * PAGE).unwrap();
    file.as_file().set_len(20 * PAGE).unwrap();
    let signals = signals::install().unwrap();
    let result = run(&spec, Arc::new(source), signals, &mut ()).unwrap();
    assert_eq!(result.outcome, Outcome::Reported);
    assert!(result.report.unwrap().page.get() >= 20);
}

fn unplayable() {
    let spec = failing(alone(8, 1, 1, ApfMode::Off), "3:stall");
    let signals = signals::install().unwrap();
    let refused = run(&spec, pattern(&spec), signals, &mut ());
    assert!(matches!(refused, Err(RunError::Map(_))), "{refused:?}");
}
