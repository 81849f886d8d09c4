//! Who is told what threads wait for, and how that ended: what a front end needs that brings a
//! thread out of its wait.

use std::time::Instant;

use surefault_core::residency::PageOutcome;
use surefault_core::{Hva, PageId};
use surefault_uffd::Tid;

/// A thread that is blocked on a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blocked {
    /// The page.
    pub page: PageId,
    /// What was touched: the very byte where the kernel says so
    /// ([`EXACT_ADDRESS`](surefault_uffd::Features::EXACT_ADDRESS)), else its page's first.
    pub address: Hva,
    /// Who touched it.
    pub thread: Option<Tid>,
}

/// Is told by the pager's threads, which wait for it: nothing here may wait for a page.
pub trait FaultObserver: Send + Sync {
    /// A thread was seen blocked. Said before anything is done about the page, and in one critical
    /// section with the reading of it ([`Pager::pass_events`](crate::Pager::pass_events)): the
    /// pager must not be called from here.
    fn blocked(&self, blocked: Blocked);

    /// All that could be done without waiting has been done for who was seen blocked; said often,
    /// by the event loop. The answer is when to say it again at the latest.
    fn attend(&self) -> Option<Instant>;

    /// A demand for the page has ended, whoever's it was.
    fn settled(&self, page: PageId, outcome: PageOutcome);
}
