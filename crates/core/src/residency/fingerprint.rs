//! A hash of the canonical state, without making it: a checker asks for millions of them.
//!
//! Equal for states with equal [views](Residency::view), and different for others but by chance. A
//! test holds the two against each other.

use core::hash::{Hash, Hasher};

use super::{Generation, Residency};

impl Residency {
    /// Hashes what the [view](Self::view) consists of. To be asked when nothing is left to poll;
    /// configurations are not told apart. Gives the ranks of what is live, for whoever keeps
    /// generations beside the machine.
    pub fn hash_view(&self, hasher: &mut impl Hasher) -> Ranks {
        let ranks = Ranks(self.live_generations());
        self.settled.hash(hasher);
        self.entries.len().hash(hasher);
        for entry in self.entries.iter() {
            let flags = u64::from(entry.demanded) << 1 | u64::from(entry.alone);
            (entry.page, entry.phase, entry.last_error).hash(hasher);
            (u64::from(entry.attempts) << 8 | flags).hash(hasher);
            (ranks.of(entry.generation), ranks.of(entry.episode)).hash(hasher);
        }
        self.failures.len().hash(hasher);
        for record in self.failures.iter() {
            (record.page, record.failure, record.expired).hash(hasher);
            ranks.of(record.generation).hash(hasher);
        }
        self.fetches.len().hash(hasher);
        for fetch in self.fetches.iter() {
            (fetch.first, fetch.count, ranks.of(fetch.generation)).hash(hasher);
        }
        self.queue
            .hash_live(&self.entries, |generation| ranks.of(generation), hasher);
        ranks
    }
}

/// The generations that something in the state refers to, by age.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ranks(Vec<Generation>);

impl Ranks {
    /// The place of a generation among them, from 1; 0 for one that nothing refers to.
    pub fn of(&self, generation: Generation) -> u64 {
        self.0
            .binary_search(&generation)
            .map_or(0, |place| place as u64 + 1)
    }
}
