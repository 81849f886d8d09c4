//! The canonical state of a pager: its generations numbered by age.

use std::hash::{Hash, Hasher};

use surefault_core::PageIndex;
use surefault_core::residency::{Generation, PageRecord, Ranks, Residency};

use super::{Batch, Bits, Deed, Held, Pager, Stage};

/// A pager without what no step depends on.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct PagerView {
    held: Vec<Held>,
    given_up: Bits,
    unread: (Vec<PageIndex>, Vec<PageIndex>),
    zaps: Vec<PageIndex>,
    records: Vec<PageRecord>,
    journal: Vec<PageIndex>,
    worker: Option<WorkerView>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct WorkerView {
    reading: Option<Batch>,
    /// What is to be done, under which generation, to which pages.
    work: Vec<(Deed, u64, PageIndex, u32)>,
    stage: Stage,
    behind: u32,
}

impl Pager {
    /// The canonical state, beside that of `pages`.
    pub(crate) fn view(&self, pages: &Residency) -> PagerView {
        let rank = |generation: Generation| pages.rank(generation).unwrap_or(0);
        PagerView {
            held: self.held.clone(),
            given_up: self.given_up.clone(),
            unread: (self.unread_faults.clone(), self.unread_removals.clone()),
            zaps: self.zaps.clone(),
            records: self.records.clone(),
            journal: self.journal.clone(),
            worker: self.worker.as_ref().map(|worker| WorkerView {
                reading: worker.reading.clone(),
                work: (worker.work.iter())
                    .map(|work| (work.deed, rank(work.generation), work.first, work.count))
                    .collect(),
                stage: worker.stage,
                behind: worker.behind,
            }),
        }
    }

    /// Hashes what the [view](Self::view) consists of.
    pub(crate) fn hash_view(&self, ranks: &Ranks, hasher: &mut impl Hasher) {
        (&self.held, &self.given_up, &self.unread_faults).hash(hasher);
        (&self.unread_removals, &self.zaps).hash(hasher);
        (&self.records, &self.journal).hash(hasher);
        let Some(worker) = &self.worker else {
            return 0u8.hash(hasher);
        };
        (1u8, &worker.reading, worker.stage, worker.behind).hash(hasher);
        worker.work.len().hash(hasher);
        for work in &worker.work {
            (work.deed, ranks.of(work.generation), work.first, work.count).hash(hasher);
        }
    }
}
