//! What a driver tells the machine.

use crate::policy::AddressKey;
use crate::report::{Access, FaultReport};
use crate::{Failure, Gfn, Gva, PageId, PageSize, SlotId, VcpuId};

use super::Paging;

/// What was faulted on, and where: all that a report needs but the access and the cause.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Fault {
    /// The page.
    pub page: PageId,
    /// The memory slot that maps it here.
    pub memslot: SlotId,
    /// The guest frame it was asked for by.
    pub gfn: Gfn,
    /// The faulting instruction.
    pub rip: Gva,
}

impl Fault {
    /// The report of this fault. The driver decodes the instruction for `access` while the vCPU
    /// stands there. `None` when the gfn has no address.
    pub fn report(
        &self,
        vcpu: VcpuId,
        access: Access,
        failure: Failure,
        page_size: PageSize,
    ) -> Option<FaultReport> {
        Some(FaultReport {
            vcpu,
            memslot: self.memslot,
            gfn: self.gfn,
            gpa: self.gfn.gpa(page_size)?,
            rip: self.rip,
            access,
            failure,
        })
    }
}

/// The state of the vCPU at the moment of a fault: what decides whether it may be asynchronous.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Moment {
    /// The guest-virtual address; the fault's own address under shadow paging.
    pub gva: Gva,
    /// The address space that runs.
    pub root: Root,
    /// CPL 0.
    pub kernel_mode: bool,
    /// IF is set and no interrupt shadow.
    pub interrupts_allowed: bool,
    /// An exception waits to be injected.
    pub exception_pending: bool,
    /// An event must be injected again.
    pub event_reinjection: bool,
    /// The guest has paging on; without it there may be no #PF handler.
    pub guest_paging: bool,
    /// Not the guest's own access but a prefetch on its behalf.
    pub prefetch: bool,
    /// The guest runs a guest of its own, and that one faulted: it knows nothing of the protocol.
    pub nested: bool,
    /// System management mode, whose handlers are the firmware's.
    pub smm: bool,
    /// The guest has not read the last "not present" yet (its flags are still set), or cannot be
    /// written to at all: one more would be lost.
    pub unread: bool,
    /// KVM's emulator makes the access and is in the middle of the instruction: the guest cannot
    /// be told in between.
    pub emulated: bool,
}

impl Moment {
    /// A user-mode access, with nothing in the way of an asynchronous fault.
    pub const fn user(gva: Gva, root: Root) -> Moment {
        Moment {
            gva,
            root,
            kernel_mode: false,
            interrupts_allowed: true,
            exception_pending: false,
            event_reinjection: false,
            guest_paging: true,
            prefetch: false,
            nested: false,
            smm: false,
            unread: false,
            emulated: false,
        }
    }

    /// The fault's address as the policies posted in 2020 see it.
    pub(super) fn key(&self, paging: Paging, gfn: Gfn) -> AddressKey {
        match paging {
            Paging::TwoDimensional => AddressKey::new(gfn.get()),
            // PAGE_SHIFT: these policies are x86's.
            Paging::Shadow => AddressKey::new(self.gva.get() >> 12),
        }
    }
}

/// A guest address space (CR3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Root(u64);

impl Root {
    /// The address space with this CR3.
    pub const fn new(cr3: u64) -> Root {
        Root(cr3)
    }

    /// Its CR3.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// What came of announcing "page not present" to the guest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Announced {
    /// The shared area is written and the #PF injected.
    Injected,
    /// The shared area could not be written, or the vCPU could not take the #PF after all.
    Refused,
}

/// What came of prefaulting a page for the guest just before it is told "ready".
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Prefaulted {
    /// The page is mapped.
    Fixed,
    /// It could not be mapped just now (a race): the access will tell.
    Retry,
    /// It cannot be provided.
    Error(Failure),
    /// Not tried.
    Skipped,
}

/// Whether an input found the machine in a state that it fits.
///
/// A stale input changes nothing: the answer to something cancelled meanwhile, or a kick that
/// comes when there is nothing left to do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Accepted {
    /// It was taken; poll the effects.
    Taken,
    /// It was dropped.
    Stale,
}
