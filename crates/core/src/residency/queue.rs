//! Who is fetched next: demanded pages by age, then prefetched ones.

use std::collections::VecDeque;

use super::Generation;
use super::entry::{Entry, EntryTable, Phase};
use crate::PageId;

/// A place in the queue, valid as long as the page's entry has this generation.
type Place = (PageId, Generation);

/// Two first-in-first-out queues.
///
/// A page that leaves its phase keeps its place, which is passed over when its turn comes; when a
/// queue fills up with such places they are swept out, so it stays within twice the table of
/// entries.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(super) struct FetchQueue {
    demanded: VecDeque<Place>,
    prefetched: VecDeque<Place>,
    sweep_at: usize,
}

crate::clone_in_place! { FetchQueue {
    sweep_at; queues demanded, prefetched
} }

impl FetchQueue {
    pub(super) fn with_capacity(entries: usize) -> FetchQueue {
        let sweep_at = 2 * entries;
        FetchQueue {
            demanded: VecDeque::with_capacity(sweep_at),
            prefetched: VecDeque::new(),
            sweep_at,
        }
    }

    /// Queues a page whose entry has just been given `generation`.
    pub(super) fn push(&mut self, entries: &EntryTable, place: Place, demanded: bool) {
        let queue = if demanded {
            &mut self.demanded
        } else {
            &mut self.prefetched
        };
        if queue.len() >= self.sweep_at {
            queue.retain(|&place| is_waiting(entries, place));
        }
        queue.push_back(place);
    }

    /// Whose turn it is: the place of its entry.
    pub(super) fn pop_demanded(&mut self, entries: &EntryTable) -> Option<usize> {
        pop(&mut self.demanded, entries)
    }

    /// The same among those that nobody waits for.
    pub(super) fn pop_prefetched(&mut self, entries: &EntryTable) -> Option<usize> {
        pop(&mut self.prefetched, entries)
    }

    /// Nobody waits for a turn.
    pub(super) fn is_empty(&self) -> bool {
        self.demanded.is_empty() && self.prefetched.is_empty()
    }

    /// How often `entry` will have its turn: demanded, prefetched.
    pub(super) fn places_of(&self, entry: &Entry) -> (usize, usize) {
        let mine = |queue: &VecDeque<Place>| {
            queue
                .iter()
                .filter(|&&place| place == (entry.page, entry.generation))
                .count()
        };
        (mine(&self.demanded), mine(&self.prefetched))
    }

    /// Leaves out the places that are passed over, and renumbers the others.
    pub(super) fn canonicalize(
        &mut self,
        entries: &EntryTable,
        rank: impl Fn(Generation) -> Generation,
    ) {
        for queue in [&mut self.demanded, &mut self.prefetched] {
            queue.retain(|&place| is_waiting(entries, place));
            queue
                .iter_mut()
                .for_each(|(_, generation)| *generation = rank(*generation));
        }
    }
}

impl FetchQueue {
    /// Hashes the places that are not passed over.
    pub(super) fn hash_live(
        &self,
        entries: &EntryTable,
        rank: impl Fn(Generation) -> u64,
        hasher: &mut impl core::hash::Hasher,
    ) {
        use core::hash::Hash as _;
        for queue in [&self.demanded, &self.prefetched] {
            for &(page, generation) in queue {
                if is_waiting(entries, (page, generation)) {
                    (page, rank(generation)).hash(hasher);
                }
            }
            u8::MAX.hash(hasher);
        }
    }
}

fn pop(queue: &mut VecDeque<Place>, entries: &EntryTable) -> Option<usize> {
    while let Some(place) = queue.pop_front() {
        if let Some(at) = waiting(entries, place) {
            return Some(at);
        }
    }
    None
}

/// Where the entry is that still waits for this turn.
fn waiting(entries: &EntryTable, (page, generation): Place) -> Option<usize> {
    let at = entries.find(page).ok()?;
    let entry = entries.at(at);
    (entry.generation == generation && entry.phase == Phase::Queued).then_some(at)
}

fn is_waiting(entries: &EntryTable, place: Place) -> bool {
    waiting(entries, place).is_some()
}
