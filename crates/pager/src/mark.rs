//! Making every access to a page fail, and undoing that.
#![expect(
    unsafe_code,
    reason = "protection and contents of mapped pages are changed"
)]

use rustix::io::Errno;
use rustix::mm::{Advice, MprotectFlags, madvise, mprotect};
use surefault_core::residency::{Generation, Marked};
use surefault_core::{Cause, PageId};
use surefault_uffd::{OperationError, Outcome, PageRange, Wake};

use crate::foreign::Rule;
use crate::install::Progress;
use crate::shared::{Hands, Shared};

/// How pages are marked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Marking {
    /// Poisoned: SIGBUS with the address.
    Poison,
    /// Without access rights: `EFAULT` without an address.
    Protect,
    /// By the rule for memory of another process, of which nothing may be changed but through the
    /// userfaultfd.
    Foreign(Rule),
}

impl Marking {
    /// Whether those who wait for a failed page go on waiting.
    pub(crate) fn keeps_waiting(self) -> bool {
        match self {
            Marking::Poison | Marking::Protect | Marking::Foreign(Rule::Poison) => false,
            Marking::Foreign(Rule::Kill | Rule::Wait) => true,
        }
    }
}

impl Shared {
    /// Makes accesses to the page fail, and wakes who waits for it.
    pub(crate) fn mark(&self, hands: &mut Hands, generation: Generation, page: PageId) {
        let marked = match self.marking {
            Marking::Poison | Marking::Protect => self.mark_here(hands, generation, page),
            Marking::Foreign(rule) => self.mark_foreign(hands, generation, page, rule),
        };
        let failed = self.tell(hands, |machine| {
            machine.residency.handle_marked(generation, page, marked);
            machine.newly_failed(page)
        });
        if let Some(failure) = failed {
            let text = self.cause_text(failure.cause);
            self.attendant.page_failed(page, failure, &text);
        }
    }

    fn mark_here(&self, hands: &mut Hands, generation: Generation, page: PageId) -> Marked {
        let operation = |_| self.refuse_access(self.regions.range(page, 1));
        match self.attempt(hands, generation, page, 1, operation) {
            Some(Progress::Pages(_)) | None => Marked::Marked,
            Some(Progress::AlreadyThere) => Marked::AlreadyPresent,
            Some(Progress::Refused(_)) => {
                self.stats.strange_events.add(1);
                Marked::Marked
            }
        }
    }

    /// What there is to say about a cause.
    pub(crate) fn cause_text(&self, cause: Cause) -> String {
        let deadline = self.machine().residency.config().deadline;
        self.causes.text(cause, deadline)
    }

    /// Makes accesses to an absent page fail, and wakes who waits for it. Inside the gate only.
    pub(crate) fn refuse_access(&self, range: PageRange) -> Result<Outcome, OperationError> {
        if let Marking::Foreign(rule) = self.marking {
            self.refuse_foreign(range, rule);
            return Ok(Outcome::Done);
        }
        if self.marking == Marking::Poison {
            match self.uffd.poison(range, Wake::Now) {
                // It is poisoned still, from the beginning; nobody waits for it.
                Ok(Outcome::AlreadyThere) if self.refuses_absent => return Ok(Outcome::Done),
                Ok(outcome) => return Ok(outcome),
                // The kernel will not poison: withdraw the page's access rights instead, so that
                // the access ends all the same.
                Err(_) => self.stats.strange_events.add(1),
            }
        }
        if set_access(range, MprotectFlags::empty()).is_err() {
            self.stats.strange_events.add(1);
        }
        self.uffd.wake(range).map(|()| Outcome::Done)
    }

    /// Has accesses to the pages of `range` refused until they are asked for, before anything else is
    /// done about them. What is there is left as it is.
    pub(crate) fn refuse_first_accesses(&self, range: PageRange) -> Result<(), OperationError> {
        let mut left = Some(range);
        while let Some(range) = left {
            let done = match self.uffd.poison(range, Wake::Now)? {
                Outcome::Partial { bytes } => bytes,
                Outcome::AlreadyThere => range.page_size(),
                Outcome::Again => 0,
                Outcome::Done | Outcome::Gone | Outcome::NoRegion => return Ok(()),
            };
            left = range.after(done);
        }
        Ok(())
    }

    /// Undoes `mark`: the next access is a fault again.
    pub(crate) fn unmark(&self, hands: &mut Hands, generation: Generation, page: PageId) {
        if let Marking::Foreign(_) = self.marking {
            return self.unmark_foreign(hands, generation, page);
        }
        self.attempt(hands, generation, page, 1, |_| {
            if self.clear(self.regions.range(page, 1)).is_err() {
                self.stats.strange_events.add(1);
            }
            Ok(Outcome::Done)
        });
        self.stats.healed.add(1);
        self.tell(hands, |m| m.residency.handle_unmarked(generation, page));
    }

    /// Takes pages out of the mapping, marks included. What shared memory holds stays in its file.
    /// Inside the gate only.
    pub(crate) fn clear(&self, range: PageRange) -> Result<(), Errno> {
        // Pages may have been marked by protection even where poison is the rule.
        set_access(range, MprotectFlags::READ | MprotectFlags::WRITE)?;
        advise(range, Advice::LinuxDontNeed)
    }

    /// Throws the contents of pages away, marks included, so that the next access to one is a fault.
    /// Inside the gate only.
    pub(crate) fn throw_away(&self, range: PageRange) -> Result<(), Errno> {
        if let Marking::Foreign(_) = self.marking {
            return Err(Errno::OPNOTSUPP);
        }
        self.clear(range)?;
        match advise(range, Advice::LinuxRemove) {
            // Private memory has no file from which anything might come back.
            Err(Errno::INVAL | Errno::ACCESS) => Ok(()),
            answer => answer,
        }
    }
}

fn advise(range: PageRange, advice: Advice) -> Result<(), Errno> {
    let (start, len) = raw(range);
    // SAFETY: the range is served memory of this process, to which nobody has references; that its
    // contents are not to be kept is what the callers establish.
    unsafe { madvise(start, len, advice) }
}

fn set_access(range: PageRange, access: MprotectFlags) -> Result<(), Errno> {
    let (start, len) = raw(range);
    // SAFETY: the range is served memory of this process; `Pager::start`'s caller has promised that
    // nothing but the guest and system calls that may fail depend on its access rights.
    unsafe { mprotect(start, len, access) }
}

fn raw(range: PageRange) -> (*mut core::ffi::c_void, usize) {
    (
        core::ptr::with_exposed_provenance_mut(range.start().get() as usize),
        range.len() as usize,
    )
}
