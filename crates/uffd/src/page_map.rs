//! What is known of every page of a memory, where a successor finds it.
//!
//! The process that serves a memory may be killed at any moment. Its successor has the userfaultfd
//! (a duplicate), and this map: a memfd with a state for every page and the [`Journal`] of what was
//! read last.
//!
//! ```text
//!  byte 0          one page in        one page further
//!  ┌──────────────┬──────────────────┬───────────────────────────────┐
//!  │ header       │ journal          │ states, one byte a page       │
//!  │ magic … size │ slots of 32 byte │ absent │ intent │ present │ … │
//!  └──────────────┴──────────────────┴───────────────────────────────┘
//! ```
//!
//! What a state follows from which is said by [`PageRecord`], once for this map and for the models that
//! let a process die between any two steps: `intend` before an install and `settle` after it, both
//! inside the driver's gate; `remove` as soon as a removal was read, before its slot in the journal is
//! cleared; `fail` before a page is poisoned. An intent that a dead process has left is installed
//! again, and the kernel says whether it was there
//! ([`Outcome::AlreadyThere`](crate::Outcome::AlreadyThere)).
//!
//! What another process wrote is never trusted with more than its meaning: the size is sealed, the
//! layout is computed here and compared, and a byte that is no state is an error that names the
//! page.

mod layout;
mod state;

use core::sync::atomic::{AtomicU8, Ordering};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use surefault_core::residency::PageRecord;
use thiserror::Error;

use crate::Journal;
use crate::shared_memory::SharedMemory;
use layout::Layout;
pub use state::{MapIndex, RecordedState};

/// A map of the states of all pages of one memory. See the [module](self) for its order of writing.
///
/// Methods take `&self`: states are atomics, and which thread may change what is the driver's gate's
/// business.
#[derive(Debug)]
pub struct PageMap {
    memory: Arc<SharedMemory>,
    layout: Layout,
}

/// Why there is no map.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MapError {
    /// It could not be made.
    #[error("cannot create the memory of a page map")]
    Create(#[source] Errno),
    /// It could not be mapped.
    #[error("cannot map a page map")]
    Map(#[source] Errno),
    /// The descriptor is not a memfd whose size is sealed: it could be cut short under our feet.
    #[error("the descriptor is not a sealed page map")]
    NotSealed(#[source] Errno),
    /// It is a memfd, but not a map of this version and kind.
    #[error("not a page map of this version: {0}")]
    Foreign(&'static str),
    /// It is a map of another memory.
    #[error("the page map is for {found} pages, not for {expected}")]
    OtherMemory {
        /// Pages that it has.
        found: u64,
        /// Pages that it should have.
        expected: u64,
    },
    /// There would be more pages than fit the address space.
    #[error("a map of {pages} pages does not fit the address space")]
    TooLarge {
        /// Pages asked for.
        pages: u64,
    },
    /// A state that no version has written.
    #[error("the page map says {value:#04x} of {page}, which is no state")]
    Corrupt {
        /// The page.
        page: MapIndex,
        /// What stands there.
        value: u8,
    },
}

impl PageMap {
    /// A new map of `pages` absent pages, and its journal with room for `slots` messages, at least
    /// one.
    ///
    /// # Errors
    /// When the memory cannot be had.
    pub fn create(pages: u64, slots: usize) -> Result<(PageMap, Journal), MapError> {
        let layout = Layout::new(pages, slots.max(1))?;
        let memory = SharedMemory::create(layout.len)?;
        layout.write(&memory);
        Ok(PageMap::with(memory, layout))
    }

    /// The map behind a descriptor that another process has left, for a memory of `pages` pages.
    ///
    /// # Errors
    /// When it is anything else. Nothing but the descriptor's owner is harmed by a bad one.
    pub fn open(fd: OwnedFd, pages: u64) -> Result<(PageMap, Journal), MapError> {
        let memory = SharedMemory::open(fd)?;
        let layout = Layout::read(&memory)?;
        if layout.pages != pages {
            return Err(MapError::OtherMemory {
                found: layout.pages,
                expected: pages,
            });
        }
        Ok(PageMap::with(memory, layout))
    }

    fn with(memory: SharedMemory, layout: Layout) -> (PageMap, Journal) {
        let memory = Arc::new(memory);
        let journal = Journal::new(Arc::clone(&memory), layout.journal, layout.slots);
        (PageMap { memory, layout }, journal)
    }

    /// Pages in the map.
    pub fn pages(&self) -> u64 {
        self.layout.pages
    }

    /// What is recorded of every page, in order.
    ///
    /// # Errors
    /// [`MapError::Corrupt`] in the place of a page whose state is none.
    pub fn states(&self) -> impl Iterator<Item = Result<RecordedState, MapError>> + '_ {
        let all = self.cells(MapIndex::new(0), self.layout.pages);
        all.iter().enumerate().map(|(n, cell)| {
            let value = cell.load(Ordering::Acquire);
            RecordedState::decode(value).ok_or(MapError::Corrupt {
                page: MapIndex::new(n as u64),
                value,
            })
        })
    }

    /// What is recorded of `page`.
    ///
    /// # Errors
    /// [`MapError::Corrupt`] when that is no state.
    ///
    /// # Panics
    /// When there is no such page; so do all the others.
    pub fn state(&self, page: MapIndex) -> Result<RecordedState, MapError> {
        let value = self.cells(page, 1)[0].load(Ordering::Acquire);
        RecordedState::decode(value).ok_or(MapError::Corrupt { page, value })
    }

    /// Data is about to be installed in the `count` pages from `first` on
    /// ([`PageRecord::intended`]).
    pub fn intend(&self, first: MapIndex, count: u64) {
        self.change(first, count, PageRecord::intended);
    }

    /// What was intended, or had failed, is there, whoever put it there ([`PageRecord::settled`]).
    pub fn settle(&self, first: MapIndex, count: u64) {
        self.change(first, count, PageRecord::settled);
    }

    /// What was intended did not come about ([`PageRecord::given_up`]).
    pub fn give_up(&self, first: MapIndex, count: u64) {
        self.change(first, count, PageRecord::given_up);
    }

    /// The owner has given the `count` pages from `first` on up ([`PageRecord::removed`]).
    pub fn remove(&self, first: MapIndex, count: u64) {
        self.change(first, count, PageRecord::removed);
    }

    /// `page` is about to be made to fail ([`PageRecord::failed`]); `note` (below 32) says why, in the
    /// caller's terms.
    pub fn fail(&self, page: MapIndex, note: u8) {
        self.update(page, 1, |state| match state.record().failed() {
            PageRecord::Failed => RecordedState::Failed { note },
            _ => state,
        });
    }

    /// Nothing is known any more of the `count` pages from `first` on: the memory behind them was
    /// replaced, or a failed page was made to fail no longer ([`PageRecord::forgotten`]).
    pub fn forget(&self, first: MapIndex, count: u64) {
        self.change(first, count, PageRecord::forgotten);
    }

    fn change(&self, first: MapIndex, count: u64, rule: fn(PageRecord) -> PageRecord) {
        self.update(first, count, |state| state.with(rule(state.record())));
    }

    fn update(&self, first: MapIndex, count: u64, next: impl Fn(RecordedState) -> RecordedState) {
        for cell in self.cells(first, count) {
            // A byte that is no state stays: it was reported when the map was opened.
            let _ = cell.fetch_update(Ordering::AcqRel, Ordering::Acquire, |value| {
                let state = RecordedState::decode(value)?;
                let next = next(state);
                (next != state).then(|| next.encode())
            });
        }
    }

    fn cells(&self, first: MapIndex, count: u64) -> &[AtomicU8] {
        let end = first.get().checked_add(count);
        assert!(
            end.is_some_and(|end| end <= self.layout.pages),
            "{count} pages from {first} on, of {}",
            self.layout.pages
        );
        // Below the length of a mapping, so they fit a usize.
        let start = self.layout.states.start + first.get() as usize;
        self.memory.bytes(start, count as usize)
    }
}

impl AsFd for PageMap {
    /// The memfd, to be duplicated for whoever is to find the map after this process.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

#[cfg(test)]
mod tests;
