//! `error-gfn`: one slot a vCPU.

use crate::VcpuId;
use crate::faults::FaultsConfig;

use super::{AddressKey, AfterFailure, AsyncFailure, Attempt, Policy};

/// Each vCPU remembers the last address whose asynchronous fault failed; a fault there goes the
/// synchronous way, and so ends in an error. Vivek Goyal, "Exit to user space in case of page fault
/// error", RFC of 25 June 2020
/// (<https://lore.kernel.org/kvm/20200625214701.GA180786@redhat.com/>). A series of nine days before
/// noted what the worker met; this one, and so this policy, what the prefault meets.
///
/// As posted, so with its quirks:
/// * One slot: with several tasks failing on different pages it is overwritten before the matching
///   retry comes, and the end is a matter of luck.
/// * It starts as 0 and is only ever overwritten, never cleared, not even by a reset: address 0
///   never goes the asynchronous way until the first error, and a page once repaired keeps its
///   place in the slot.
/// * The key is the fault's address shifted by 12: under shadow paging a guest-virtual page, the
///   same in every address space.
/// * Per vCPU: a task that migrates before its retry meets a vCPU that knows nothing.
/// * It notes what the prefault says. Under shadow paging the prefault is skipped once another
///   task runs; then nothing is noted, and the loop goes on.
#[derive(PartialEq, Eq, Hash, Debug)]
pub struct ErrorGfn {
    last: Box<[AddressKey]>,
}

crate::clone_in_place! { ErrorGfn {
    last,
} }

impl ErrorGfn {
    fn slot(&mut self, vcpu: VcpuId) -> Option<&mut AddressKey> {
        self.last.get_mut(vcpu.get() as usize)
    }
}

impl Policy for ErrorGfn {
    fn new(config: &FaultsConfig) -> ErrorGfn {
        ErrorGfn {
            last: vec![AddressKey::default(); usize::from(config.vcpus)].into_boxed_slice(),
        }
    }

    fn may_go_async(&mut self, attempt: &Attempt) -> bool {
        self.slot(attempt.vcpu)
            .is_none_or(|slot| *slot != attempt.key)
    }

    fn async_failed(&mut self, failed: &AsyncFailure) -> AfterFailure {
        if let Some(slot) = self.slot(failed.vcpu) {
            *slot = failed.key;
        }
        AfterFailure::SayReady
    }

    fn state_bytes(&self) -> usize {
        size_of_val(&*self.last)
    }
}
