//! Steps from one phase to another: the only places where an entry is made, bound anew or ended.

use super::entry::{Entry, Phase};
use super::failures::FailureRecord;
use super::settled::SettledState;
use super::{Effect, Generation, PageOutcome, Residency, Timer, defective};
use crate::{Cause, CauseId, Failure, PageId};

impl Residency {
    /// Makes `page` pending. Returns its episode, which is also its first generation.
    pub(super) fn insert(&mut self, page: PageId, phase: Phase, demanded: bool) -> Generation {
        let generation = self.draw_generation();
        self.entries
            .insert(new_entry(page, phase, generation, demanded));
        generation
    }

    /// Makes `page` pending and has it wait for its fetch. `at` is the place of its entry.
    pub(super) fn insert_queued(&mut self, at: usize, page: PageId, demanded: bool) -> Generation {
        let generation = self.draw_generation();
        let entry = new_entry(page, Phase::Queued, generation, demanded);
        self.entries.insert_at(at, entry);
        self.queue.push(&self.entries, (page, generation), demanded);
        generation
    }

    /// Gives a pending page a new generation: what was under way for it is out of date.
    pub(super) fn rebind(&mut self, page: PageId) -> Generation {
        let generation = self.draw_generation();
        self.entries
            .get_mut(page)
            .expect("the page is pending")
            .generation = generation;
        generation
    }

    /// Has a pending page wait for its fetch.
    pub(super) fn requeue(&mut self, page: PageId) {
        let generation = self.rebind(page);
        let entry = self.entries.get_mut(page).expect("the page is pending");
        entry.phase = Phase::Queued;
        let demanded = entry.demanded;
        self.queue.push(&self.entries, (page, generation), demanded);
    }

    /// Starts the deadline of a page that is now both demanded and waiting for the source.
    pub(super) fn arm_deadline(&mut self, page: PageId) {
        let episode = self.entries.get(page).expect("the page is pending").episode;
        self.timers
            .push_back((Timer::Deadline { page, episode }, self.config.deadline));
    }

    /// Has a pending page filled with zeros.
    pub(super) fn begin_zero(&mut self, page: PageId) {
        let generation = self.rebind(page);
        self.entries
            .get_mut(page)
            .expect("the page is pending")
            .phase = Phase::Zeroing;
        self.effects.push_back(Effect::Zero { generation, page });
    }

    /// A pending page cannot be had: it is marked if somebody waits for it, else let go.
    pub(super) fn give_up(&mut self, page: PageId, cause: Cause) {
        let entry = self.entries.get_mut(page).expect("the page is pending");
        if !entry.demanded && !defective!(self, PrefetchFailureSticks) {
            self.entries.remove(page);
            return;
        }
        entry.phase = Phase::Marking {
            cause,
            healed: false,
        };
        let generation = self.rebind(page);
        self.effects.push_back(Effect::Mark { generation, page });
    }

    /// A failed page, or one that has just been marked, is to fail no longer.
    pub(super) fn begin_unmark(&mut self, page: PageId, demanded: bool, removed: bool) {
        self.failures.remove(page);
        let state = if removed {
            SettledState::Removed
        } else {
            SettledState::Absent
        };
        self.set_settled(page, state);
        if defective!(self, HealWithoutUnmark) && !removed && !demanded {
            return;
        }
        let generation = self.insert(page, Phase::Unmarking { removed }, demanded);
        self.effects.push_back(Effect::Unmark { generation, page });
    }

    /// A pending page is there. `at` is the place of its entry.
    pub(super) fn settle_present(&mut self, at: usize) {
        let Entry { page, demanded, .. } = self.entries.remove_at(at);
        self.set_settled(page, SettledState::Present);
        if demanded {
            self.effects.push_back(Effect::Settled {
                page,
                outcome: PageOutcome::Present,
            });
        }
    }

    /// A pending page is marked: it has failed.
    pub(super) fn settle_failed(&mut self, page: PageId, failure: Failure) {
        self.entries.remove(page);
        if self.failures.len() >= self.config.max_failures {
            let oldest = self.failures.oldest().expect("the table is full");
            self.begin_unmark(oldest, false, false);
        }
        let generation = self.draw_generation();
        self.failures.insert(FailureRecord {
            page,
            failure,
            generation,
            expired: false,
        });
        self.set_settled(page, SettledState::Failed);
        self.effects.push_back(Effect::Settled {
            page,
            outcome: PageOutcome::Failed(failure),
        });
        if let Some(ttl) = self.config.failure_ttl {
            self.timers
                .push_back((Timer::FailureTtl { page, generation }, ttl));
        }
    }

    fn set_settled(&mut self, page: PageId, state: SettledState) {
        let position = self.regions.position(page).expect("a pending page exists");
        self.settled.set(position, state);
    }
}

/// A page that has just become pending.
fn new_entry(page: PageId, phase: Phase, generation: Generation, demanded: bool) -> Entry {
    Entry {
        page,
        phase,
        generation,
        episode: generation,
        attempts: 0,
        demanded,
        alone: false,
        last_error: CauseId::default(),
    }
}
