//! Fetches that have not come back.

use super::Generation;
use crate::PageId;

/// A fetch the driver was told to start.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct FetchRecord {
    pub(super) generation: Generation,
    pub(super) first: PageId,
    pub(super) count: u32,
}

impl FetchRecord {
    pub(super) fn contains(&self, page: PageId) -> bool {
        page.region() == self.first.region()
            && page.index().get().checked_sub(self.first.index().get()) < Some(self.count)
            && page >= self.first
    }
}

/// The fetches that have not come back, oldest first, which is the order of their generations. At
/// most as many as the driver has threads for.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(super) struct FetchTable {
    fetches: Vec<FetchRecord>,
}

crate::clone_in_place! { FetchTable {
    fetches,
} }

impl FetchTable {
    pub(super) fn with_capacity(capacity: usize) -> FetchTable {
        FetchTable {
            fetches: Vec::with_capacity(capacity),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.fetches.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &FetchRecord> {
        self.fetches.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut FetchRecord> {
        self.fetches.iter_mut()
    }

    pub(super) fn get(&self, generation: Generation) -> Option<&FetchRecord> {
        self.fetches.get(self.find(generation)?)
    }

    pub(super) fn start(&mut self, generation: Generation, first: PageId, count: u32) {
        self.fetches.push(FetchRecord {
            generation,
            first,
            count,
        });
    }

    /// Takes a fetch that has come back out of the table; `None` when there is no such fetch.
    pub(super) fn finish(&mut self, generation: Generation) -> Option<FetchRecord> {
        let at = self.find(generation)?;
        Some(self.fetches.remove(at))
    }

    fn find(&self, generation: Generation) -> Option<usize> {
        let found = self
            .fetches
            .binary_search_by_key(&generation, |fetch| fetch.generation);
        found.ok()
    }
}
