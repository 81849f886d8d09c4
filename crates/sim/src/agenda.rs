//! What happens when: simulated time, and an order for what happens at the same time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Events by time, and among those at one time by when they were put down.
#[derive(Clone, Debug)]
pub(crate) struct Agenda<E> {
    now: Duration,
    put_down: u64,
    heap: BinaryHeap<Reverse<Slot<E>>>,
}

#[derive(Clone, Debug)]
struct Slot<E> {
    at: Duration,
    order: u64,
    event: E,
}

impl<E> Slot<E> {
    fn key(&self) -> (Duration, u64) {
        (self.at, self.order)
    }
}

impl<E> PartialEq for Slot<E> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}
impl<E> Eq for Slot<E> {}
impl<E> PartialOrd for Slot<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<E> Ord for Slot<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl<E> Agenda<E> {
    pub(crate) fn new() -> Agenda<E> {
        Agenda {
            now: Duration::ZERO,
            put_down: 0,
            heap: BinaryHeap::new(),
        }
    }

    /// The time of the event that was taken last.
    pub(crate) fn now(&self) -> Duration {
        self.now
    }

    /// Puts `event` down for `delay` from now.
    pub(crate) fn after(&mut self, delay: Duration, event: E) {
        self.heap.push(Reverse(Slot {
            at: self.now.saturating_add(delay),
            order: self.put_down,
            event,
        }));
        self.put_down += 1;
    }

    /// Takes the next event, if it is due by `limit`; otherwise the time is `limit`.
    pub(crate) fn next(&mut self, limit: Duration) -> Option<E> {
        match self.heap.peek() {
            Some(Reverse(slot)) if slot.at <= limit => {}
            Some(_) | None => {
                self.now = limit;
                return None;
            }
        }
        let Reverse(slot) = self.heap.pop()?;
        self.now = slot.at;
        Some(slot.event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_then_by_order_and_not_past_the_limit() {
        let ms = Duration::from_millis;
        let mut agenda = Agenda::new();
        for (delay, event) in [(3, 'd'), (1, 'a'), (2, 'b'), (2, 'c'), (9, 'x')] {
            agenda.after(ms(delay), event);
        }
        let taken: String = std::iter::from_fn(|| agenda.next(ms(5))).collect();
        assert_eq!(taken, "abcd");
        assert_eq!(agenda.now(), ms(5));
    }
}
