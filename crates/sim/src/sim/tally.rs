//! What is counted and measured of a run.

use std::time::Duration;

use surefault_core::policy::Policy;
use surefault_core::residency::PageOutcome;
use surefault_core::run::{Outcome, Reported, RunResult, RunStats};
use surefault_core::{Failure, PageIndex, PageSize};

use super::course::Course;
use super::{COUNT, Sim};
use crate::machine::{Around, Ended, Happened, Machine, vcpu_id};
use crate::result::SimResult;
use crate::source;
use crate::spec::OnReport;

/// Since when pages have failed.
#[derive(Clone, Debug, Default)]
pub(super) struct FailedSince {
    /// By page, as far as the highest that ever failed.
    since: Vec<Option<Duration>>,
}

impl FailedSince {
    fn get(&self, page: PageIndex) -> Option<Duration> {
        self.since.get(page.get() as usize).copied().flatten()
    }

    /// The page has failed, if it had not.
    fn note(&mut self, page: PageIndex, now: Duration) {
        let at = page.get() as usize;
        if at >= self.since.len() {
            self.since.resize(at + 1, None);
        }
        self.since[at].get_or_insert(now);
    }

    /// The page is there again, or gone.
    pub(super) fn forget(&mut self, page: PageIndex) {
        if let Some(since) = self.since.get_mut(page.get() as usize) {
            *since = None;
        }
    }
}

impl Course {
    #[inline(always)]
    pub(super) fn count(&mut self, what: Happened, around: Around<'_>) {
        let counts = &mut self.counts;
        match what {
            Happened::Faulted {
                retries,
                asked_again,
                ..
            } => {
                counts.faults += 1;
                counts.max_retries = counts.max_retries.max(retries);
                counts.max_asked_again = counts.max_asked_again.max(asked_again);
            }
            Happened::Queued { .. } => counts.asynchronous += 1,
            Happened::Waits { page, refused, .. } => {
                counts.synchronous += 1;
                let healthy = !around.setup.is_failing(page);
                counts.refused_healthy += u64::from(healthy && refused);
            }
            Happened::Halted(_) => counts.halts += 1,
            Happened::Ready { .. } => counts.readies += 1,
            Happened::Held(_) => counts.held += 1,
            Happened::Woken { task, vcpu } => self.scheduler.woken(vcpu, task),
            Happened::Settled { page, outcome } => match outcome {
                PageOutcome::Failed(_) => self.failed.note(page, self.agenda.now()),
                PageOutcome::Present => self.failed.forget(page),
                PageOutcome::Cancelled => {}
            },
            Happened::Ended {
                task,
                how,
                retries,
                met_failure,
                ..
            } => {
                match how {
                    Ended::Mapped => {
                        self.done += 1;
                        if around.guest.tasks[usize::from(task.get())].healthy {
                            self.measured.healthy_done += 1;
                            self.measured.healthy_last = self.agenda.now();
                        }
                    }
                    Ended::Told => self.measured.told += 1,
                    Ended::Killed => counts.killed += 1,
                }
                if met_failure {
                    self.measured.retries.add(retries);
                }
            }
            Happened::Reported {
                vcpu,
                fault,
                failure,
                task,
                access,
                right,
            } => {
                let page = fault.page.index();
                self.reported(page, failure, right);
                if around.setup.on_report == OnReport::Stop {
                    let report = fault.report(vcpu_id(vcpu), access, failure, PageSize::KIB_4);
                    self.report = report.map(|report| Reported {
                        report,
                        cause: source::text(failure.cause.kind, page),
                        task,
                        page,
                    });
                }
            }
            Happened::Unclaimed(_) => counts.unclaimed += 1,
            Happened::Died => counts.deaths += 1,
            Happened::Attached => {}
            Happened::WrongPage { .. } => counts.wrong_pages += 1,
        }
    }

    fn reported(&mut self, page: PageIndex, failure: Failure, right: bool) {
        self.counts.reports += 1;
        self.counts.max_attempts = self.counts.max_attempts.max(failure.attempts);
        self.counts.wrong_reports += u64::from(!right);
        let now = self.agenda.now();
        let took = now - self.failed.get(page).unwrap_or(now);
        self.measured.report_us.add(took.as_micros() as u64);
    }
}

impl<P: Policy> Sim<P> {
    /// Notes since when, and until when, the policy has a vCPU's asynchronous faults off.
    pub(super) fn measure_off(&mut self) {
        let policy = self.machine.faults.policy();
        let course = &mut self.machine.listener;
        for (v, clock) in course.clocks.iter_mut().enumerate() {
            match (clock.off_since, policy.is_off(vcpu_id(v))) {
                (None, true) => clock.off_since = Some(course.agenda.now()),
                (Some(since), false) => {
                    course.measured.off += course.agenda.now() - since;
                    clock.off_since = None;
                }
                (None, false) | (Some(_), true) => {}
            }
        }
    }

    pub(super) fn finish(self, outcome: Outcome) -> SimResult {
        let Machine {
            guest,
            listener: mut course,
            ..
        } = self.machine;
        let now = course.agenda.now();
        let since = |since: Option<Duration>| since.map_or(Duration::ZERO, |since| now - since);
        for clock in &course.clocks {
            course.measured.off += since(clock.off_since);
            course.counted += since(clock.counts_since);
        }
        for task in guest.tasks.iter().filter(|task| task.met_failure) {
            course.measured.retries.add(task.retries);
        }
        course.measured.healthy_all = guest.healthy_visits();
        SimResult {
            run: RunResult {
                outcome,
                report: course.report,
                stats: RunStats {
                    pages_done: course.done,
                    tasks_finished: guest.finished(),
                    tasks_killed: u16::try_from(course.measured.told).unwrap_or(u16::MAX),
                    // Pages have no content here.
                    wrong_sums: 0,
                    unchecked_sums: 0,
                    reports: course.counts.reports,
                    healed: course.counts.reports - u64::from(outcome == Outcome::Reported),
                    tokens_left: guest.tokens_left(),
                    progress: (course.counted.as_nanos() / COUNT.as_nanos()) as u64,
                    elapsed: now,
                    ..RunStats::default()
                },
            },
            counts: course.counts,
            measured: course.measured,
        }
    }
}
