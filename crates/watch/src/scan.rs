//! Looking through `/proc` for threads that wait for a page, at a bounded price.
//!
//! Which processes matter (machines, holders of userfaultfds) is found out seldom, since it takes
//! a look at every descriptor of the host; what their threads do, often. Both take as long as they
//! take: the next pass starts when a hundred times the processor time of the last has gone by, but
//! not later than after [`AT_LEAST_EVERY`].

use std::collections::BTreeSet;
use std::time::Duration;

use crate::frozen::{Waiting, Waits};
use crate::ids::{Moment, Pid, Tid};
use crate::proc::{self, fds, thread};

/// Processes are looked for at most this often.
const PROCESSES_EVERY: Duration = Duration::from_secs(5);
/// Threads are looked at at most this often.
const THREADS_EVERY: Duration = Duration::from_secs(1);
/// A pass may take one part in this many of a processor's time, …
const SHARE: u32 = 100;
/// … but is never put off for longer than this.
const AT_LEAST_EVERY: Duration = Duration::from_secs(10);

/// A recurring pass.
#[derive(Debug)]
struct Pass {
    every: Duration,
    last: Option<(Moment, Duration)>,
}

impl Pass {
    fn new(every: Duration) -> Pass {
        Pass { every, last: None }
    }

    fn is_due(&self, now: Moment) -> bool {
        self.last.is_none_or(|(start, took)| {
            let pause = self.every.max((took * SHARE).min(AT_LEAST_EVERY));
            now.since(start) >= pause
        })
    }

    fn run<T>(&mut self, now: Moment, pass: impl FnOnce() -> T) -> T {
        let before = processor_time();
        let result = pass();
        self.last = Some((now, processor_time().saturating_sub(before)));
        result
    }
}

/// What this thread has used so far.
fn processor_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(used.tv_sec as u64, used.tv_nsec as u32)
}

/// Looks for threads that wait for a page.
#[derive(Debug)]
pub(crate) struct Scan {
    only: Option<Pid>,
    processes: Pass,
    threads: Pass,
    of_interest: BTreeSet<Pid>,
    machines: usize,
    waits: Waits,
}

/// A kernel thread that has waited for a page on behalf of some machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FrozenWorker {
    pub(crate) waiting: Waiting,
    pub(crate) since: Moment,
}

/// What a pass has found.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Found {
    pub(crate) threads: Vec<(Waiting, Moment)>,
    pub(crate) workers: Vec<FrozenWorker>,
}

impl Scan {
    pub(crate) fn new(only: Option<Pid>) -> Scan {
        Scan {
            only,
            processes: Pass::new(PROCESSES_EVERY),
            threads: Pass::new(THREADS_EVERY),
            of_interest: only.into_iter().collect(),
            machines: 0,
            waits: Waits::default(),
        }
    }

    /// A process is a machine: the trace says so.
    pub(crate) fn add(&mut self, pid: Pid) {
        if self.only.is_none() {
            self.of_interest.insert(pid);
        }
    }

    /// How many processes were machines when we last looked.
    pub(crate) fn machines(&self) -> usize {
        self.machines
    }

    /// The processes whose threads are looked at.
    pub(crate) fn of_interest(&self) -> &BTreeSet<Pid> {
        &self.of_interest
    }

    /// Threads that have waited for `limit`; `None` when it is too early for another pass.
    pub(crate) fn look(&mut self, now: Moment, limit: Duration) -> Option<Found> {
        if self.processes.is_due(now) {
            let only = self.only;
            let (of_interest, machines) = self.processes.run(now, || processes_of_interest(only));
            (self.of_interest, self.machines) = (of_interest, machines);
        }
        if !self.threads.is_due(now) {
            return None;
        }
        let of_interest = &self.of_interest;
        let waiting = self.threads.run(now, || {
            let mut waiting = waiting_threads(of_interest);
            if !of_interest.is_empty() {
                waiting.extend(waiting_workers());
            }
            waiting
        });
        let mut found = Found::default();
        for (waiting, since) in self.waits.observe(now, waiting, limit) {
            match of_interest.contains(&waiting.key.0) {
                true => found.threads.push((waiting, since)),
                false => found.workers.push(FrozenWorker { waiting, since }),
            }
        }
        Some(found)
    }
}

fn processes_of_interest(only: Option<Pid>) -> (BTreeSet<Pid>, usize) {
    let candidates = match only {
        Some(pid) => vec![pid],
        None => proc::processes().unwrap_or_default(),
    };
    let mut machines = 0;
    let of_interest = candidates
        .into_iter()
        .filter(|pid| {
            let descriptors = fds::descriptors(*pid).unwrap_or_default();
            machines += usize::from(descriptors.machines > 0);
            descriptors.is_of_interest() || only.is_some()
        })
        .collect();
    (of_interest, machines)
}

fn waiting_threads(processes: &BTreeSet<Pid>) -> Vec<Waiting> {
    let mut waiting = Vec::new();
    for pid in processes {
        for tid in proc::threads(*pid) {
            if let Some(stat) = thread::stat(*pid, tid)
                && let Some(blocked) = thread::blocked(*pid, tid, stat.state)
            {
                waiting.push(Waiting {
                    key: (*pid, tid),
                    comm: stat.comm,
                    blocked,
                });
            }
        }
    }
    waiting
}

/// Kernel threads that get pages for KVM, and wait.
fn waiting_workers() -> Vec<Waiting> {
    let mut waiting = Vec::new();
    for pid in proc::processes().unwrap_or_default() {
        let tid = Tid::new(pid.get());
        if let Some(stat) = thread::stat(pid, tid)
            && stat.is_kernel
            && let Some(blocked) = thread::blocked(pid, tid, stat.state)
            && thread::works_for_kvm(pid, tid)
        {
            waiting.push(Waiting {
                key: (pid, tid),
                comm: stat.comm,
                blocked,
            });
        }
    }
    waiting
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_pass_is_run_seldomer() {
        let second = |n: u64| Moment::from_nanos(n * 1_000_000_000);
        let mut pass = Pass::new(Duration::from_secs(1));
        assert!(pass.is_due(second(0)));
        pass.last = Some((second(10), Duration::from_millis(1)));
        assert!(!pass.is_due(Moment::from_nanos(10_900_000_000)));
        assert!(pass.is_due(second(11)));
        pass.last = Some((second(10), Duration::from_millis(50)));
        assert!(!pass.is_due(second(14)));
        assert!(pass.is_due(second(15)));
        pass.last = Some((second(10), Duration::from_secs(2)));
        assert!(pass.is_due(second(20)));
    }
}
