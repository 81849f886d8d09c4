//! Threads that have waited for a page for too long.
//!
//! `/proc` tells where a thread sleeps, and how often it has gone to sleep, but not since when. So
//! it is looked at again and again: the same sleep in the same place is the same wait, and has
//! lasted at least since it was seen first.

use std::collections::HashMap;
use std::time::Duration;

use crate::ids::{Moment, Pid, Tid};
use crate::proc::thread::Blocked;

/// A thread, by its process.
pub type ThreadKey = (Pid, Tid);

/// A thread that waits for a page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// The thread.
    pub key: ThreadKey,
    /// Its name.
    pub comm: String,
    /// What it waits for.
    pub blocked: Blocked,
}

/// The waits that have been seen.
#[derive(Debug, Default)]
pub struct Waits {
    seen: HashMap<ThreadKey, (Blocked, Moment)>,
}

impl Waits {
    /// Takes in all threads that were found waiting at `now`, and gives those that have waited for
    /// `limit` or longer, with the moment since when at the latest.
    pub fn observe(
        &mut self,
        now: Moment,
        waiting: Vec<Waiting>,
        limit: Duration,
    ) -> Vec<(Waiting, Moment)> {
        let mut seen = HashMap::with_capacity(waiting.len());
        let mut frozen = Vec::new();
        for thread in waiting {
            let since = match self.seen.remove(&thread.key) {
                Some((blocked, since)) if blocked.is_same_sleep(&thread.blocked) => since,
                Some(_) | None => now,
            };
            seen.insert(thread.key, (thread.blocked.clone(), since));
            if now.since(since) >= limit {
                frozen.push((thread, since));
            }
        }
        self.seen = seen;
        frozen.sort_by_key(|(thread, _)| thread.key);
        frozen
    }
}

impl Blocked {
    fn is_same_sleep(&self, other: &Blocked) -> bool {
        self.wait == other.wait && self.switches == other.switches
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proc::thread::Wait;

    const LIMIT: Duration = Duration::from_secs(5);

    fn waiting(tid: u32, switches: u64) -> Waiting {
        Waiting {
            key: (Pid::new(1), Tid::new(tid)),
            comm: "vcpu0".into(),
            blocked: Blocked {
                wait: Wait::Userfault,
                function: "handle_userfault".into(),
                switches,
            },
        }
    }

    fn second(n: u64) -> Moment {
        Moment::from_nanos(n * 1_000_000_000)
    }

    #[test]
    fn the_same_sleep_for_long_is_frozen() {
        let mut waits = Waits::default();
        for n in 10..15 {
            assert!(
                waits
                    .observe(second(n), vec![waiting(2, 7)], LIMIT)
                    .is_empty()
            );
        }
        let frozen = waits.observe(second(15), vec![waiting(2, 7)], LIMIT);
        assert_eq!(frozen, [(waiting(2, 7), second(10))]);
    }

    #[test]
    fn many_short_waits_are_not() {
        let mut waits = Waits::default();
        for n in 0..100 {
            assert!(
                waits
                    .observe(second(n), vec![waiting(2, n)], LIMIT)
                    .is_empty()
            );
        }
    }

    #[test]
    fn a_thread_that_was_seen_running_starts_anew() {
        let mut waits = Waits::default();
        waits.observe(second(0), vec![waiting(2, 7)], LIMIT);
        waits.observe(second(4), vec![], LIMIT);
        assert!(
            waits
                .observe(second(8), vec![waiting(2, 7)], LIMIT)
                .is_empty()
        );
    }
}
