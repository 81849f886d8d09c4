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
/// many, so the queue stays as small as what is pending. Most become so at once, with the page that
/// was there to be had: those never get into the queue, and nobody sleeps with a time limit because
/// of them.
#[derive(Debug)]
pub(crate) struct Timers {
    /// Those that nobody has looked at since they were armed.
    fresh: Vec<Armed>,
    heap: BinaryHeap<Armed>,
    sweep_at: usize,
}

const MIN_SWEEP: usize = 256;

impl Timers {
    pub(crate) fn new() -> Timers {
        Timers {
            fresh: Vec::with_capacity(MIN_SWEEP),
            heap: BinaryHeap::with_capacity(MIN_SWEEP),
            sweep_at: MIN_SWEEP,
        }
    }

    pub(crate) fn arm(&mut self, timer: Timer, delay: Duration, now: Instant) -> Instant {
        // A delay beyond the clock's range is never due; a year is as good.
        let due = now
            .checked_add(delay)
            .unwrap_or(now + Duration::from_secs(31_536_000));
        self.fresh.push(Armed { due, timer });
        due
    }

    /// Forgets pointless timers, if there are many.
    pub(crate) fn sweep(&mut self, machine: &Residency) {
        if self.fresh.len() >= MIN_SWEEP {
            self.look_at_fresh(machine);
        }
        if self.heap.len() >= self.sweep_at {
            self.heap.retain(|armed| machine.is_live(armed.timer));
            self.sweep_at = (self.heap.len() * 2).max(MIN_SWEEP);
        }
    }

    fn look_at_fresh(&mut self, machine: &Residency) {
        let live = |armed: &Armed| machine.is_live(armed.timer);
        self.heap.extend(self.fresh.drain(..).filter(live));
    }

    /// When the next one is due that could still change anything.
    pub(crate) fn next_due(&mut self, machine: &Residency) -> Option<Instant> {
        self.look_at_fresh(machine);
        self.heap.peek().map(|armed| armed.due)
    }

    /// The next one that is due by `now`, of those that were there at the last
    /// [`next_due`](Self::next_due).
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        if self.heap.peek()?.due > now {
            return None;
        }
        self.heap.pop().map(|armed| armed.timer)
    }
}

#[cfg(test)]
mod tests {
    use surefault_core::residency::{Admission, Effect, InstallResult, ResidencyConfig};
    use surefault_core::{PageCount, PageId};

    use super::*;

    /// Demands the first page, and arms what that arms.
    fn demand(machine: &mut Residency, timers: &mut Timers) -> Effect {
        let admission = machine.handle_demand(PageId::default());
        assert_eq!(admission, Ok(Admission::Taken));
        let effect = machine.poll_effect().expect("a fetch");
        while let Some((timer, delay)) = machine.poll_timer() {
            timers.arm(timer, delay, Instant::now());
        }
        effect
    }

    #[test]
    fn what_is_over_at_once_leaves_nothing() {
        let config = ResidencyConfig::default();
        let mut machine = Residency::new(config, &[PageCount::new(8)]).expect("a machine");
        let mut timers = Timers::new();
        let Effect::Fetch(range) = demand(&mut machine, &mut timers) else {
            panic!("a fetch is asked for");
        };
        machine.handle_fetched(range.generation, Ok(()));
        machine.handle_installed(range.generation, range.first, 1, InstallResult::Done);
        assert_eq!(timers.next_due(&machine), None);
    }

    #[test]
    fn what_is_pending_has_its_deadline() {
        let config = ResidencyConfig::default();
        let deadline = config.deadline;
        let mut machine = Residency::new(config, &[PageCount::new(8)]).expect("a machine");
        let mut timers = Timers::new();
        demand(&mut machine, &mut timers);
        let due = timers.next_due(&machine).expect("a deadline");
        assert_eq!(timers.pop_due(due - deadline / 2), None);
        assert!(matches!(timers.pop_due(due), Some(Timer::Deadline { .. })));
    }
}
