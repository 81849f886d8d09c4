//! Threads that read the store where that may take long.
//!
//! A thread is started when a read is due and none is idle; one that has finished a read does what
//! comes of it, and of further reads the last one itself. The machine limits the reads that are
//! outstanding, so that a store that swallows threads swallows a bounded number of them, and every
//! read that the machine asks for finds a thread.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use surefault_core::residency::FetchRange;

use crate::shared::{Hands, Shared};

/// A thread that has had nothing to do for so long ends.
const IDLE: Duration = Duration::from_secs(5);

pub(crate) struct Pool {
    state: Mutex<PoolState>,
    work: Condvar,
}

#[derive(Default)]
struct PoolState {
    jobs: VecDeque<FetchRange>,
    idle: usize,
    threads: Vec<JoinHandle<()>>,
    stopping: bool,
}

impl Pool {
    pub(crate) fn new() -> Pool {
        Pool {
            state: Mutex::default(),
            work: Condvar::new(),
        }
    }

    /// Has a thread read `range`.
    ///
    /// A pool that stops takes reads and forgets them.
    ///
    /// # Errors
    /// When no thread is idle and none can be started.
    pub(crate) fn submit(&self, shared: &Arc<Shared>, range: FetchRange) -> io::Result<()> {
        let mut state = self.state();
        if state.stopping {
            return Ok(());
        }
        if state.idle <= state.jobs.len() {
            // Those that have ended by themselves.
            state.threads.retain(|thread| !thread.is_finished());
            let shared = Arc::clone(shared);
            let name = format!("fetch-{}", state.threads.len());
            let body = move || shared.tell_of_panic(|| run(&shared));
            state
                .threads
                .push(std::thread::Builder::new().name(name).spawn(body)?);
        }
        state.jobs.push_back(range);
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// Lets the threads end, and waits for those that do within `patience`. Says how many do not:
    /// they are inside the store, and end when it lets go of them. The one that calls this, if one does,
    /// ends when it comes back.
    pub(crate) fn stop(&self, patience: Duration) -> usize {
        let mut state = self.state();
        state.stopping = true;
        state.jobs.clear();
        let threads = core::mem::take(&mut state.threads);
        drop(state);
        self.work.notify_all();
        let until = Instant::now() + patience;
        let mut stuck = 0;
        let own = std::thread::current().id();
        for thread in threads.into_iter().filter(|t| t.thread().id() != own) {
            while !thread.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_micros(200));
            }
            if thread.is_finished() {
                // A panic in it has been told by the panic hook.
                let _ = thread.join();
            } else {
                stuck += 1;
            }
        }
        stuck
    }

    /// The next read to do, `kept` if there is one; `None` when the pool stops, or there has been
    /// nothing to do for long.
    fn next(&self, kept: Option<FetchRange>) -> Option<FetchRange> {
        let mut state = self.state();
        loop {
            if state.stopping {
                return None;
            }
            if let Some(job) = kept.or_else(|| state.jobs.pop_front()) {
                return Some(job);
            }
            state.idle += 1;
            let woken = self.work.wait_timeout(state, IDLE);
            let timeout;
            (state, timeout) = woken.unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
            if timeout.timed_out() && state.jobs.is_empty() {
                return None;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn run(shared: &Arc<Shared>) {
    let mut hands = Hands {
        may_wait: true,
        ..Hands::default()
    };
    while let Some(range) = shared.pool.next(hands.kept.take()) {
        shared.fetch_blocking(&mut hands, range);
        while hands.kept.is_none() && shared.prefetch_more(&mut hands) {
            shared.work_off(&mut hands);
        }
    }
}
