//! The machine of pages: which page of guest memory is there, is on its way, has failed.
//!
//! One per guest memory, keyed by [`PageId`]. It decides what to fetch, when to try again, when to
//! give up, and what may still be installed; a driver does these things and says how they went.
//! It ends every demand: with the page, with a [`Failure`](crate::Failure), or cancelled.
//!
//! ```text
//!              demand, prefetch
//!   absent ────────────────────► Queued ──fetch──► Fetching ──fetched──► Installing ──► present
//!     ▲                           ▲  ▲                │ │
//!     │                     alone │  └── Retry ── BackingOff   (temporary, budget left)
//!     │                           └─ range failed ────┘ │
//!     │                                                 ▼  permanent, budget used, Deadline
//!     └───── Unmarking ◄── heal ── failed ◄── marked ── Marking
//!                │
//!                └─ removed while failed ─► removed ── demand ──► Zeroing ──► present
//! ```
//!
//! A settled page is two bits: absent, present, failed or removed. An unsettled one has an entry,
//! in one of these phases, and none of them lasts by itself:
//!
//! | phase | what leaves it |
//! |---|---|
//! | `Queued` | [`poll_effect`](Residency::poll_effect) (fetch), [`Timer::Deadline`] |
//! | `Fetching` | [`handle_fetched`](Residency::handle_fetched), [`Timer::Deadline`], [`Timer::Patience`] |
//! | `BackingOff` | [`Timer::Retry`], [`Timer::Deadline`] |
//! | `Installing` | [`handle_installed`](Residency::handle_installed) |
//! | `Zeroing` | [`handle_zeroed`](Residency::handle_zeroed) |
//! | `Marking` | [`handle_marked`](Residency::handle_marked) |
//! | `Unmarking` | [`handle_unmarked`](Residency::handle_unmarked) |
//!
//! The last four wait for nobody but the local kernel, so the deadline does not touch them. A
//! removal ([`handle_removed`](Residency::handle_removed)) or a slot change
//! ([`handle_cancelled`](Residency::handle_cancelled)) leaves any of them.
//!
//! **Generations.** Whatever is under way for a page carries a [`Generation`]. Removal, heal, slot
//! change, deadline and every new attempt give the page another one, and what comes back under an
//! old one is dropped *before* anything is installed: the driver asks
//! [`may_apply`](Residency::may_apply) inside its gate.
//!
//! **Ranges.** Neighbours that wait to be fetched are fetched in one read. A range that fails says
//! nothing about its pages: each is tried again alone, on a budget of its own. A range that does not
//! answer within [`ResidencyConfig::range_patience`] gives up its demanded pages to reads of their
//! own, so that a stalled neighbour does not cost a healthy page its deadline.
//!
//! **Restart.** What is pending needs no record: a driver that was killed leaves what was settled, and
//! the next one goes on from there ([`Residency::restored`]).
//!
//! **Prefetch.** A prefetched page has no deadline and never fails: if it cannot be had it is
//! absent again. A demand turns it into an ordinary page, and starts its deadline.

mod answer;
mod change;
mod config;
mod demand;
mod effect;
mod entry;
mod failures;
mod fetches;
mod fingerprint;
mod invariants;
mod queue;
mod regions;
mod restore;
mod settle;
mod settled;
mod view;

#[cfg(any(test, feature = "defects"))]
mod defects;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

/// Whether a deliberate mistake is switched on; a constant `false` in a product.
#[cfg(any(test, feature = "defects"))]
macro_rules! defective {
    ($machine:ident, $defect:ident) => {
        $machine.defect == Some($crate::residency::Defect::$defect)
    };
}
#[cfg(not(any(test, feature = "defects")))]
macro_rules! defective {
    ($machine:ident, $defect:ident) => {
        false
    };
}
use defective;

use std::collections::VecDeque;
use std::time::Duration;

pub use config::{Backoff, ConfigError, ResidencyConfig};
#[cfg(any(test, feature = "defects"))]
pub use defects::Defect;
pub use demand::Admission;
pub use effect::{
    Effect, Fault, FetchRange, Generation, InstallResult, Marked, PageOutcome, PageState, Timer,
};
pub use fingerprint::Ranks;
pub use invariants::Violation;
pub use regions::UnknownPage;
pub use restore::{PageRecord, RecordedPage, RestoreError};
pub use view::View;

use entry::{EntryTable, Phase};
use failures::FailureTable;
use fetches::FetchTable;
use queue::FetchQueue;
use regions::Regions;
use settled::{SettledMap, SettledState};

use crate::{PageCount, PageId};

/// The residency machine of one guest memory. See the [module](self) for its states.
#[derive(PartialEq, Eq, Hash, Debug)]
pub struct Residency {
    config: ResidencyConfig,
    regions: Regions,
    settled: SettledMap,
    entries: EntryTable,
    failures: FailureTable,
    fetches: FetchTable,
    queue: FetchQueue,
    effects: VecDeque<Effect>,
    timers: VecDeque<(Timer, Duration)>,
    next_generation: u64,
    #[cfg(any(test, feature = "defects"))]
    defect: Option<Defect>,
}

crate::clone_in_place! { Residency {
    config, regions, settled, entries, failures, fetches, queue, next_generation,
    #[cfg(any(test, feature = "defects"))] defect; queues effects, timers
} }

impl Residency {
    /// A machine for a memory of these regions, all of whose pages are absent.
    ///
    /// # Errors
    /// When a limit in `config` is zero or contradicts another, or a region has more pages than a
    /// page index can name.
    pub fn new(config: ResidencyConfig, regions: &[PageCount]) -> Result<Residency, ConfigError> {
        config.check()?;
        let regions = Regions::new(regions)?;
        Ok(Residency {
            settled: SettledMap::new(regions.total()),
            entries: EntryTable::with_capacity(config.max_pending),
            failures: FailureTable::default(),
            fetches: FetchTable::with_capacity(config.max_fetches),
            queue: FetchQueue::with_capacity(config.max_pending),
            effects: VecDeque::new(),
            timers: VecDeque::new(),
            next_generation: 1,
            #[cfg(any(test, feature = "defects"))]
            defect: None,
            regions,
            config,
        })
    }

    /// The limits it was made with.
    pub fn config(&self) -> &ResidencyConfig {
        &self.config
    }

    /// What is known of `page`.
    ///
    /// # Errors
    /// When there is no such page.
    pub fn state(&self, page: PageId) -> Result<PageState, UnknownPage> {
        let position = self.regions.position(page)?;
        // What has failed is not pending.
        Ok(match self.settled.get(position) {
            SettledState::Absent | SettledState::Removed | SettledState::Present
                if self.entries.contains(page) =>
            {
                PageState::Pending
            }
            SettledState::Absent => PageState::Absent,
            SettledState::Present => PageState::Present,
            SettledState::Removed => PageState::Removed,
            SettledState::Failed => {
                let record = self.failures.get(page).expect("a failed page has a record");
                PageState::Failed(record.failure)
            }
        })
    }

    /// How many more pages can become pending. A driver reads no more faults than this at once;
    /// those it leaves wait in the kernel.
    pub fn capacity(&self) -> usize {
        self.config.max_pending.saturating_sub(self.entries.len())
    }

    /// Pages that are present.
    pub fn present(&self) -> PageCount {
        PageCount::new(self.settled.count(SettledState::Present))
    }

    /// Pages that have failed.
    pub fn failed(&self) -> PageCount {
        PageCount::new(self.settled.count(SettledState::Failed))
    }

    /// Pages that are neither settled nor absent.
    pub fn pending(&self) -> usize {
        self.entries.len()
    }

    /// The pages that are neither settled nor absent, in order.
    pub fn pending_pages(&self) -> impl Iterator<Item = PageId> + '_ {
        self.entries.iter().map(|entry| entry.page)
    }

    /// Fetches that have not come back, whether or not anybody still waits for them. A driver that
    /// gives each its own thread needs this many.
    pub fn fetches_out(&self) -> usize {
        self.fetches.len()
    }

    /// Whether some page still waits for what this fetch brings. One that was overtaken has its place
    /// until it comes back, and nothing is kept of it.
    pub fn is_awaited(&self, fetch: Generation) -> bool {
        let waits = |entry: &entry::Entry| entry.generation == fetch;
        self.fetches.get(fetch).is_some() && self.entries.iter().any(waits)
    }

    /// Whether `page` has failed and the next demand for it is another try: its failure is older than
    /// its time to live, or than this machine ([`restored`](Self::restored)).
    pub fn tries_again(&self, page: PageId) -> bool {
        self.failures.get(page).is_some_and(|record| record.expired)
    }

    /// The pages that have failed, in order.
    pub fn failed_pages(&self) -> impl Iterator<Item = (PageId, crate::Failure)> + '_ {
        self.failures
            .iter()
            .map(|record| (record.page, record.failure))
    }

    /// The next effect, or `None` when there is nothing to do until the next input.
    ///
    /// Order: what follows from earlier inputs in the order in which it was decided (`Settled`,
    /// `Install`, `Zero`, `Mark`, `Unmark`), then fetches: demanded pages by age, then prefetched
    /// ones. Every effect but `Settled` is answered by the input named at its variant.
    #[inline]
    pub fn poll_effect(&mut self) -> Option<Effect> {
        if self.effects.is_empty() && self.queue.is_empty() {
            return None;
        }
        let effect = self.effects.pop_front().or_else(|| self.start_fetch());
        self.debug_check();
        effect
    }

    /// The next timer to arm, with its delay from now. Timers are never disarmed: one that has
    /// become pointless is recognized when it fires.
    #[inline]
    pub fn poll_timer(&mut self) -> Option<(Timer, Duration)> {
        self.timers.pop_front()
    }

    /// For how many of the `count` pages from `first` on, counted from the first, an effect of
    /// `generation` may still be carried out; 0 when it is out of date for that one already.
    ///
    /// To be asked inside the driver's gate before an `Install`, `Zero`, `Mark` or `Unmark`, so that
    /// no removal comes between the answer and the deed. An effect that may not be carried out is
    /// answered all the same.
    pub fn may_apply(&self, generation: Generation, first: PageId, count: u32) -> u32 {
        let bound = |page| {
            self.entries.get(page).is_some_and(|entry| {
                !entry.phase.waits_for_source()
                    && (entry.generation == generation || self.skips_generation_check())
            })
        };
        (0..count)
            .take_while(|&n| first.checked_add(n).is_some_and(bound))
            .count()
            .try_into()
            .unwrap_or(count)
    }

    /// Whether firing `timer` could change anything. Timers are never disarmed: a driver with many
    /// of them may forget those that are pointless.
    pub fn is_live(&self, timer: Timer) -> bool {
        let entry = |page| self.entries.get(page);
        match timer {
            Timer::Deadline { page, episode } => entry(page).is_some_and(|entry| {
                entry.episode == episode && entry.demanded && entry.phase.waits_for_source()
            }),
            Timer::Patience { page, generation } | Timer::Retry { page, generation } => {
                entry(page).is_some_and(|entry| entry.generation == generation)
            }
            Timer::FailureTtl { page, generation } => self
                .failures
                .get(page)
                .is_some_and(|record| record.generation == generation),
        }
    }

    fn draw_generation(&mut self) -> Generation {
        let generation = Generation::new(self.next_generation);
        self.next_generation += 1;
        generation
    }

    /// Starts the next fetch, if one is waiting and there is room for it.
    fn start_fetch(&mut self) -> Option<Effect> {
        let room = self.config.max_fetches - self.fetches.len();
        if room == 0 {
            return None;
        }
        let head = self.queue.pop_demanded(&self.entries).or_else(|| {
            // Half of the fetches are kept for demands: a long prefetch never delays one.
            (room > self.config.max_fetches / 2)
                .then(|| self.queue.pop_prefetched(&self.entries))
                .flatten()
        })?;
        let places = self.entries.fetchable_range(head, self.config.max_range);
        let (first, count) = (self.entries.at(places.start).page, places.len() as u32);
        let generation = self.draw_generation();
        let mut attempt = 1;
        for entry in self.entries.range_mut(places) {
            entry.generation = generation;
            entry.phase = Phase::Fetching;
            attempt = entry.attempts + 1;
            if entry.demanded && count > 1 {
                let timer = Timer::Patience {
                    page: entry.page,
                    generation,
                };
                self.timers.push_back((timer, self.config.range_patience));
            }
        }
        self.fetches.start(generation, first, count);
        Some(Effect::Fetch(FetchRange {
            generation,
            first,
            count,
            attempt,
        }))
    }

    fn skips_generation_check(&self) -> bool {
        defective!(self, NoGenerationCheck)
    }

    /// In debug builds, panics when an invariant is broken. Looks at everything, so only at small
    /// memories. A machine with a deliberate mistake is left to its test.
    fn debug_check(&self) {
        #[cfg(any(test, feature = "defects"))]
        if self.defect.is_some() {
            return;
        }
        #[cfg(debug_assertions)]
        if self.regions.total() <= invariants::DEBUG_LIMIT
            && let Err(violation) = self.check_invariants()
        {
            panic!("residency: {violation}");
        }
    }
}

/// The pages from `first` on.
fn pages_from(first: PageId) -> impl Iterator<Item = PageId> {
    (0..).map_while(move |n| first.checked_add(n))
}
