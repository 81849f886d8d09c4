//! Answers to effects: what came of a fetch, an install, a mark.

use super::entry::Phase;
use super::fetches::FetchRecord;
use super::{
    Effect, Fault, Generation, InstallResult, Marked, Residency, Timer, defective, pages_from,
};
use crate::{Cause, Failure, PageId, Persistence};

impl Residency {
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
            let Some(at) = self.bound(page, generation, Phase::Installing) else {
                continue;
            };
            match result {
                InstallResult::Failed { installed, cause } if n >= installed => {
                    self.give_up(page, cause);
                }
                InstallResult::Done | InstallResult::Failed { .. } => self.settle_present(at),
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
        if let Some(at) = self.bound(page, generation, Phase::Zeroing) {
            match result {
                Ok(()) => self.settle_present(at),
                Err(cause) => self.give_up(page, cause),
            }
        }
        self.debug_check();
    }

    /// A `Mark` was carried out.
    pub fn handle_marked(&mut self, generation: Generation, page: PageId, marked: Marked) {
        let Ok(at) = self.entries.find(page) else {
            return;
        };
        let entry = self.entries.at(at);
        let Phase::Marking { cause, healed } = entry.phase else {
            return;
        };
        if entry.generation != generation && !self.skips_generation_check() {
            return;
        }
        match marked {
            Marked::AlreadyPresent => self.settle_present(at),
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

    fn install_fetched(&mut self, fetch: FetchRecord) {
        let generation = fetch.generation;
        let mut run: Option<(PageId, u32)> = None;
        for page in pages_from(fetch.first).take(fetch.count as usize) {
            if let Some(at) = self.bound(page, generation, Phase::Fetching) {
                self.entries.at_mut(at).phase = Phase::Installing;
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

    pub(super) fn is_bound(&self, page: PageId, generation: Generation, phase: Phase) -> bool {
        self.bound(page, generation, phase).is_some()
    }

    /// Where the entry is of a page for which this is under way under this generation.
    fn bound(&self, page: PageId, generation: Generation, phase: Phase) -> Option<usize> {
        let at = self.entries.find(page).ok()?;
        let entry = self.entries.at(at);
        let bound = entry.phase == phase
            && (entry.generation == generation || self.skips_generation_check());
        bound.then_some(at)
    }
}
