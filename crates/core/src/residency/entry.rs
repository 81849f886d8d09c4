//! Pending pages: one entry each, in a sorted array.

use core::ops::Range;

use super::Generation;
use crate::{Cause, CauseId, PageId};

/// A page for which something is under way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Entry {
    pub(super) page: PageId,
    pub(super) phase: Phase,
    /// Of what is under way now.
    pub(super) generation: Generation,
    /// When the page became pending: names its deadline.
    pub(super) episode: Generation,
    /// Attempts at this page alone that failed.
    pub(super) attempts: u8,
    /// Somebody waits for it.
    pub(super) demanded: bool,
    /// A range it was in has failed or was slow.
    pub(super) alone: bool,
    /// The text of the last failed attempt.
    pub(super) last_error: CauseId,
}

/// What is under way for a page. The [module](super) says what leaves each phase.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Phase {
    /// Waits to be fetched.
    Queued,
    /// Is being read from the source.
    Fetching,
    /// Waits for its next attempt.
    BackingOff,
    /// Was read and is being put in place.
    Installing,
    /// A page of zeros is being put in place.
    Zeroing,
    /// Is being made to fail.
    Marking {
        /// What its failure will say.
        cause: Cause,
        /// It was healed meanwhile: to be unmarked as soon as it is marked.
        healed: bool,
    },
    /// Is being made to fail no longer.
    Unmarking {
        /// It was removed, so that it reads as zeros afterwards.
        removed: bool,
    },
}

impl Phase {
    /// Whether the source is what the page waits for, so that the deadline counts.
    pub(super) fn waits_for_source(self) -> bool {
        match self {
            Phase::Queued | Phase::Fetching | Phase::BackingOff => true,
            Phase::Installing | Phase::Zeroing => false,
            Phase::Marking { .. } | Phase::Unmarking { .. } => false,
        }
    }
}

/// The pending pages, sorted.
///
/// Few at a time (one per waiting vCPU, and what is prefetched), so that a search is a handful of
/// steps and an insertion moves little; neighbours in memory are neighbours in the array. The pages
/// stand in an array of their own beside their entries, so that a search touches few lines of cache.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(super) struct EntryTable {
    pages: Vec<PageId>,
    entries: Vec<Entry>,
}

crate::clone_in_place! { EntryTable {
    pages, entries,
} }

impl EntryTable {
    pub(super) fn with_capacity(capacity: usize) -> EntryTable {
        EntryTable {
            pages: Vec::with_capacity(capacity),
            entries: Vec::with_capacity(capacity),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.entries.iter_mut()
    }

    pub(super) fn contains(&self, page: PageId) -> bool {
        self.find(page).is_ok()
    }

    pub(super) fn get(&self, page: PageId) -> Option<&Entry> {
        self.find(page).ok().map(|at| &self.entries[at])
    }

    pub(super) fn get_mut(&mut self, page: PageId) -> Option<&mut Entry> {
        self.find(page).ok().map(|at| &mut self.entries[at])
    }

    /// Adds an entry for a page that has none.
    pub(super) fn insert(&mut self, entry: Entry) {
        let at = self
            .find(entry.page)
            .expect_err("a page has at most one entry");
        self.insert_at(at, entry);
    }

    /// The same where its place is known: what [`find`](Self::find) gave.
    pub(super) fn insert_at(&mut self, at: usize, entry: Entry) {
        self.pages.insert(at, entry.page);
        self.entries.insert(at, entry);
    }

    pub(super) fn remove(&mut self, page: PageId) -> Option<Entry> {
        self.find(page).ok().map(|at| self.remove_at(at))
    }

    /// The entry at this place, taken out.
    pub(super) fn remove_at(&mut self, at: usize) -> Entry {
        self.pages.remove(at);
        self.entries.remove(at)
    }

    /// The entry at this place.
    pub(super) fn at(&self, at: usize) -> &Entry {
        &self.entries[at]
    }

    /// The same, to change.
    pub(super) fn at_mut(&mut self, at: usize) -> &mut Entry {
        &mut self.entries[at]
    }

    /// The pending pages from `first` to `last`, in order.
    pub(super) fn pages_between(
        &self,
        first: PageId,
        last: PageId,
    ) -> impl Iterator<Item = PageId> + '_ {
        let at = self.find(first).unwrap_or_else(|at| at);
        self.pages[at..]
            .iter()
            .copied()
            .take_while(move |&page| page <= last)
    }

    /// The entries at these places.
    pub(super) fn range_mut(&mut self, places: Range<usize>) -> impl Iterator<Item = &mut Entry> {
        self.entries[places].iter_mut()
    }

    /// The longest run of at most `max` queued neighbours around the queued page at `at` that may be
    /// fetched together: their places.
    pub(super) fn fetchable_range(&self, at: usize, max: u32) -> Range<usize> {
        let joins = |entry: &Entry| entry.phase == Phase::Queued && !entry.alone;
        if !joins(&self.entries[at]) {
            return at..at + 1;
        }
        let next_to = |a: usize, b: usize| self.pages[a].checked_add(1) == Some(self.pages[b]);
        let (mut first, mut last) = (at, at);
        // Forwards first: programs mostly read upwards.
        while last - first + 1 < max as usize
            && last + 1 < self.entries.len()
            && next_to(last, last + 1)
            && joins(&self.entries[last + 1])
        {
            last += 1;
        }
        while last - first + 1 < max as usize
            && first > 0
            && next_to(first - 1, first)
            && joins(&self.entries[first - 1])
        {
            first -= 1;
        }
        first..last + 1
    }

    /// Where the page's entry is, or where it would be.
    pub(super) fn find(&self, page: PageId) -> Result<usize, usize> {
        self.pages.binary_search(&page)
    }

    /// Whether every entry stands where its page does, as the search believes.
    pub(super) fn is_sound(&self) -> bool {
        self.pages
            .iter()
            .eq(self.entries.iter().map(|entry| &entry.page))
    }
}
