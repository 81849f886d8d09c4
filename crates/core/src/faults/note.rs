//! The note that a vCPU's thread is blocked in a page fault of the host's.
//!
//! Where Surefault runs the asynchronous faults from user space, a fault shows first as an event
//! that names a thread and a page. What decides about the fault (the registers) is only known once
//! the thread has been brought out of the guest; by then it may have come out for another reason,
//! another task may run, and the page may have come. So the event leaves a note, which the thread
//! takes up at its exit, and which dies with the next entry, or when the page settles: taken up later, it would be charged to
//! a task that never touched the page.

use crate::policy::Policy;
use crate::{PageId, VcpuId};

use super::{Accepted, Effect, Faults, VcpuState};

impl<P: Policy> Faults<P> {
    /// The vCPU's thread was seen blocked on `page`. Reading that from the kernel and saying it here
    /// is one critical section of the driver's. Leads to `Interrupt`, unless that is asked for
    /// already.
    pub fn handle_noted(&mut self, id: VcpuId, page: PageId) -> Accepted {
        let Some(vcpu) = self.vcpu_mut(id) else {
            return Accepted::Stale;
        };
        if vcpu.state != VcpuState::Guest {
            return Accepted::Stale;
        }
        if vcpu.noted.replace(page).is_none() {
            self.emit(Effect::Interrupt { vcpu: id });
        }
        self.taken()
    }

    /// The page has settled, so that the vCPU's thread is not blocked on it any more: it runs on,
    /// and what it will be blocked on next is another fault.
    pub fn handle_note_over(&mut self, id: VcpuId, page: PageId) -> Accepted {
        match self.vcpu_mut(id) {
            Some(vcpu) if vcpu.noted == Some(page) => {
                vcpu.noted = None;
                self.taken()
            }
            _ => Accepted::Stale,
        }
    }

    /// The page that the vCPU's thread was blocked on when it last was in the guest. Every exit asks
    /// this: with a note whose page is still not there, the exit is a fault on it.
    pub fn noted(&self, id: VcpuId) -> Option<PageId> {
        self.vcpu(id)?.noted
    }
}
