//! Trying again while the kernel says `EAGAIN`.
//!
//! Nothing can be installed while a removal is under way: from the call of `madvise` until its event was
//! read *and* the thread that raised it has run again. Who removes page after page, as a balloon does,
//! leaves a few microseconds between one removal and the next. Somebody who sleeps never meets them, nor
//! does somebody who keeps time with the balloon, trying and reading in turn: faults would wait until the
//! balloon rests. So one thread at a time looks for them without a pause, and out of step.

use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use crate::shared::Shared;

/// How long is looked, between two pauses: a thread of another processor is woken in less.
const LOOK: Duration = Duration::from_micros(200);
/// Between two tries there are from nothing to so many microseconds,
const STEPS: u32 = 5;
/// each time so many more.
const STEP: u32 = 2;
/// The first pause, doubled each time while no event comes,
const FIRST_PAUSE: Duration = Duration::from_micros(20);
/// up to this.
const LONGEST_PAUSE: Duration = Duration::from_millis(5);

/// Held by the thread that looks.
#[derive(Default)]
pub(crate) struct Lookout(Mutex<()>);

/// How an operation is tried again.
#[derive(Default)]
pub(crate) struct Patience<'s> {
    until: Option<Instant>,
    pause: Duration,
    step: u32,
    looks: Option<(Instant, MutexGuard<'s, ()>)>,
}

impl<'s> Patience<'s> {
    /// To be called before another try, with how many events were read since the last; false when that
    /// has been going on for the whole deadline.
    pub(crate) fn wait(&mut self, shared: &'s Shared, events: usize) -> bool {
        let now = Instant::now();
        let until = *self.until.get_or_insert_with(|| {
            let deadline = shared.machine().residency.config().deadline;
            now + deadline
        });
        if now >= until {
            return false;
        }
        if events > 0 {
            self.pause = FIRST_PAUSE;
        }
        if self.looks.is_none() {
            self.looks = shared.lookout.enter().map(|lookout| (now + LOOK, lookout));
        }
        match self.looks {
            Some((until, _)) if now < until => self.step(now),
            Some(_) | None => self.sleep(),
        }
        true
    }

    fn step(&mut self, now: Instant) {
        self.step = (self.step + STEP) % STEPS;
        let until = now + Duration::from_micros(self.step.into());
        while Instant::now() < until {
            std::hint::spin_loop();
        }
    }

    fn sleep(&mut self) {
        self.looks = None;
        std::thread::sleep(self.pause);
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
    }
}

impl Lookout {
    /// Waits until nobody looks, or for as long as one look takes. Who looks reads the events, too, and the
    /// thread that raises them may need the processor that another reader would keep busy.
    pub(crate) fn pass(&self) {
        let begun = Instant::now();
        while self.enter().is_none() && begun.elapsed() < LOOK {
            std::thread::sleep(FIRST_PAUSE);
        }
    }

    /// `None` while another thread looks.
    fn enter(&self) -> Option<MutexGuard<'_, ()>> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(guard)) => Some(PoisonError::into_inner(guard)),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}
