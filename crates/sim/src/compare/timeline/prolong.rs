//! A workload that lasts: more healthy pages before the ones that fail, and after them.

use std::time::Duration;

use surefault_core::run::Outcome;
use surefault_core::workload::{FirstTouch, Touch, Workload};
use surefault_core::{PageCount, PageIndex};

use crate::compare::has_healthy_tasks;
use crate::spec::{SimError, SimSpec};
use crate::workloads::without_failures;
use crate::{SimResult, run};

/// Until when an error is looked for.
const NO_ERROR: Duration = Duration::from_secs(1);
/// How far the first look for it goes.
const FIRST_LOOK: Duration = Duration::from_millis(1);
/// How exactly it is found, as a share of the time before it: one is as good as another for a window.
const EXACT: u32 = 400;
/// A task has no more pages than these before its own, or after them.
const MOST: u32 = 1 << 16;

/// How a run is prolonged, and when its first error comes.
#[derive(Clone, Debug)]
pub(super) struct Stage {
    /// Healthy pages that every task visits first.
    lead: u32,
    /// Healthy pages that those who are watched visit last.
    tail: u32,
    /// What happens at a certain time happens later by this.
    shift: Duration,
    /// When the first page fails.
    pub(super) first_error: Duration,
}

impl Stage {
    /// Such that there is that much time before the first error of `spec`, and those who are watched
    /// have enough to do for that much after it; `None` when no page fails.
    pub(super) fn set(
        spec: &SimSpec,
        before: Duration,
        after: Duration,
    ) -> Result<Option<Stage>, SimError> {
        let exact = before / EXACT;
        let Some(usual) = first_error(spec, Duration::ZERO, exact)? else {
            return Ok(None);
        };
        let mut stage = Stage {
            lead: 4,
            tail: 16,
            shift: Duration::ZERO,
            first_error: usual,
        };
        let untimed = |stage: &Stage| SimSpec {
            repairs: Vec::new(),
            removals: Vec::new(),
            apf_changes: Vec::new(),
            ..stage.play(spec)
        };
        while stage.lead < MOST && met_failure(&run_until(&untimed(&stage), before)?) {
            stage.lead *= 2;
            stage.tail = stage.tail.max(stage.lead);
        }
        let Some(error) = first_error(&untimed(&stage), before, exact)? else {
            return Ok(None);
        };
        stage.shift = error.saturating_sub(usual);
        while stage.tail < MOST && stage.ends_before(spec, error + after)? {
            stage.tail *= 2;
        }
        // What happens at a certain time may put it off once more, or forestall it.
        let found = first_error(&stage.play(spec), Duration::ZERO, exact)?;
        Ok(found.map(|first_error| Stage {
            first_error,
            ..stage
        }))
    }

    /// Those who are watched might run out of pages. They may be faster with errors than without.
    fn ends_before(&self, spec: &SimSpec, time: Duration) -> Result<bool, SimError> {
        let fine = without_failures(&self.play(spec));
        let SimResult { run, measured, .. } = run_until(&fine, time)?;
        Ok(match has_healthy_tasks(spec) {
            true => measured.healthy_done * 2 > measured.healthy_all,
            false => run.stats.tasks_finished > 0,
        })
    }

    /// `spec`, prolonged.
    pub(super) fn play(&self, spec: &SimSpec) -> SimSpec {
        let run = &spec.run;
        let usual = || Workload::partition(run.pages, run.tasks, run.seed);
        let workload = spec.workload.clone().unwrap_or_else(usual);
        let watched = has_healthy_tasks(spec);
        let mut next = run.pages.get() as u32;
        let mut more = |count: u32| {
            let pages = next..next + count;
            next += count;
            pages.map(|page| Touch {
                page: PageIndex::new(page),
                first: FirstTouch::Read,
            })
        };
        let mut lists = Vec::with_capacity(workload.tasks().len());
        for list in workload.tasks() {
            let fails = list.iter().any(|touch| spec.is_failing(touch.page));
            let mut longer: Vec<Touch> = more(self.lead).collect();
            longer.extend(list);
            if !(watched && fails) {
                longer.extend(more(self.tail));
            }
            lists.push(longer);
        }
        let mut longer = spec.clone();
        longer.run.pages = PageCount::new(u64::from(next));
        let workload = Workload::new(longer.run.pages, lists);
        longer.workload = Some(workload.expect("new pages, each visited by one task"));
        longer.loop_limit = None;
        longer.max_steps = u64::MAX;
        let timed = (longer.repairs.iter_mut().map(|(at, _)| at))
            .chain(longer.removals.iter_mut().map(|(at, _)| at))
            .chain(longer.apf_changes.iter_mut().map(|(at, _)| at));
        for at in timed.filter(|at| !at.is_zero()) {
            *at += self.shift;
        }
        longer
    }
}

fn run_until(spec: &SimSpec, timeout: Duration) -> Result<SimResult, SimError> {
    let mut spec = spec.clone();
    spec.run.timeout = timeout;
    run(&spec)
}

fn met_failure(result: &SimResult) -> bool {
    result.measured.retries.count() > 0
}

/// When the first access meets a failure, to `exact`; not before `from`, that is known.
fn first_error(
    spec: &SimSpec,
    from: Duration,
    exact: Duration,
) -> Result<Option<Duration>, SimError> {
    let (mut without, mut with) = (from, from + FIRST_LOOK);
    loop {
        let result = run_until(spec, with)?;
        if met_failure(&result) {
            break;
        }
        if result.run.outcome == Outcome::Finished || with > NO_ERROR {
            return Ok(None);
        }
        (without, with) = (with, with * 2);
    }
    while with - without > exact {
        let middle = without + (with - without) / 2;
        match met_failure(&run_until(spec, middle)?) {
            true => with = middle,
            false => without = middle,
        }
    }
    // All before it is before the error.
    Ok(Some(without))
}
