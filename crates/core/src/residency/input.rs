//! Inputs: what the driver tells the machine.

use super::entry::{Entry, Phase};
use super::fetches::FetchRecord;
use super::settled::SettledState;
use super::{
    Effect, Fault, Generation, InstallResult, Marked, PageOutcome, Residency, Timer, UnknownPage,
    defective,
};
use crate::{Cause, CauseKind, Failure, PageId, Persistence};

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
        if self.entries.get(page).is_some() {
            self.join_pending(page);
            self.debug_check();
            return Ok(Admission::Taken);
        }
        match self.settled.get(position) {
            SettledState::Failed => self.demand_failed(page),
            SettledState::Absent => {
                if !self.make_room() {
                    return Ok(Admission::Full);
                }
                let episode = self.insert_queued(page, true);
                self.timers
                    .push_back((Timer::Deadline { page, episode }, self.config.deadline));
            }
            // Present: the event was overtaken by the install, or the kernel has lost a page that
            // held nothing. Zeroes are put in place only where there is nothing.
            SettledState::Removed | SettledState::Present => {
                if !self.make_room() {
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
            if self.entries.len() >= self.config.max_pending {
                break;
            }
            let absent = self.settled.get(position) == SettledState::Absent;
            if absent && self.entries.get(page).is_none() {
                self.insert_queued(page, false);
                taken += 1;
            }
        }
        self.debug_check();
        Ok(taken)
    }

    /// A fetch has come back. Of pages that are no longer bound to it nothing is kept.
    pub fn handle_fetched(&mut self, generation: Generation, result: Result<(), Fault>) {
        let Some(fetch) = self.fetches.finish(generation) else {
            return;
        };
        match result {
            Ok(()) => self.install_fetched(fetch),
            Err(fault) if fetch.count == 1 => {
                if self.is_bound(fetch.first, generation, Phase::Fetching) {
                    self.attempt_failed(fetch.first, fault);
                }
            }
            Err(fault) => self.range_failed(fetch, fault),
        }
        self.debug_check();
    }

    /// An `Install` was carried out as far as it was allowed.
    pub fn handle_installed(
        &mut self,
        generation: Generation,
        first: PageId,
        count: u32,
        result: InstallResult,
    ) {
        for (n, page) in (0..count).zip(pages_from(first)) {
            if !self.is_bound(page, generation, Phase::Installing) {
                continue;
            }
            match result {
                InstallResult::Failed { installed, cause } if n >= installed => {
                    self.give_up(page, cause);
                }
                InstallResult::Done | InstallResult::Failed { .. } => self.settle_present(page),
            }
        }
        self.debug_check();
    }

    /// A `Zero` was carried out, or refused by the kernel with a cause. A page that was already
    /// there counts as carried out.
    pub fn handle_zeroed(
        &mut self,
        generation: Generation,
        page: PageId,
        result: Result<(), Cause>,
    ) {
        if self.is_bound(page, generation, Phase::Zeroing) {
            match result {
                Ok(()) => self.settle_present(page),
                Err(cause) => self.give_up(page, cause),
            }
        }
        self.debug_check();
    }

    /// A `Mark` was carried out.
    pub fn handle_marked(&mut self, generation: Generation, page: PageId, marked: Marked) {
        let Some(entry) = self.entries.get(page) else {
            return;
        };
        let Phase::Marking { cause, healed } = entry.phase else {
            return;
        };
        if entry.generation != generation && !self.skips_generation_check() {
            return;
        }
        match marked {
            Marked::AlreadyPresent => self.settle_present(page),
            Marked::Marked if healed => {
                let demanded = entry.demanded;
                self.entries.remove(page);
                self.begin_unmark(page, demanded, false);
            }
            Marked::Marked => {
                let failure = Failure {
                    cause,
                    attempts: entry.attempts,
                };
                self.settle_failed(page, failure);
            }
        }
        self.debug_check();
    }

    /// An `Unmark` was carried out.
    pub fn handle_unmarked(&mut self, generation: Generation, page: PageId) {
        let Some(entry) = self.entries.get(page) else {
            return;
        };
        let Phase::Unmarking { removed } = entry.phase else {
            return;
        };
        if entry.generation != generation && !self.skips_generation_check() {
            return;
        }
        match (entry.demanded, removed) {
            (false, _) => {
                self.entries.remove(page);
            }
            (true, true) => self.begin_zero(page),
            (true, false) => {
                self.requeue(page);
                self.arm_deadline(page);
            }
        }
        self.debug_check();
    }

    /// The source of the `count` pages from `first` on was repaired: those that have failed become
    /// absent, with a fresh budget. Says how many.
    ///
    /// # Errors
    /// When there is no page `first`.
    pub fn handle_heal(&mut self, first: PageId, count: u32) -> Result<u32, UnknownPage> {
        let Some(last) = self.last_of(first, count)? else {
            return Ok(0);
        };
        let mut healed = 0;
        while let Some(page) = self.failures.first_in(first, last) {
            self.begin_unmark(page, false, false);
            healed += 1;
        }
        for page in self.pending_between(first, last) {
            let entry = self.entries.get_mut(page).expect("the page is pending");
            if let Phase::Marking { healed: late, .. } = &mut entry.phase {
                healed += u32::from(!*late);
                *late = true;
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
        let Some(last) = self.last_of(first, count)? else {
            return Ok(());
        };
        for page in self.pending_between(first, last) {
            self.remove_pending(page);
        }
        while let Some(page) = self.failures.first_in(first, last) {
            self.begin_unmark(page, false, true);
        }
        let positions = self.regions.positions(first, count)?;
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
        let Some(last) = self.last_of(first, count)? else {
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
        while let Some(page) = self.failures.first_in(first, last) {
            self.failures.remove(page);
        }
        let positions = self.regions.positions(first, count)?;
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

    fn install_fetched(&mut self, fetch: FetchRecord) {
        let generation = fetch.generation;
        let mut run: Option<(PageId, u32)> = None;
        for page in pages_from(fetch.first).take(fetch.count as usize) {
            if self.is_bound(page, generation, Phase::Fetching) {
                self.entries.get_mut(page).expect("it is bound").phase = Phase::Installing;
                run = Some(run.map_or((page, 1), |(first, count)| (first, count + 1)));
            } else if let Some((first, count)) = run.take() {
                self.effects.push_back(Effect::Install {
                    generation,
                    first,
                    count,
                });
            }
        }
        if let Some((first, count)) = run {
            self.effects.push_back(Effect::Install {
                generation,
                first,
                count,
            });
        }
    }

    /// A range has failed: its demanded pages are tried alone, the others are let go.
    fn range_failed(&mut self, fetch: FetchRecord, fault: Fault) {
        for page in pages_from(fetch.first).take(fetch.count as usize) {
            if !self.is_bound(page, fetch.generation, Phase::Fetching) {
                continue;
            }
            if defective!(self, RangeFailureFailsAll) {
                self.attempt_failed(page, fault);
                continue;
            }
            let entry = self.entries.get_mut(page).expect("it is bound");
            if entry.demanded {
                entry.alone = true;
                entry.last_error = fault.cause.id;
                self.requeue(page);
            } else {
                self.entries.remove(page);
            }
        }
    }

    fn attempt_failed(&mut self, page: PageId, fault: Fault) {
        let overrun = u8::from(defective!(self, BudgetOverrun));
        let budget = self.config.attempts + overrun;
        let entry = self.entries.get_mut(page).expect("the page is pending");
        entry.attempts += 1;
        entry.last_error = fault.cause.id;
        let spent = match fault.persistence {
            Persistence::Permanent => overrun == 0 || entry.attempts >= budget,
            Persistence::Temporary => entry.attempts >= budget,
        };
        if spent || !entry.demanded {
            self.give_up(page, fault.cause);
            return;
        }
        let pause = self.config.backoff.after(entry.attempts);
        entry.phase = Phase::BackingOff;
        let generation = self.rebind(page);
        self.timers
            .push_back((Timer::Retry { page, generation }, pause));
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

    fn is_bound(&self, page: PageId, generation: Generation, phase: Phase) -> bool {
        self.entries.get(page).is_some_and(|entry| {
            entry.phase == phase
                && (entry.generation == generation || self.skips_generation_check())
        })
    }

    /// Makes room for one more pending page, if need be by letting go of a prefetch: one that has
    /// not begun rather than one that has.
    fn make_room(&mut self) -> bool {
        if self.entries.len() < self.config.max_pending {
            return true;
        }
        let unwanted = |phase| {
            let matches = move |entry: &&Entry| !entry.demanded && entry.phase == phase;
            self.entries.iter().find(matches).map(|entry| entry.page)
        };
        let victim = unwanted(Phase::Queued).or_else(|| unwanted(Phase::Fetching));
        victim.is_some_and(|page| self.entries.remove(page).is_some())
    }

    /// The last of the `count` pages from `first` on that its region has.
    fn last_of(&self, first: PageId, count: u32) -> Result<Option<PageId>, UnknownPage> {
        let positions = self.regions.positions(first, count)?;
        let beyond = (positions.end - positions.start) as u32;
        Ok(beyond.checked_sub(1).and_then(|n| first.checked_add(n)))
    }

    /// The pending pages between two, in order. Steps from one to the next, so that they may change
    /// meanwhile.
    fn pending_between(&self, first: PageId, last: PageId) -> Vec<PageId> {
        self.entries.pages_between(first, last).collect()
    }
}

/// The pages from `first` on.
fn pages_from(first: PageId) -> impl Iterator<Item = PageId> {
    (0..).map_while(move |n| first.checked_add(n))
}
