//! What is always true of a residency machine, between any two inputs.

use thiserror::Error;

use super::Residency;
use super::entry::{Entry, Phase};
use super::settled::SettledState;
use crate::PageId;

/// Debug builds check memories of at most this many pages after every step.
#[cfg(debug_assertions)]
pub(super) const DEBUG_LIMIT: u64 = 256;

/// An invariant that does not hold: a bug in the machine.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum Violation {
    /// The entries are not sorted, or a page has two.
    #[error("the entries around {0} are out of order")]
    EntryOrder(PageId),
    /// A page's entry does not stand where the search for it ends.
    #[error("the entries do not stand where their pages do")]
    EntryPlaces,
    /// A page is pending and failed at once, or failed without a record, or the reverse.
    #[error("{page}: {what}")]
    Failure {
        /// The page.
        page: PageId,
        /// What is wrong.
        what: &'static str,
    },
    /// A waiting page has no turn in the queue, or several.
    #[error("{page} is queued {demanded} times by demand and {prefetched} times by prefetch")]
    Queue {
        /// The page.
        page: PageId,
        /// Its places among the demanded.
        demanded: usize,
        /// Its places among the prefetched.
        prefetched: usize,
    },
    /// A page is being fetched by no fetch, or outside its fetch.
    #[error("{0} is being fetched by no fetch")]
    OrphanFetch(PageId),
    /// More attempts than the budget allows.
    #[error("{page} had {attempts} attempts of {budget}")]
    Budget {
        /// The page.
        page: PageId,
        /// Attempts made.
        attempts: u8,
        /// Attempts allowed.
        budget: u8,
    },
    /// Nobody waits for a page, and yet it is retried, zeroed or marked.
    #[error("nobody waits for {0}, and yet it is kept")]
    Unwanted(PageId),
    /// A table is larger than its limit.
    #[error("{table} holds {len}, more than its limit of {limit}")]
    Overflow {
        /// Which.
        table: &'static str,
        /// Its size.
        len: usize,
        /// Its limit.
        limit: usize,
    },
}

impl Residency {
    /// Checks every invariant. Looks at every page: for tests and debug builds.
    ///
    /// # Errors
    /// The first one that is broken.
    pub fn check_invariants(&self) -> Result<(), Violation> {
        self.check_sizes()?;
        if !self.entries.is_sound() {
            return Err(Violation::EntryPlaces);
        }
        let mut previous = None;
        for entry in self.entries.iter() {
            if previous.is_some_and(|page| page >= entry.page) {
                return Err(Violation::EntryOrder(entry.page));
            }
            previous = Some(entry.page);
            self.check_entry(entry)?;
        }
        for (position, page) in self.regions.pages() {
            let failed = self.settled.get(position) == SettledState::Failed;
            let what = match (failed, self.failures.get(page).is_some()) {
                (true, false) => "has failed without a record",
                (false, true) => "has a failure and yet has not failed",
                (true, true) if self.entries.contains(page) => "has failed and is pending",
                (true, true) | (false, false) => continue,
            };
            return Err(Violation::Failure { page, what });
        }
        Ok(())
    }

    fn check_sizes(&self) -> Result<(), Violation> {
        // A failed page becomes pending again by being healed, not by admission.
        let entries = self.config.max_pending + self.config.max_failures;
        for (table, len, limit) in [
            ("fetches", self.fetches.len(), self.config.max_fetches),
            ("failures", self.failures.len(), self.config.max_failures),
            ("entries", self.entries.len(), entries),
        ] {
            if len > limit {
                return Err(Violation::Overflow { table, len, limit });
            }
        }
        Ok(())
    }

    fn check_entry(&self, entry: &Entry) -> Result<(), Violation> {
        let page = entry.page;
        if entry.attempts > self.config.attempts {
            let (attempts, budget) = (entry.attempts, self.config.attempts);
            return Err(Violation::Budget {
                page,
                attempts,
                budget,
            });
        }
        let (demanded, prefetched) = self.queue.places_of(entry);
        let expected = match (entry.phase, entry.demanded) {
            (Phase::Queued, true) => (1, 0),
            (Phase::Queued, false) => (0, 1),
            _ => (0, 0),
        };
        if (demanded, prefetched) != expected {
            return Err(Violation::Queue {
                page,
                demanded,
                prefetched,
            });
        }
        match entry.phase {
            Phase::Fetching => {
                let fetch = self.fetches.get(entry.generation);
                if !fetch.is_some_and(|fetch| fetch.contains(page)) {
                    return Err(Violation::OrphanFetch(page));
                }
            }
            Phase::BackingOff | Phase::Zeroing | Phase::Marking { .. } if !entry.demanded => {
                return Err(Violation::Unwanted(page));
            }
            Phase::BackingOff | Phase::Zeroing | Phase::Marking { .. } => {}
            Phase::Queued | Phase::Installing | Phase::Unmarking { .. } => {}
        }
        Ok(())
    }
}
