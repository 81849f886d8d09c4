//! A pager that serves another process's memory, and may be killed between any two of its steps.
//!
//! Without one ([`Setup::records`](super::Setup::records)) what the machine of pages wants done is done
//! at once. With one it takes the steps that `surefault-pager` takes, in its order, and what each party
//! has is kept apart:
//!
//! ```text
//!  kernel                    shared memory          worker (dies)
//!  unread events ────read───► journal ───────────► batch
//!        │ removals go on        │ note                │ tell
//!        ▼ (zap)                 ▼                     ▼
//!  pages, waiters             records               Residency ──► work: install, zero, mark, unmark
//!        ▲                       ▲ intend, record      │
//!        └────────── install ────┴─────────────────────┘ answer
//! ```
//!
//! | party | what it has | outlives the worker |
//! |---|---|---|
//! | kernel | what is in each page, who waits, events that nobody has read, removals that go on | yes |
//! | shared memory | a [`PageRecord`] for each page, the removals that were read and not noted | yes |
//! | worker | [`Residency`](surefault_core::residency::Residency), work in hand, fetches, timers | no |
//!
//! The rules are those of production: what is written down follows
//! [`PageRecord`], and a successor goes on from
//! [`Residency::restored`](surefault_core::residency::Residency::restored) in the order of
//! `Pager::attach_recorded`: journal, records, prefetch of what is in doubt, wake everybody.
//!
//! # Left out
//! * The worker has one pair of hands: it carries out one effect at a time, in the order in which they
//!   were decided. Events can be read between two of its steps outside of the gate.
//! * Faults are read and told as soon as nobody is in the gate, unless a removal is among them: whether
//!   a worker died before or after that comes to the same, for everybody who waits faults again.
//! * An install is answered for in the step in which it is written down, unless a removal waits to be
//!   read: a removal that is raised between the two comes to the same as one that was raised before.
//! * A marker is no page. Whoever meets one asks the worker outright (`Pager::verdict`) while it lives,
//!   and waits for the next one otherwise.
//! * A page of zeros stands for whatever its owner has written there since.

mod attach;
#[cfg(any(test, feature = "defects"))]
mod mistake;
mod view;
mod work;

use std::collections::VecDeque;

use surefault_core::PageIndex;
use surefault_core::residency::{Generation, PageRecord};

use super::bits::Bits;
#[cfg(any(test, feature = "defects"))]
pub use mistake::Mistake;
pub(crate) use view::PagerView;

/// Whether a deliberate mistake is switched on; a constant `false` in a product.
#[cfg(any(test, feature = "defects"))]
macro_rules! mistaken {
    ($pager:expr, $mistake:ident) => {
        $pager.mistake == Some($crate::machine::pager::Mistake::$mistake)
    };
}
#[cfg(not(any(test, feature = "defects")))]
macro_rules! mistaken {
    ($pager:expr, $mistake:ident) => {{
        let _ = &$pager;
        false
    }};
}
use mistaken;

/// A step of the pager, of its successor, or of a thread that gives pages up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PagerStep {
    /// Reads all events, a removal among them: removals stand in the journal from now on, and their
    /// threads go on.
    Read,
    /// Writes the removals of the journal down.
    Note,
    /// Clears the journal and tells the machine of pages: removals first, then faults.
    Tell,
    /// Enters the gate and writes down what is intended: an install, or a failure. What is not wanted
    /// any more is answered instead.
    Intend,
    /// Puts pages, or zeros, in place and wakes who waits; or makes the page fail. Tries again later
    /// while a removal waits to be read.
    Install,
    /// Writes down what is in place, and leaves the gate. Tells the machine of pages, too, unless
    /// removals wait to be read.
    Record,
    /// Tells the machine of pages that it is done.
    Answer,
    /// A thread whose removal was read takes its page away.
    Zap(PageIndex),
    /// Another worker begins: notes what the journal has, goes on from the records, wakes everybody.
    Attach,
}

/// Whose step it is: each of them has its next one taken some day.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PagerParty {
    /// The worker's thread that reads events.
    Reader,
    /// Its hands.
    Hands,
    /// The thread that gives this page up.
    Remover(PageIndex),
    /// Whoever begins another worker.
    Supervisor,
}

impl PagerStep {
    /// The steps that need nothing beside their word.
    pub const WORDS: [(PagerStep, &'static str); 8] = [
        (PagerStep::Read, "read"),
        (PagerStep::Note, "note"),
        (PagerStep::Tell, "tell"),
        (PagerStep::Intend, "intend"),
        (PagerStep::Install, "install"),
        (PagerStep::Record, "record"),
        (PagerStep::Answer, "answer"),
        (PagerStep::Attach, "attach"),
    ];

    /// Whose step it is.
    pub const fn party(self) -> PagerParty {
        match self {
            PagerStep::Read | PagerStep::Note | PagerStep::Tell => PagerParty::Reader,
            PagerStep::Intend | PagerStep::Install => PagerParty::Hands,
            PagerStep::Record | PagerStep::Answer => PagerParty::Hands,
            PagerStep::Zap(page) => PagerParty::Remover(page),
            PagerStep::Attach => PagerParty::Supervisor,
        }
    }
}

/// What the kernel has in a page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Held {
    Nothing,
    /// What the source has.
    Data,
    Zeros,
}

/// Something that the worker has to do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Work {
    pub(crate) deed: Deed,
    pub(crate) generation: Generation,
    pub(crate) first: PageIndex,
    pub(crate) count: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Deed {
    Install,
    Zero,
    Mark,
    Unmark,
}

/// How far the first thing that the worker has to do is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) enum Stage {
    /// Not in the gate.
    #[default]
    Decided,
    /// In the gate, written down for so many pages.
    Intended(u32),
    /// In the gate; of the pages that were intended so many are in place.
    Installed { intended: u32, there: u32 },
    /// Out of the gate again. The page to be made to fail was there.
    Done { was_there: bool },
}

/// A batch that was read, and what was done with it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Batch {
    pub(crate) faults: Vec<PageIndex>,
    pub(crate) removals: Vec<PageIndex>,
    pub(crate) is_noted: bool,
}

/// What dies with a worker, beside its machine of pages.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Worker {
    pub(crate) reading: Option<Batch>,
    pub(crate) work: VecDeque<Work>,
    pub(crate) stage: Stage,
    /// Pages of the first work that are behind it.
    pub(crate) behind: u32,
}

/// A pager that keeps records. See the [module](self) for who has what.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Pager {
    held: Vec<Held>,
    /// Pages whose contents were given up: they read as zeros.
    given_up: Bits,
    /// Pages that somebody faulted on, and nobody has read it.
    unread_faults: Vec<PageIndex>,
    unread_removals: Vec<PageIndex>,
    /// Removals that were read, and whose threads have not taken their page away.
    zaps: Vec<PageIndex>,
    records: Vec<PageRecord>,
    journal: Vec<PageIndex>,
    /// `None` while nobody serves.
    worker: Option<Worker>,
    #[cfg(any(test, feature = "defects"))]
    pub(crate) mistake: Option<Mistake>,
}

surefault_core::clone_in_place! { Pager {
    held, given_up, unread_faults, unread_removals, zaps, records, journal, worker,
    #[cfg(any(test, feature = "defects"))] mistake,
} }

impl Pager {
    pub(crate) fn new(pages: usize) -> Pager {
        Pager {
            held: vec![Held::Nothing; pages],
            given_up: Bits::new(pages),
            unread_faults: Vec::new(),
            unread_removals: Vec::new(),
            zaps: Vec::new(),
            records: vec![PageRecord::Absent; pages],
            journal: Vec::new(),
            worker: Some(Worker::default()),
            #[cfg(any(test, feature = "defects"))]
            mistake: None,
        }
    }

    /// Whether somebody serves.
    pub(crate) fn is_alive(&self) -> bool {
        self.worker.is_some()
    }

    /// Whether something is in the page.
    pub(crate) fn is_there(&self, page: PageIndex) -> bool {
        self.held[nth(page)] != Held::Nothing
    }

    /// Whether there is anything to give up that is not being given up already.
    pub(crate) fn can_remove(&self, page: PageIndex) -> bool {
        let is_removed = self.given_up.contains(nth(page)) && !self.is_there(page);
        !is_removed && !self.unread_removals.contains(&page) && !self.zaps.contains(&page)
    }

    /// Appends what can be done next: a part of a reading, a part of the work, each removal that goes
    /// on; or nothing but that and a new worker.
    pub(crate) fn steps(&self, into: &mut Vec<PagerStep>) {
        match &self.worker {
            None => into.push(PagerStep::Attach),
            Some(worker) => {
                into.extend(self.next_of_reading(worker));
                into.extend(self.next_of_work(worker));
            }
        }
        into.extend(self.zaps.iter().map(|&page| PagerStep::Zap(page)));
    }

    /// Whether there is anything that can be done.
    pub(crate) fn is_busy(&self) -> bool {
        let of_worker =
            |worker| self.next_of_reading(worker).is_some() || self.next_of_work(worker).is_some();
        !self.zaps.is_empty() || self.worker.as_ref().is_none_or(of_worker)
    }

    fn next_of_reading(&self, worker: &Worker) -> Option<PagerStep> {
        match &worker.reading {
            Some(batch) if batch.is_noted => Some(PagerStep::Tell),
            Some(_) => Some(PagerStep::Note),
            None => {
                let is_due = !self.unread_removals.is_empty() && !worker.is_in_gate();
                is_due.then_some(PagerStep::Read)
            }
        }
    }

    fn next_of_work(&self, worker: &Worker) -> Option<PagerStep> {
        let work = worker.work.front()?;
        match (worker.stage, work.deed) {
            (Stage::Decided, Deed::Unmark) => Some(PagerStep::Answer),
            // Whoever reads has the gate; and the kernel has said to try again, or would.
            (Stage::Decided, _) if worker.reading.is_some() => None,
            (Stage::Decided, _) if !self.unread_removals.is_empty() => None,
            (Stage::Decided, Deed::Install | Deed::Mark) => Some(PagerStep::Intend),
            (Stage::Decided, Deed::Zero) => Some(PagerStep::Install),
            (Stage::Intended(_), _) => Some(PagerStep::Install),
            (Stage::Installed { .. }, _) => Some(PagerStep::Record),
            (Stage::Done { .. }, _) => Some(PagerStep::Answer),
        }
    }

    fn write(&mut self, first: PageIndex, count: u32, rule: fn(PageRecord) -> PageRecord) {
        for record in &mut self.records[nth(first)..nth(first) + count as usize] {
            *record = rule(*record);
        }
    }
}

impl Worker {
    fn is_in_gate(&self) -> bool {
        matches!(self.stage, Stage::Intended(_) | Stage::Installed { .. })
    }
}

fn nth(page: PageIndex) -> usize {
    page.get() as usize
}

/// Adds to a set that is kept as a sorted list.
fn insert(pages: &mut Vec<PageIndex>, page: PageIndex) {
    if let Err(at) = pages.binary_search(&page) {
        pages.insert(at, page);
    }
}
