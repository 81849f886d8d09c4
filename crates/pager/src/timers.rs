//! The timers of a residency machine, by the monotonic clock.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use surefault_core::residency::{Residency, Timer};

#[derive(Debug)]
struct Armed {
    due: Instant,
    timer: Timer,
}

impl PartialEq for Armed {
    fn eq(&self, other: &Armed) -> bool {
        self.due == other.due
    }
}

impl Eq for Armed {}

impl PartialOrd for Armed {
    fn partial_cmp(&self, other: &Armed) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Armed {
    /// The earliest is the greatest, so that it is on top of the heap.
    fn cmp(&self, other: &Armed) -> Ordering {
        other.due.cmp(&self.due)
    }
}

/// Armed timers, the earliest first.
///
/// The machine never disarms one; those that have become pointless are swept out when they are
/// many, so the queue stays as small as what is pending.
#[derive(Debug)]
pub(crate) struct Timers {
    heap: BinaryHeap<Armed>,
    sweep_at: usize,
}

const MIN_SWEEP: usize = 256;

impl Timers {
    pub(crate) fn new() -> Timers {
        Timers {
            heap: BinaryHeap::with_capacity(MIN_SWEEP),
            sweep_at: MIN_SWEEP,
        }
    }

    pub(crate) fn arm(&mut self, timer: Timer, delay: Duration, now: Instant) -> Instant {
        // A delay beyond the clock's range is never due; a year is as good.
        let due = now
            .checked_add(delay)
            .unwrap_or(now + Duration::from_secs(31_536_000));
        self.heap.push(Armed { due, timer });
        due
    }

    /// Forgets pointless timers, if there are many.
    pub(crate) fn sweep(&mut self, machine: &Residency) {
        if self.heap.len() >= self.sweep_at {
            self.heap.retain(|armed| machine.is_live(armed.timer));
            self.sweep_at = (self.heap.len() * 2).max(MIN_SWEEP);
        }
    }

    /// When the next one is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.heap.peek().map(|armed| armed.due)
    }

    /// The next one that is due by `now`.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        if self.next_due()? > now {
            return None;
        }
        self.heap.pop().map(|armed| armed.timer)
    }
}
