//! Making every access to a page fail, and undoing that.
#![expect(
    unsafe_code,
    reason = "protection and contents of mapped pages are changed"
)]

use rustix::mm::{Advice, MprotectFlags, madvise, mprotect};
use surefault_core::PageId;
use surefault_core::residency::{Generation, Marked};
use surefault_uffd::{Outcome, PageRange, Wake};

use crate::install::Progress;
use crate::shared::{Hands, Shared};

/// How pages are marked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Marking {
    /// Poisoned: SIGBUS with the address.
    Poison,
    /// Without access rights: `EFAULT` without an address.
    Protect,
}

impl Shared {
    /// Makes accesses to the page fail, and wakes who waits for it.
    pub(crate) fn mark(&self, hands: &mut Hands, generation: Generation, page: PageId) {
        let operation = |_| {
            let range = self.regions.range(page, 1);
            match self.marking {
                Marking::Poison => self.uffd.poison(range, Wake::Now),
                Marking::Protect => {
                    set_access(range, MprotectFlags::empty());
                    self.uffd.wake(range).map(|()| Outcome::Done)
                }
            }
        };
        let marked = match self.attempt(hands, generation, page, 1, operation) {
            Some(Progress::Pages(_)) | None => Marked::Marked,
            Some(Progress::AlreadyThere) => Marked::AlreadyPresent,
            Some(Progress::Gone) => return self.memory_gone(hands),
            // The kernel will not poison: withdraw the page's access rights instead, so that the
            // access ends all the same.
            Some(Progress::Refused(_)) => {
                let range = self.regions.range(page, 1);
                set_access(range, MprotectFlags::empty());
                if self.uffd.wake(range).is_err() {
                    return self.memory_gone(hands);
                }
                Marked::Marked
            }
        };
        self.tell(hands, |m| {
            m.residency.handle_marked(generation, page, marked)
        });
    }

    /// Undoes `mark`: the next access is a fault again.
    pub(crate) fn unmark(&self, hands: &mut Hands, generation: Generation, page: PageId) {
        self.attempt(hands, generation, page, 1, |_| {
            self.clear(self.regions.range(page, 1));
            Ok(Outcome::Done)
        });
        self.stats.healed.add(1);
        self.tell(hands, |m| m.residency.handle_unmarked(generation, page));
    }

    /// Throws the contents of pages away, marks included. Inside the gate only.
    pub(crate) fn clear(&self, range: PageRange) {
        let (start, len) = (
            range.start().get() as *mut core::ffi::c_void,
            range.len() as usize,
        );
        // SAFETY: the range is served memory of this process, whose contents are the guest's; the
        // caller has established that none are to be kept.
        let cleared = unsafe { madvise(start, len, Advice::LinuxDontNeed) };
        debug_assert!(
            cleared.is_ok(),
            "MADV_DONTNEED on mapped memory: {cleared:?}"
        );
        // Pages may have been marked by protection even where poison is the rule.
        set_access(range, MprotectFlags::READ | MprotectFlags::WRITE);
    }
}

fn set_access(range: PageRange, access: MprotectFlags) {
    let (start, len) = (
        range.start().get() as *mut core::ffi::c_void,
        range.len() as usize,
    );
    // SAFETY: the range is served memory of this process; `Pager::start`'s caller has promised that
    // nothing but the guest and system calls that may fail depend on its access rights.
    let changed = unsafe { mprotect(start, len, access) };
    debug_assert!(changed.is_ok(), "mprotect on mapped memory: {changed:?}");
}
