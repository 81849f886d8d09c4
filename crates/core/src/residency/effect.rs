//! What the residency machine says, and the words in which it is answered.

use crate::{Cause, Failure, PageId, Persistence};

/// Numbers what is under way for a page. Never reused, so what comes back late is recognized.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Generation(u64);

impl Generation {
    pub(super) const fn new(raw: u64) -> Generation {
        Generation(raw)
    }

    /// The number, for logs.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Something for the driver to do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Effect {
    /// Read these pages from the source. Answered by `handle_fetched`, however late.
    Fetch(FetchRange),
    /// Put the fetched pages in place and wake who waits for them, as far as `may_apply` says.
    /// Answered by `handle_installed`.
    Install {
        /// Of the fetch that brought them.
        generation: Generation,
        /// The first of them.
        first: PageId,
        /// How many there are.
        count: u32,
    },
    /// Put a page of zeros in place if nothing is there, and wake who waits for it. Answered by
    /// `handle_zeroed`, and then who waits is woken once more: the removal that this follows may
    /// take the zeros away before they are answered for, and whoever faults then has joined them.
    Zero {
        /// Of this step.
        generation: Generation,
        /// The page.
        page: PageId,
    },
    /// Make every access to the page fail, and wake who waits for it. Answered by `handle_marked`.
    Mark {
        /// Of this step.
        generation: Generation,
        /// The page.
        page: PageId,
    },
    /// Undo `Mark`, without raising a removal event. Harmless when there is nothing to undo.
    /// Answered by `handle_unmarked`.
    Unmark {
        /// Of this step.
        generation: Generation,
        /// The page.
        page: PageId,
    },
    /// A demand for the page has ended. Needs no answer.
    Settled {
        /// The page.
        page: PageId,
        /// How it ended.
        outcome: PageOutcome,
    },
}

/// Pages to be read from the source in one go.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FetchRange {
    /// Of this fetch.
    pub generation: Generation,
    /// The first page.
    pub first: PageId,
    /// How many pages, at least 1.
    pub count: u32,
    /// Which attempt at these pages it is, counted from 1.
    pub attempt: u8,
}

/// How a demand for a page ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PageOutcome {
    /// The page is there.
    Present,
    /// The page cannot be had.
    Failed(Failure),
    /// The memory was taken away.
    Cancelled,
}

/// What is known of a page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PageState {
    /// Not there, and nobody has asked for it.
    Absent,
    /// Something is under way.
    Pending,
    /// There.
    Present,
    /// Cannot be had.
    Failed(Failure),
    /// Given back by the guest: reads as zeros.
    Removed,
}

/// Why a fetch failed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Fault {
    /// What happened.
    pub cause: Cause,
    /// Whether another attempt makes sense.
    pub persistence: Persistence,
}

/// How an install went.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum InstallResult {
    /// All pages that might be installed are there, whoever put them there.
    Done,
    /// The first `installed` pages are there; the kernel refused the others.
    Failed {
        /// Pages that are there.
        installed: u32,
        /// Why the others are not.
        cause: Cause,
    },
}

/// How marking a page went.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Marked {
    /// Accesses to it fail now.
    Marked,
    /// It is there after all, and who waited for it was woken.
    AlreadyPresent,
}

/// A timer of the machine. The driver arms it when told to and fires it once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Timer {
    /// The page has been demanded for as long as it may.
    Deadline {
        /// The page.
        page: PageId,
        /// When it became pending.
        episode: Generation,
    },
    /// The range that the page is fetched in has had its time.
    Patience {
        /// The page.
        page: PageId,
        /// Of the fetch.
        generation: Generation,
    },
    /// The pause before the next attempt is over.
    Retry {
        /// The page.
        page: PageId,
        /// Of the pause.
        generation: Generation,
    },
    /// The page's failure is old: who wants the page again gets another try.
    FailureTtl {
        /// The page.
        page: PageId,
        /// Of the failure.
        generation: Generation,
    },
}
