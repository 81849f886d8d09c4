//! What happens when: simulated time, and an order for what happens at the same time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

/// When something happens: nanoseconds above, and below them a number that tells apart what happens at
/// one time. One word, for they are compared all the time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct When(u128);

impl When {
    /// Later than anything.
    const NEVER: When = When(u128::MAX);

    fn new(nanos: u64, number: u64) -> When {
        When(u128::from(nanos) << 64 | u128::from(number))
    }

    fn nanos(self) -> u64 {
        (self.0 >> 64) as u64
    }
}

/// 584 years at most: nothing happens after that.
fn nanos(time: Duration) -> u64 {
    let seconds = time.as_secs().saturating_mul(1_000_000_000);
    seconds.saturating_add(u64::from(time.subsec_nanos()))
}

/// Events by time, and among those at one time by when they were put down.
///
/// Two kinds of them have places of their own, because there are many: each vCPU's next move, of
/// which a newer one takes the place of an older; and deadlines, which all take the same time and so
/// come in the order in which they were put down.
#[derive(Clone, Debug)]
pub(crate) struct Agenda<E, D> {
    now: u64,
    put_down: u64,
    moves: Vec<When>,
    deadlines: VecDeque<(When, D)>,
    heap: BinaryHeap<Reverse<Slot<E>>>,
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next<E, D> {
    /// This vCPU's move.
    Move(usize),
    /// A deadline.
    Deadline(D),
    /// Anything else.
    Event(E),
}

#[derive(Clone, Debug)]
struct Slot<E> {
    when: When,
    event: E,
}

impl<E> PartialEq for Slot<E> {
    fn eq(&self, other: &Self) -> bool {
        self.when == other.when
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
        self.when.cmp(&other.when)
    }
}

impl<E, D: Copy> Agenda<E, D> {
    pub(crate) fn new(vcpus: usize) -> Agenda<E, D> {
        Agenda {
            now: 0,
            put_down: 0,
            moves: vec![When::NEVER; vcpus],
            deadlines: VecDeque::new(),
            heap: BinaryHeap::new(),
        }
    }

    /// The time of the event that was taken last.
    pub(crate) fn now(&self) -> Duration {
        Duration::from_nanos(self.now)
    }

    fn when(&mut self, delay: Duration) -> When {
        self.put_down += 1;
        When::new(self.now.saturating_add(nanos(delay)), self.put_down)
    }

    /// Puts `event` down for `delay` from now.
    pub(crate) fn after(&mut self, delay: Duration, event: E) {
        let when = self.when(delay);
        self.heap.push(Reverse(Slot { when, event }));
    }

    /// Puts a vCPU's next move down, in place of any other.
    pub(crate) fn move_after(&mut self, delay: Duration, v: usize) {
        self.moves[v] = self.when(delay);
    }

    /// Puts a deadline down. All of them take the same time; those at the front that `is_live` does
    /// not hold for are forgotten.
    pub(crate) fn deadline_after(
        &mut self,
        delay: Duration,
        deadline: D,
        is_live: impl Fn(D) -> bool,
    ) {
        while self
            .deadlines
            .front()
            .is_some_and(|&(_, deadline)| !is_live(deadline))
        {
            self.deadlines.pop_front();
        }
        let when = self.when(delay);
        debug_assert!(self.deadlines.back().is_none_or(|&(last, _)| last < when));
        self.deadlines.push_back((when, deadline));
    }

    /// Strikes out all deadlines, and the events that `is_gone` holds for.
    pub(crate) fn forget(&mut self, is_gone: impl Fn(&E) -> bool) {
        self.deadlines.clear();
        self.heap.retain(|Reverse(slot)| !is_gone(&slot.event));
    }

    /// Takes the next event, if it is due by `limit`; otherwise the time is `limit`.
    #[inline]
    pub(crate) fn next(&mut self, limit: Duration) -> Option<Next<E, D>> {
        let limit = nanos(limit);
        let (mut moves, mut mover) = (When::NEVER, 0);
        for (v, &when) in self.moves.iter().enumerate() {
            if when < moves {
                (moves, mover) = (when, v);
            }
        }
        let front = self.deadlines.front();
        let deadline = front.map_or(When::NEVER, |&(when, _)| when);
        let top = self.heap.peek();
        let event = top.map_or(When::NEVER, |Reverse(slot)| slot.when);
        let when = moves.min(deadline).min(event);
        if when.nanos() > limit || when == When::NEVER {
            self.now = limit;
            return None;
        }
        self.now = when.nanos();
        if when == moves {
            self.moves[mover] = When::NEVER;
            return Some(Next::Move(mover));
        }
        if when == event {
            let Reverse(slot) = self.heap.pop()?;
            return Some(Next::Event(slot.event));
        }
        let (_, deadline) = self.deadlines.pop_front()?;
        Some(Next::Deadline(deadline))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn taken(agenda: &mut Agenda<char, char>, limit: Duration) -> String {
        std::iter::from_fn(|| agenda.next(limit))
            .map(|next| match next {
                Next::Event(name) | Next::Deadline(name) => name,
                Next::Move(v) => char::from(b'0' + v as u8),
            })
            .collect()
    }

    #[test]
    fn events_come_by_time_then_by_order_and_not_past_the_limit() {
        let mut agenda = Agenda::new(2);
        for (delay, event) in [(3, 'd'), (1, 'a'), (2, 'b'), (2, 'c'), (9, 'x')] {
            agenda.after(MS(delay), event);
        }
        agenda.move_after(MS(1), 1);
        agenda.move_after(MS(2), 0);
        agenda.deadline_after(MS(2), 'D', |_| true);
        agenda.deadline_after(MS(4), 'E', |_| true);
        assert_eq!(taken(&mut agenda, MS(5)), "a1bc0DdE");
        assert_eq!(agenda.now(), MS(5));
    }

    #[test]
    fn a_newer_move_takes_the_place_of_an_older_and_dead_deadlines_go() {
        let mut agenda = Agenda::new(1);
        agenda.move_after(MS(1), 0);
        agenda.move_after(MS(3), 0);
        agenda.deadline_after(MS(4), 'a', |_| true);
        agenda.deadline_after(MS(4), 'b', |name| name != 'a');
        agenda.after(MS(2), 'e');
        assert_eq!(taken(&mut agenda, MS(9)), "e0b");
        assert!(agenda.deadlines.is_empty());
    }
}
