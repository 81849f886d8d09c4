//! Errors of asynchronous faults that wait for the task to come back.
//!
//! An asynchronous access that failed is not over when the guest is told "ready": the task comes
//! back, takes the fault again, and that fault ends it. A task that the guest has killed never
//! does. So each such error is owed, until
//!
//! * any vCPU faults on the page again (the task may have migrated): *claimed*;
//! * the page is healed, removed or forgotten, the VM is reset, a newer error needs the slot, or
//!   one to two periods of a timer have passed: *unclaimed*, logged once.
//!
//! Nothing depends on an owed error: it switches nothing off and holds nothing up. An error that had
//! to make room is still met by whoever comes back for it; only the log has called it unclaimed too
//! early.

use crate::{Failure, PageId};

/// A bounded table of owed errors, oldest first, at most one a page.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(super) struct Owed {
    entries: Vec<Entry>,
    slots: usize,
    /// The timer is armed.
    pub(super) armed: bool,
}

crate::clone_in_place! { Owed {
    entries, slots, armed,
} }

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Entry {
    page: PageId,
    failure: Failure,
    /// It has seen the timer fire once.
    old: bool,
}

impl Owed {
    pub(super) fn new(slots: u16) -> Owed {
        Owed {
            entries: Vec::with_capacity(usize::from(slots)),
            slots: usize::from(slots),
            armed: false,
        }
    }

    /// Notes that the error of `page` is owed. Returns the one that had to make room.
    pub(super) fn note(&mut self, page: PageId, failure: Failure) -> Option<(PageId, Failure)> {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.page == page) {
            *entry = Entry {
                page,
                failure,
                old: false,
            };
            return None;
        }
        let oldest = (self.entries.len() == self.slots).then(|| self.entries.remove(0));
        self.entries.push(Entry {
            page,
            failure,
            old: false,
        });
        oldest.map(|entry| (entry.page, entry.failure))
    }

    /// Takes the error of `page` off the table.
    pub(super) fn take(&mut self, page: PageId) -> Option<Failure> {
        let at = self.entries.iter().position(|entry| entry.page == page)?;
        Some(self.entries.remove(at).failure)
    }

    /// Takes one error that `when` holds for, the oldest first.
    pub(super) fn take_if(&mut self, when: impl Fn(PageId) -> bool) -> Option<(PageId, Failure)> {
        let at = self.entries.iter().position(|entry| when(entry.page))?;
        let entry = self.entries.remove(at);
        Some((entry.page, entry.failure))
    }

    /// Takes one error that has seen the timer before, the oldest first.
    pub(super) fn take_old(&mut self) -> Option<(PageId, Failure)> {
        let at = self.entries.iter().position(|entry| entry.old)?;
        let entry = self.entries.remove(at);
        Some((entry.page, entry.failure))
    }

    /// The timer has fired: what is left is old now.
    pub(super) fn age(&mut self) {
        for entry in &mut self.entries {
            entry.old = true;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn pages(&self) -> impl Iterator<Item = PageId> + '_ {
        self.entries.iter().map(|entry| entry.page)
    }

    /// Within bounds, and the newest entry is the only one of its page. Asked after every input, that
    /// holds for all of them, for entries are added at the end only; all against all would be slow.
    pub(super) fn is_sound(&self) -> bool {
        let newest = self.entries.split_last();
        self.entries.len() <= self.slots
            && newest
                .is_none_or(|(newest, rest)| rest.iter().all(|entry| entry.page != newest.page))
    }
}
