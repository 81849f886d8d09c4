//! The canonical state, for a model checker: two machines with equal views can do the same things,
//! with equal views afterwards.

use super::entry::Entry;
use super::{Generation, Residency};

/// The state with its live generations renumbered by age, the ids of texts dropped, and stale places
/// in the queue left out.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct View(Box<Residency>);

impl Residency {
    /// The canonical state, to be taken when nothing is left to poll. Timers and answers that are still under way carry generations of their
    /// own: [`Residency::rank`] renumbers them alike.
    pub fn view(&self) -> View {
        let mut machine = self.clone();
        let ranks = self.live_generations();
        let rank = |generation| rank_in(&ranks, generation);
        let renumber = |entry: &mut Entry| {
            entry.generation = rank(entry.generation);
            entry.episode = rank(entry.episode);
        };
        machine.entries.iter_mut().for_each(renumber);
        machine
            .failures
            .iter_mut()
            .for_each(|record| record.generation = rank(record.generation));
        machine
            .fetches
            .iter_mut()
            .for_each(|fetch| fetch.generation = rank(fetch.generation));
        machine.queue.canonicalize(&self.entries, rank);
        machine.next_generation = 0;
        View(Box::new(machine))
    }

    /// The number that a generation has in the [`view`](Self::view); `None` when nothing in the
    /// state refers to it any more, so that what carries it will be dropped.
    pub fn rank(&self, generation: Generation) -> Option<u64> {
        let ranks = self.live_generations();
        ranks
            .binary_search(&generation)
            .ok()
            .map(|rank| rank as u64 + 1)
    }

    pub(super) fn live_generations(&self) -> Vec<Generation> {
        let most = 2 * self.entries.len() + self.failures.len() + self.fetches.len();
        let mut live = Vec::with_capacity(most);
        for entry in self.entries.iter() {
            live.extend([entry.generation, entry.episode]);
        }
        live.extend(self.failures.iter().map(|record| record.generation));
        live.extend(self.fetches.iter().map(|fetch| fetch.generation));
        live.sort_unstable();
        live.dedup();
        live
    }
}

fn rank_in(ranks: &[Generation], generation: Generation) -> Generation {
    let rank = ranks
        .binary_search(&generation)
        .map_or(0, |rank| rank as u64 + 1);
    Generation::new(rank)
}
