//! Demands and prefetches: somebody wants a page, now or soon.

use super::entry::{Entry, Phase};
use super::settled::SettledState;
use super::{Effect, PageOutcome, Residency, Timer, UnknownPage, defective, pages_from};
use crate::PageId;

/// Whether there was room for a demand.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[must_use]
pub enum Admission {
    /// The demand will end with a `Settled`.
    Taken,
    /// As many pages are pending as may be: to be said again after the next `Settled`.
    Full,
}

impl Residency {
    /// Somebody waits for `page`: a fault was read, or an access to a failed page was caught.
    ///
    /// On a failed page the answer is immediate, unless the failure is older than its time to
    /// live.
    ///
    /// # Errors
    /// When there is no such page.
    pub fn handle_demand(&mut self, page: PageId) -> Result<Admission, UnknownPage> {
        let position = self.regions.position(page)?;
        let Err(at) = self.entries.find(page) else {
            self.join_pending(page);
            self.debug_check();
            return Ok(Admission::Taken);
        };
        match self.settled.get(position) {
            SettledState::Failed => self.demand_failed(page),
            SettledState::Absent => {
                let at = match self.has_room() {
                    true => at,
                    false if !self.make_room() => return Ok(Admission::Full),
                    // Somebody had to go, perhaps from before it.
                    false => self.entries.find(page).unwrap_or_else(|at| at),
                };
                let episode = self.insert_queued(at, page, true);
                self.timers
                    .push_back((Timer::Deadline { page, episode }, self.config.deadline));
            }
            // Present: the event was overtaken by the install, or the kernel has lost a page that
            // held nothing. Zeroes are put in place only where there is nothing.
            SettledState::Removed | SettledState::Present => {
                if !(self.has_room() || self.make_room()) {
                    return Ok(Admission::Full);
                }
                self.insert(page, Phase::Zeroing, true);
                self.begin_zero(page);
            }
        }
        self.debug_check();
        Ok(Admission::Taken)
    }

    /// The `count` pages from `first` on may soon be wanted. Takes those that are absent, as far as
    /// there is room; says how many it took.
    ///
    /// # Errors
    /// When there is no page `first`.
    pub fn handle_prefetch(&mut self, first: PageId, count: u32) -> Result<u32, UnknownPage> {
        let positions = self.regions.positions(first, count)?;
        let mut taken = 0;
        for (position, page) in positions.zip(pages_from(first)) {
            if !self.has_room() {
                break;
            }
            let absent = self.settled.get(position) == SettledState::Absent;
            if absent && let Err(at) = self.entries.find(page) {
                self.insert_queued(at, page, false);
                taken += 1;
            }
        }
        self.debug_check();
        Ok(taken)
    }

    /// Another demand for a page that is pending.
    fn join_pending(&mut self, page: PageId) {
        let entry = self.entries.get_mut(page).expect("the page is pending");
        let first = !core::mem::replace(&mut entry.demanded, true);
        let (phase, generation) = (entry.phase, entry.generation);
        if defective!(self, DoubleInstall) && phase == Phase::Installing {
            self.requeue(page);
        }
        if defective!(self, DeadlineRestarted) && !first && phase.waits_for_source() {
            let episode = self.draw_generation();
            self.entries
                .get_mut(page)
                .expect("the page is pending")
                .episode = episode;
            self.arm_deadline(page);
        }
        if !first || !phase.waits_for_source() {
            return;
        }
        self.arm_deadline(page);
        match phase {
            // It moves to the queue of those that are waited for.
            Phase::Queued => self.requeue(page),
            Phase::Fetching => {
                let timer = Timer::Patience { page, generation };
                if self
                    .fetches
                    .get(generation)
                    .is_some_and(|fetch| fetch.count > 1)
                {
                    self.timers.push_back((timer, self.config.range_patience));
                }
            }
            Phase::BackingOff | Phase::Installing | Phase::Zeroing => {}
            Phase::Marking { .. } | Phase::Unmarking { .. } => {}
        }
    }

    fn demand_failed(&mut self, page: PageId) {
        let record = *self.failures.get(page).expect("a failed page has a record");
        if record.expired {
            self.begin_unmark(page, true, false);
        } else {
            let outcome = PageOutcome::Failed(record.failure);
            self.effects.push_back(Effect::Settled { page, outcome });
        }
    }

    /// One more page may become pending.
    fn has_room(&self) -> bool {
        self.entries.len() < self.config.max_pending
    }

    /// Makes room for one more pending page by letting go of a prefetch: one that has not begun
    /// rather than one that has.
    fn make_room(&mut self) -> bool {
        let unwanted = |phase| {
            let matches = move |entry: &&Entry| !entry.demanded && entry.phase == phase;
            self.entries.iter().find(matches).map(|entry| entry.page)
        };
        let victim = unwanted(Phase::Queued).or_else(|| unwanted(Phase::Fetching));
        victim.is_some_and(|page| self.entries.remove(page).is_some())
    }
}
