//! The page that a vCPU could not have, and what the instruction at RIP wants with it.

use surefault_core::faults::Fault;
use surefault_core::residency::PageState;
use surefault_core::{Access, Gfn, Gpa, Gva, Hva, PageId, PageSize};

use super::{Vcpu, VcpuError};
use crate::cpu::Cpu;
use crate::vm::Slot;

/// A page that could not be had: where it is in the guest, and what is known of it.
pub(super) struct Missing {
    slot: Slot,
    pub(super) gpa: Gpa,
    page: PageId,
    pub(super) state: PageState,
}

impl Vcpu {
    pub(super) fn missing_at_hva(&self, hva: Hva) -> Result<Missing, VcpuError> {
        (self.slots.iter())
            .find_map(|slot| self.missing(slot, slot.gpa_of(hva)?))
            .ok_or(VcpuError::Lost { vcpu: self.id, hva })
    }

    pub(super) fn missing_at_gpa(&self, gpa: Gpa) -> Result<Missing, VcpuError> {
        (self.slots.iter())
            .find_map(|slot| self.missing(slot, gpa))
            .ok_or(VcpuError::NoMemory { vcpu: self.id, gpa })
    }

    /// Nothing named the page: whichever page of the instruction has failed; if none has, one that
    /// is about to (the access fails a moment before the pager knows that it does).
    pub(super) fn missing_at_rip(&self) -> Result<Missing, VcpuError> {
        let cpu = self.cpu()?;
        let footprint = cpu.footprint(&self.fd, &self.slots);
        footprint
            .pages()
            .filter_map(|gpa| self.slots.iter().find_map(|slot| self.missing(slot, gpa)))
            .min_by_key(|missing| match missing.state {
                PageState::Failed(_) => 0,
                PageState::Absent
                | PageState::Pending
                | PageState::Present
                | PageState::Removed => 1,
            })
            .ok_or(VcpuError::BadAddress {
                vcpu: self.id,
                rip: cpu.rip(),
            })
    }

    /// What is to be said of the page of `gpa`, if it is in `slot` and provided on demand.
    fn missing(&self, slot: &Slot, gpa: Gpa) -> Option<Missing> {
        let hva = slot.hva_of(gpa)?;
        let page = self.pages.page_of(hva)?;
        Some(Missing {
            slot: slot.clone(),
            gpa: gpa.page_base(self.pages.page_size()),
            page,
            state: self.pages.demand(page),
        })
    }

    /// The fault of the instruction that the vCPU stands at, and what that wants with the page.
    pub(super) fn fault(&self, missing: &Missing) -> Result<(Fault, Access), VcpuError> {
        let (rip, access) = self.instruction(&self.cpu()?, missing);
        let fault = Fault {
            page: missing.page,
            memslot: missing.slot.id(),
            gfn: Gfn::of(missing.gpa, PageSize::KIB_4),
            rip,
        };
        Ok((fault, access))
    }

    /// The instruction that wants the missing page, and what it wants with it.
    fn instruction(&self, cpu: &Cpu, missing: &Missing) -> (Gva, Access) {
        if let Some(unfinished) = self.unfinished
            && unfinished.is_write()
        {
            // RIP is behind the instruction already.
            let (gpa, len) = (unfinished.gpa(), unfinished.len());
            let rip = cpu.writer_before_rip(&self.fd, &self.slots, gpa, len);
            return (rip.unwrap_or(cpu.rip()), Access::Write);
        }
        let footprint = cpu.footprint(&self.fd, &self.slots);
        let access = footprint.access_to(missing.gpa, self.pages.page_size());
        (cpu.rip(), access)
    }
}
