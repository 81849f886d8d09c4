//! Failed pages: what each failed of, in a sorted array.

use super::Generation;
use crate::{Failure, PageId};

/// A failed page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct FailureRecord {
    pub(super) page: PageId,
    pub(super) failure: Failure,
    /// When it failed; names its time to live.
    pub(super) generation: Generation,
    /// Its time to live is over: the next demand tries again.
    pub(super) expired: bool,
}

/// The failed pages, sorted. Grows with the failures that are remembered.
#[derive(PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct FailureTable {
    records: Vec<FailureRecord>,
}

crate::clone_in_place! { FailureTable {
    records,
} }

impl FailureTable {
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &FailureRecord> {
        self.records.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut FailureRecord> {
        self.records.iter_mut()
    }

    pub(super) fn get(&self, page: PageId) -> Option<&FailureRecord> {
        self.find(page).ok().map(|at| &self.records[at])
    }

    pub(super) fn get_mut(&mut self, page: PageId) -> Option<&mut FailureRecord> {
        self.find(page).ok().map(|at| &mut self.records[at])
    }

    /// Adds a record for a page that has none.
    pub(super) fn insert(&mut self, record: FailureRecord) {
        let at = self
            .find(record.page)
            .expect_err("a page has at most one failure");
        self.records.insert(at, record);
    }

    pub(super) fn remove(&mut self, page: PageId) -> Option<FailureRecord> {
        self.find(page).ok().map(|at| self.records.remove(at))
    }

    /// Takes the records of the pages from `first` to `last` out, all at once, and gives their pages in
    /// order.
    pub(super) fn take_between(&mut self, first: PageId, last: PageId) -> Vec<PageId> {
        let from = self.find(first).unwrap_or_else(|at| at);
        let beyond = self.find(last).map_or_else(|at| at, |at| at + 1);
        let taken = self.records.drain(from..beyond.max(from));
        taken.map(|record| record.page).collect()
    }

    /// The page that failed longest ago.
    pub(super) fn oldest(&self) -> Option<PageId> {
        self.records
            .iter()
            .min_by_key(|record| record.generation)
            .map(|record| record.page)
    }

    fn find(&self, page: PageId) -> Result<usize, usize> {
        self.records
            .binary_search_by_key(&page, |record| record.page)
    }
}
