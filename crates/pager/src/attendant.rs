//! Who hears what becomes of a served memory.

use std::io;

use surefault_core::{Failure, Hva, PageId};

use crate::Point;

/// Hears of what the owner of a memory should know at once, and acts for the pager where the memory
/// belongs to another process.
///
/// Called from the pager's threads with no lock held: what takes long here delays page faults.
pub trait Attendant: Send + Sync {
    /// `page` has failed of `cause`. Said once for each failure; again only if it fails again after
    /// it was healed.
    fn page_failed(&self, page: PageId, failure: Failure, cause: &str) {
        let _ = (page, failure, cause);
    }

    /// `page`, which had failed, is there after all, and who waited for it goes on.
    fn page_recovered(&self, page: PageId) {
        let _ = page;
    }

    /// The process that has the memory must end, because it would otherwise wait for ever or go on
    /// with a page that is wrong. Only with [`FailedPage::Kill`](crate::FailedPage::Kill), and where
    /// the kernel will not poison a page.
    ///
    /// # Errors
    /// When it cannot be ended.
    fn kill(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Somebody waits for a page at `address`, which is in none of the regions. It is refused in the
    /// way of failed pages.
    fn stray_fault(&self, address: Hva) {
        let _ = address;
    }

    /// `point` was reached: for tests, which may end the process here. Called inside the gate.
    fn reached(&self, point: Point) {
        let _ = point;
    }

    /// A thread of the pager has panicked, which is a bug and has been told by the panic
    /// hook: nobody is served any more. By default this ends the process, so that nobody waits for ever;
    /// whoever does otherwise has to end those who wait.
    fn panicked(&self) {
        std::process::abort();
    }

    /// The process that had the memory has none any more: nobody waits for a page.
    fn memory_gone(&self) {}
}

/// Nobody.
pub(crate) struct Nobody;

impl Attendant for Nobody {}
