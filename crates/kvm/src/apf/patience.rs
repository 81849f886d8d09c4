//! When a guest is worth telling that a page is not there, and a blocked thread worth a kick.
//!
//! A round trip through the guest's handlers costs a vCPU more than a page that is about to arrive:
//! the kick, two entries, the interrupt. So a thread is given `wait` before it is kicked out of its
//! fault, or, where it was refused the page, before its guest is told. That alone would idle the vCPU
//! for `wait` at each fault of a slow source. Therefore nobody waits where the last pages took at
//! least `slow` (an average that forgets, an eighth a page). A page that can be had without waiting is
//! there before anybody is kicked or told at all.

use std::time::Duration;

/// The rule, and what it has seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// How long a thread waits while pages come quickly.
    pub wait: Duration,
    /// Pages that take this long on average are not waited for.
    pub slow: Duration,
    /// From the demand to the end, on average; `None` before the first.
    usual: Option<Duration>,
}

impl Default for Patience {
    /// What a round trip costs where it was measured (docs/performance.md).
    fn default() -> Patience {
        Patience::new(Duration::from_micros(100), Duration::from_micros(180))
    }
}

impl Patience {
    /// A rule that has seen nothing.
    pub const fn new(wait: Duration, slow: Duration) -> Patience {
        Patience {
            wait,
            slow,
            usual: None,
        }
    }

    /// Everybody is kicked or told at once.
    pub const NONE: Patience = Patience::new(Duration::ZERO, Duration::ZERO);

    /// A page took this long.
    pub(super) fn took(&mut self, latency: Duration) {
        self.usual = Some(match self.usual {
            None => latency,
            Some(usual) => (usual * 7 + latency) / 8,
        });
    }

    /// How long to wait before a kick, or before the guest is told, now.
    pub(super) fn before_a_kick(&self) -> Duration {
        match self.usual {
            Some(usual) if usual >= self.slow => Duration::ZERO,
            Some(_) | None => self.wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_pages_are_not_waited_for_and_quick_ones_are() {
        let mut patience = Patience::default();
        assert_eq!(patience.before_a_kick(), patience.wait);
        let slow = Duration::from_millis(1);
        patience.took(slow);
        assert_eq!(patience.before_a_kick(), Duration::ZERO);
        // It takes a few quick ones to change its mind.
        let quick = Duration::from_micros(30);
        let needed = (1..).find(|_| {
            patience.took(quick);
            patience.before_a_kick() > Duration::ZERO
        });
        assert_eq!(needed, Some(14));
        assert_eq!(Patience::NONE.before_a_kick(), Duration::ZERO);
    }
}
