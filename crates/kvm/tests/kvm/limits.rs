//! A run ends in time, whatever the guest does.

use core::ops::ControlFlow;
use std::time::{Duration, Instant};

use surefault_core::run::{ApfMode, Outcome, RunSpec};
use surefault_core::workload::{FirstTouch, Touch, Workload};
use surefault_core::{PageCount, PageIndex};
use surefault_kvm::runner::{Observer, Progress, run_workload};
use surefault_kvm::signals;

use crate::Case;
use crate::rig::{Code, assert_sums, failing, go, spec};

pub(crate) const CASES: &[Case] = &[
    ("a_guest_that_never_ends_meets_the_limit", endless),
    ("a_page_that_never_comes_meets_the_limit", stalled),
    ("a_run_can_be_cancelled", cancelled),
];

fn endless() {
    // Two vCPUs, both with a task that jumps to itself.
    let touch = |page| Touch {
        page: PageIndex::new(page),
        first: FirstTouch::Call,
    };
    let lists = vec![vec![touch(0)], vec![touch(1)]];
    let workload = Workload::new(PageCount::new(2), lists).unwrap();
    let spec = RunSpec {
        timeout: Duration::from_millis(300),
        ..spec(2, 2, 2)
    };
    let source = Code::new(2, &[(0, &[0xeb, 0xfe]), (1, &[0xeb, 0xfe])]);
    let signals = signals::install().unwrap();
    let result = run_workload(&spec, workload, source, signals, &mut ()).unwrap();
    assert_eq!(result.outcome, Outcome::TimedOut);
    assert_eq!(result.stats.pages_done, 0);
    assert!(result.stats.elapsed >= spec.timeout);
}

fn stalled() {
    for apf in [ApfMode::Off, ApfMode::Kernel] {
        let mut spec = failing(spec(8, 2, 1), "2,5:stall");
        spec.apf = apf;
        spec.timeout = Duration::from_millis(300);
        let started = Instant::now();
        let result = go(&spec, &mut ());
        assert_eq!(result.outcome, Outcome::TimedOut);
        assert_sums(&result);
        // The end of the VM waits for no page either: not even for the kernel's workers that do.
        let elapsed = started.elapsed();
        assert!(elapsed < spec.deadline / 2, "{elapsed:?}");
    }
}

struct Impatient;

impl Observer for Impatient {
    fn progress(&mut self, progress: &Progress) -> ControlFlow<()> {
        assert_eq!(progress.total, 8);
        ControlFlow::Break(())
    }
}

fn cancelled() {
    let spec = failing(spec(8, 1, 1), "2:stall");
    let result = go(&spec, &mut Impatient);
    assert_eq!(result.outcome, Outcome::Cancelled);
    assert_sums(&result);
}
