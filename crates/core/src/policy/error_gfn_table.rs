//! `error-gfn-table`: a direct-mapped table a vCPU.

use crate::VcpuId;
use crate::faults::{FaultsConfig, hash_32};

use super::{AddressKey, AfterFailure, AsyncFailure, Attempt, Policy};

/// Each vCPU remembers the addresses whose asynchronous faults failed in a table of 64 slots; a
/// fault on one that is found there is forgotten and goes the synchronous way. Vivek Goyal, "Exit to
/// user space in case page fault error", v4 of 20 July 2020
/// (<https://lore.kernel.org/kvm/20200720211359.GF502563@redhat.com/>), the answer to the doubts
/// about [`ErrorGfn`](super::ErrorGfn). Reviewed in autumn, never merged.
///
/// As posted, so with its quirks:
/// * Direct-mapped by `hash_32(gfn, 6)`, and an error overwrites whatever has its slot ("this is just
///   a hint"): addresses that share a slot behave as under `error-gfn`.
/// * One shot (`kvm_find_and_remove_error_gfn`): the first fault that finds its address takes it
///   away, whoever takes that fault. Another task that failed on the same page, or the same task
///   after a signal took it out of its wait, begins anew.
/// * Per vCPU: a task that migrates before its retry meets a vCPU that knows nothing, and leaves an
///   entry behind.
/// * An entry that nobody comes back for stays until a reset, which clears the table, or until it is
///   overwritten. A page that was repaired in the meantime once goes the synchronous way for it.
/// * What it notes is what the prefault says: nothing where that is skipped (shadow paging after a
///   task switch). Both sides use `gpa_to_gfn(cr2_or_gpa)`, under shadow paging still a
///   guest-virtual page.
#[derive(PartialEq, Eq, Hash, Debug)]
pub struct ErrorGfnTable {
    /// The slots of all vCPUs, one vCPU after the other. Empty is `GFN_INVALID`.
    slots: Box<[Option<AddressKey>]>,
    per_vcpu: usize,
}

crate::clone_in_place! { ErrorGfnTable {
    slots, per_vcpu,
} }

impl ErrorGfnTable {
    /// The slot of an address among `slots`, a power of two (`kvm_error_gfn_hash_fn`).
    pub fn slot_of(key: AddressKey, slots: usize) -> usize {
        // Linux masks to 32 bits, too.
        hash_32(key.get() as u32, slots.trailing_zeros()) as usize
    }

    fn slot(&mut self, vcpu: VcpuId, key: AddressKey) -> Option<&mut Option<AddressKey>> {
        let slot = ErrorGfnTable::slot_of(key, self.per_vcpu);
        self.table(vcpu)?.get_mut(slot)
    }

    fn table(&mut self, vcpu: VcpuId) -> Option<&mut [Option<AddressKey>]> {
        let first = vcpu.get() as usize * self.per_vcpu;
        self.slots.get_mut(first..first + self.per_vcpu)
    }

    /// The entries of all vCPUs.
    pub fn entries(&self) -> usize {
        self.slots.iter().flatten().count()
    }
}

impl Policy for ErrorGfnTable {
    fn new(config: &FaultsConfig) -> ErrorGfnTable {
        let per_vcpu = usize::from(config.error_slots);
        ErrorGfnTable {
            slots: vec![None; usize::from(config.vcpus) * per_vcpu].into_boxed_slice(),
            per_vcpu,
        }
    }

    fn may_go_async(&mut self, attempt: &Attempt) -> bool {
        match self.slot(attempt.vcpu, attempt.key) {
            Some(slot) if *slot == Some(attempt.key) => {
                *slot = None;
                false
            }
            Some(_) | None => true,
        }
    }

    fn async_failed(&mut self, failed: &AsyncFailure) -> AfterFailure {
        if let Some(slot) = self.slot(failed.vcpu, failed.key) {
            *slot = Some(failed.key);
        }
        AfterFailure::SayReady
    }

    fn vcpu_reset(&mut self, vcpu: VcpuId) {
        if let Some(table) = self.table(vcpu) {
            table.fill(None);
        }
    }

    fn state_bytes(&self) -> usize {
        // A gfn a slot; an empty one is a value that no gfn has.
        self.slots.len() * size_of::<AddressKey>()
    }
}
