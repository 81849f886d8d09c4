//! Whether to look for the next event for a while, or to go to sleep at once.
//!
//! Being woken costs more than serving a page, so that a short wait may be better spent looking: if
//! there is a processor for whoever faults meanwhile. If there is none, looking keeps the very
//! processor busy that the next fault needs. Which of the two it is, nobody says; so both are tried
//! and timed, the better one is kept for a while, and the other is tried again now and then.
//!
//! Among events that are far apart, looking gains nothing, and the event loop sleeps.

use std::time::Duration;

/// How long to look, at most, before going to sleep after all.
const LONGEST_LOOK: Duration = Duration::from_micros(50);

/// A turn that took longer says nothing about the way of waiting: it counts as this long, and after
/// some of them in a row all is begun anew, asleep.
const LONGEST_TURN: Duration = Duration::from_micros(200);

/// Turns in which the other way is tried.
const TRIAL: u32 = 8;

/// Turns between trials, at first, and when the other way has lost again and again.
const FIRST_RUN: u32 = 32;
const LONGEST_RUN: u32 = 4096;

/// A way of waiting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Look,
    Sleep,
}

/// Turns in a row with one way of waiting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Run {
    way: Way,
    turns: u32,
    took: Duration,
}

/// Chooses the way of waiting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Spin {
    run: Run,
    /// The way that is better so far, what a turn took with it, and for how many turns it is kept.
    best: Way,
    mean: Option<Duration>,
    keep: u32,
    /// Long turns in a row.
    long: u32,
}

impl Run {
    fn new(way: Way) -> Run {
        Run {
            way,
            turns: 0,
            took: Duration::ZERO,
        }
    }

    fn mean(&self) -> Duration {
        self.took / self.turns.max(1)
    }
}

impl Spin {
    pub(crate) fn new() -> Spin {
        Spin {
            run: Run::new(Way::Sleep),
            best: Way::Sleep,
            mean: None,
            keep: FIRST_RUN,
            long: 0,
        }
    }

    /// How long to look now.
    pub(crate) fn budget(&self) -> Duration {
        match self.run.way {
            Way::Look => LONGEST_LOOK,
            Way::Sleep => Duration::ZERO,
        }
    }

    /// A turn has ended, with its wait: `took` since the last one.
    pub(crate) fn turned(&mut self, took: Duration) {
        self.long = match took < LONGEST_TURN {
            true => 0,
            false => self.long + 1,
        };
        let is_trial = self.run.way != self.best;
        if self.long >= TRIAL && !is_trial {
            *self = Spin::new();
            return;
        }
        self.run.turns += 1;
        self.run.took += took.min(LONGEST_TURN);
        if self.run.turns < if is_trial { TRIAL } else { self.keep } {
            return;
        }
        let mean = self.run.mean();
        let other = match self.best {
            Way::Look => Way::Sleep,
            Way::Sleep => Way::Look,
        };
        match (is_trial, self.mean) {
            // A tie is for sleeping: it leaves the processor to others.
            (true, Some(best)) if better(mean, best, other) => {
                (self.best, self.mean) = (other, Some(mean));
                self.keep = FIRST_RUN;
                self.run = Run::new(other);
            }
            (true, _) => {
                self.keep = (self.keep * 2).min(LONGEST_RUN);
                self.run = Run::new(self.best);
            }
            (false, _) => {
                self.mean = Some(mean);
                self.run = Run::new(other);
            }
        }
    }
}

/// Whether a turn of `way` with this mean is better than one with the mean of the other way.
fn better(mean: Duration, other: Duration, way: Way) -> bool {
    match way {
        Way::Look => mean < other - other / 8,
        Way::Sleep => mean < other + other / 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the turns of a day with these costs took, against the better way's.
    fn day(spin: &mut Spin, look: u64, sleep: u64) -> f64 {
        const TURNS: u32 = 100_000;
        let mut took = Duration::ZERO;
        for _ in 0..TURNS {
            let micros = match spin.budget().is_zero() {
                true => sleep,
                false => look,
            };
            took += Duration::from_micros(micros);
            spin.turned(Duration::from_micros(micros));
        }
        took.as_secs_f64() * 1e6 / f64::from(TURNS) / look.min(sleep) as f64
    }

    #[test]
    fn the_better_way_is_found_and_kept() {
        let mut spin = Spin::new();
        for (look, sleep) in [(5, 15), (60, 12), (8, 20), (2000, 100)] {
            let lost = day(&mut spin, look, sleep);
            assert!(lost < 1.2, "{look} and {sleep}: {lost}");
        }
    }

    #[test]
    fn who_waits_long_sleeps() {
        let mut spin = Spin::new();
        day(&mut spin, 5, 15);
        let mut looked = 0;
        for _ in 0..10_000 {
            looked += u32::from(!spin.budget().is_zero());
            spin.turned(Duration::from_millis(2));
        }
        assert!(looked <= TRIAL, "{looked}");
    }
}
