//! The pages that are suspected, and the votes for where they lie.

use std::collections::{BTreeSet, HashMap};

use surefault_core::{Gva, Hva};

use super::PageKey;

/// Host addresses that are kept for a page.
const CANDIDATES: usize = 8;

/// Who is suspected, by page and by the fault's address.
#[derive(Debug, Default)]
pub(super) struct Docket {
    entries: HashMap<PageKey, Entry>,
    by_address: HashMap<Gva, Vec<PageKey>>,
    /// Those that have been retried often enough to be looked at.
    ripe: BTreeSet<PageKey>,
}

#[derive(Debug)]
struct Entry {
    address: Gva,
    votes: Vec<(Hva, u32)>,
}

impl Docket {
    /// Enters a page that faults at `address`, the first byte of a page.
    pub(super) fn enter(&mut self, key: PageKey, address: Gva) {
        if self
            .entries
            .get(&key)
            .is_some_and(|entry| entry.address == address)
        {
            return;
        }
        let before = self.entries.remove(&key);
        if let Some(before) = &before {
            self.drop_address(before.address, key);
        }
        let votes = before.map(|before| before.votes).unwrap_or_default();
        self.entries.insert(key, Entry { address, votes });
        self.by_address.entry(address).or_default().push(key);
    }

    /// The page, which was entered, is to be looked at.
    pub(super) fn ripen(&mut self, key: PageKey) {
        self.ripe.insert(key);
    }

    /// An attempt for the fault at `address` was completed, for the page at `hva`: a vote for each
    /// page that faults there and is waited for.
    pub(super) fn vote(&mut self, address: Gva, hva: Hva, is_waited_for: impl Fn(PageKey) -> bool) {
        let Some(keys) = self.by_address.get(&address) else {
            return;
        };
        for key in keys {
            if is_waited_for(*key)
                && let Some(entry) = self.entries.get_mut(key)
            {
                entry.vote(hva);
            }
        }
    }

    /// Strikes a page out.
    pub(super) fn strike(&mut self, key: PageKey) {
        if let Some(entry) = self.entries.remove(&key) {
            self.drop_address(entry.address, key);
            self.ripe.remove(&key);
        }
    }

    fn drop_address(&mut self, address: Gva, key: PageKey) {
        if let Some(keys) = self.by_address.get_mut(&address) {
            keys.retain(|other| *other != key);
            if keys.is_empty() {
                self.by_address.remove(&address);
            }
        }
    }

    /// The pages that are to be looked at.
    pub(super) fn ripe(&self) -> impl Iterator<Item = PageKey> {
        self.ripe.iter().copied()
    }

    /// All pages of a thread.
    pub(super) fn of_thread(&self, thread: crate::ids::Tid) -> Vec<PageKey> {
        let keys = self.entries.keys().copied();
        keys.filter(|key| key.thread == thread).collect()
    }

    /// Where a page may lie, the most probable first.
    pub(super) fn candidates(&self, key: PageKey) -> Vec<Hva> {
        let entry = self.entries.get(&key);
        let mut votes = entry.map(|entry| entry.votes.clone()).unwrap_or_default();
        votes.sort_by_key(|(_, votes)| std::cmp::Reverse(*votes));
        votes.into_iter().map(|(hva, _)| hva).collect()
    }
}

impl Entry {
    fn vote(&mut self, hva: Hva) {
        if let Some((_, votes)) = self.votes.iter_mut().find(|(known, _)| *known == hva) {
            *votes = votes.saturating_add(1);
            return;
        }
        if self.votes.len() == CANDIDATES
            && let Some(least) = (0..CANDIDATES).min_by_key(|index| self.votes[*index].1)
        {
            self.votes.swap_remove(least);
        }
        self.votes.push((hva, 1));
    }
}
