//! Changes of the world: pages are healed, removed, replaced, and time passes.

use core::ops::Range;

use super::entry::Phase;
use super::fetches::FetchRecord;
use super::settled::SettledState;
use super::{Effect, Generation, PageOutcome, Residency, Timer, UnknownPage, defective};
use crate::{Cause, CauseKind, PageId};

impl Residency {
    /// The source of the `count` pages from `first` on was repaired: those that have failed become
    /// absent, with a fresh budget. Says how many. Those that are being tried begin anew: what an
    /// attempt says that began before the repair says nothing about the page after it.
    ///
    /// # Errors
    /// When there is no page `first`.
    pub fn handle_heal(&mut self, first: PageId, count: u32) -> Result<u32, UnknownPage> {
        let Some(last) = self.last_of(first, count)? else {
            return Ok(0);
        };
        let mut healed = 0;
        for page in self.failures.take_between(first, last) {
            self.begin_unmark(page, false, false);
            healed += 1;
        }
        for page in self.pending_between(first, last) {
            let entry = self.entries.get_mut(page).expect("the page is pending");
            match &mut entry.phase {
                Phase::Marking { healed: late, .. } => {
                    healed += u32::from(!*late);
                    *late = true;
                }
                Phase::Queued => entry.attempts = 0,
                Phase::Fetching | Phase::BackingOff => {
                    entry.attempts = 0;
                    self.requeue(page);
                }
                Phase::Installing | Phase::Zeroing | Phase::Unmarking { .. } => {}
            }
        }
        self.debug_check();
        Ok(healed)
    }

    /// The guest has given the `count` pages from `first` on back: they read as zeros from now on,
    /// and whatever is under way for them is out of date.
    ///
    /// # Errors
    /// When there is no page `first`.
    pub fn handle_removed(&mut self, first: PageId, count: u32) -> Result<(), UnknownPage> {
        let positions = self.regions.positions(first, count)?;
        let Some(last) = last_in(first, &positions) else {
            return Ok(());
        };
        for page in self.pending_between(first, last) {
            self.remove_pending(page);
        }
        for page in self.failures.take_between(first, last) {
            self.begin_unmark(page, false, true);
        }
        self.settled.fill(positions, SettledState::Removed);
        self.debug_check();
        Ok(())
    }

    /// The memory behind the `count` pages from `first` on was taken away or replaced (a slot
    /// change, a reset, the VM's end): they are absent, and demands for them end as cancelled.
    ///
    /// # Errors
    /// When there is no page `first`.
    pub fn handle_cancelled(&mut self, first: PageId, count: u32) -> Result<(), UnknownPage> {
        let positions = self.regions.positions(first, count)?;
        let Some(last) = last_in(first, &positions) else {
            return Ok(());
        };
        for page in self.pending_between(first, last) {
            if self
                .entries
                .remove(page)
                .is_some_and(|entry| entry.demanded)
            {
                self.effects.push_back(Effect::Settled {
                    page,
                    outcome: PageOutcome::Cancelled,
                });
            }
        }
        self.failures.take_between(first, last);
        self.settled.fill(positions, SettledState::Absent);
        self.debug_check();
        Ok(())
    }

    /// A timer that `poll_timer` gave has fired.
    pub fn handle_timer(&mut self, timer: Timer) {
        match timer {
            Timer::Deadline { page, episode } => self.deadline_passed(page, episode),
            Timer::Patience { page, generation } => {
                if self.is_bound(page, generation, Phase::Fetching) {
                    self.entries.get_mut(page).expect("it is bound").alone = true;
                    self.requeue(page);
                }
            }
            Timer::Retry { page, generation } => {
                if self.is_bound(page, generation, Phase::BackingOff) {
                    self.requeue(page);
                }
            }
            Timer::FailureTtl { page, generation } => {
                if let Some(record) = self.failures.get_mut(page) {
                    record.expired |= record.generation == generation;
                }
            }
        }
        self.debug_check();
    }

    fn deadline_passed(&mut self, page: PageId, episode: Generation) {
        let Some(entry) = self.entries.get_mut(page) else {
            return;
        };
        if entry.episode != episode || !entry.demanded || !entry.phase.waits_for_source() {
            return;
        }
        let cause = Cause {
            kind: CauseKind::Deadline,
            id: entry.last_error,
        };
        let alone = |fetch: &FetchRecord| fetch.count == 1;
        if entry.phase == Phase::Fetching && self.fetches.get(entry.generation).is_some_and(alone) {
            entry.attempts += 1;
        }
        self.give_up(page, cause);
    }

    /// The guest has removed a pending page.
    fn remove_pending(&mut self, page: PageId) {
        if defective!(self, LateCompletionAfterRemoval) {
            return;
        }
        let entry = self.entries.get_mut(page).expect("the page is pending");
        match &mut entry.phase {
            Phase::Unmarking { removed } => *removed = true,
            Phase::Marking { .. } => {
                entry.phase = Phase::Unmarking { removed: true };
                let generation = self.rebind(page);
                self.effects.push_back(Effect::Unmark { generation, page });
            }
            Phase::Queued | Phase::Fetching | Phase::BackingOff => self.zero_or_let_go(page),
            Phase::Installing | Phase::Zeroing => self.zero_or_let_go(page),
        }
    }

    fn zero_or_let_go(&mut self, page: PageId) {
        if self.entries.get(page).is_some_and(|entry| entry.demanded) {
            self.begin_zero(page);
        } else {
            self.entries.remove(page);
        }
    }

    /// The last of the `count` pages from `first` on that its region has.
    pub(super) fn last_of(&self, first: PageId, count: u32) -> Result<Option<PageId>, UnknownPage> {
        Ok(last_in(first, &self.regions.positions(first, count)?))
    }

    /// The pending pages between two, in order. Steps from one to the next, so that they may change
    /// meanwhile.
    pub(super) fn pending_between(&self, first: PageId, last: PageId) -> Vec<PageId> {
        self.entries.pages_between(first, last).collect()
    }
}

/// The last of the pages from `first` on that have these positions.
fn last_in(first: PageId, positions: &Range<u64>) -> Option<PageId> {
    let count = (positions.end - positions.start) as u32;
    count.checked_sub(1).and_then(|n| first.checked_add(n))
}
