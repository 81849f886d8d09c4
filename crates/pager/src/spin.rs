//! How long to look for the next event before going to sleep.
//!
//! Going to sleep and being woken costs more than serving a page, so that a short wait is better spent
//! looking. As with KVM's halt polling (`halt_poll_ns`), the time to look grows when waits turn out to
//! be short, and shrinks to nothing when they are long: who faults now and then finds a handler that
//! sleeps.

use std::time::Duration;

/// Never longer than this.
const LONGEST: Duration = Duration::from_micros(50);

/// The first time that is worth it.
const SHORTEST: Duration = Duration::from_micros(10);

/// The time to look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Spin(Duration);

impl Spin {
    /// How long to look now.
    pub(crate) fn budget(self) -> Duration {
        self.0
    }

    /// A wait, looking and sleeping together, has ended after `waited`.
    pub(crate) fn waited(&mut self, waited: Duration) {
        if waited <= self.0 {
            return;
        }
        self.0 = match waited <= LONGEST {
            true => (self.0 * 2).clamp(SHORTEST, LONGEST),
            false => self.0 / 2,
        };
        if self.0 < SHORTEST {
            self.0 = Duration::ZERO;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_waits_are_spent_looking_and_long_ones_asleep() {
        let mut spin = Spin::default();
        assert_eq!(spin.budget(), Duration::ZERO);
        for _ in 0..10 {
            spin.waited(Duration::from_micros(15));
        }
        assert_eq!(
            spin.budget(),
            Duration::from_micros(20),
            "as long as it takes"
        );
        for _ in 0..10 {
            spin.waited(Duration::from_micros(45));
        }
        assert_eq!(spin.budget(), LONGEST);
        for _ in 0..3 {
            spin.waited(Duration::from_millis(2));
        }
        assert_eq!(spin.budget(), Duration::ZERO);
    }
}
