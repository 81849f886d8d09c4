//! `error-pending`: one flag a vCPU.

use crate::VcpuId;
use crate::faults::{FaultsConfig, Paging};

use super::{AfterFailure, AsyncFailure, Attempt, Policy};

/// An asynchronous error sets a flag of its vCPU; while it is set no fault of that vCPU goes the
/// asynchronous way. The next abnormal pfn that is handled clears it. Proposed by Vitaly Kuznetsov
/// in reply to `error-gfn` on 26 June 2020, as "completely untested"
/// (<https://lore.kernel.org/kvm/87lfkach6o.fsf@vitty.brq.redhat.com/>).
///
/// As posted, so with its quirks:
/// * *Any* abnormal pfn clears the flag: a write to read-only memory that is emulated, a hardware
///   poison signal, another page's error. There is no promise that it is the same page, only that
///   some error is reported.
/// * If the failing task never comes back (the guest killed it), the flag stays and the vCPU has no
///   asynchronous faults any more; healthy pages pay for it.
/// * It is cleared in `direct_page_fault` only, which serves two-dimensional paging; under shadow
///   paging, whose faults take another function, it is never cleared once set.
/// * A reset does not clear it.
/// * Per vCPU, and noted by the prefault: a task that migrates, or under shadow paging a prefault
///   skipped after a task switch, and the loop goes on as with `error-gfn`.
#[derive(PartialEq, Eq, Hash, Debug)]
pub struct ErrorPending {
    pending: Box<[bool]>,
}

crate::clone_in_place! { ErrorPending {
    pending,
} }

impl ErrorPending {
    fn flag(&mut self, vcpu: VcpuId) -> Option<&mut bool> {
        self.pending.get_mut(vcpu.get() as usize)
    }

    /// Whether this vCPU's faults are all synchronous now.
    pub fn is_pending(&self, vcpu: VcpuId) -> bool {
        self.pending.get(vcpu.get() as usize) == Some(&true)
    }
}

impl Policy for ErrorPending {
    fn new(config: &FaultsConfig) -> ErrorPending {
        ErrorPending {
            pending: vec![false; usize::from(config.vcpus)].into_boxed_slice(),
        }
    }

    fn may_go_async(&mut self, attempt: &Attempt) -> bool {
        !self.is_pending(attempt.vcpu)
    }

    fn async_failed(&mut self, failed: &AsyncFailure) -> AfterFailure {
        if let Some(flag) = self.flag(failed.vcpu) {
            *flag = true;
        }
        AfterFailure::SayReady
    }

    fn abnormal_pfn_handled(&mut self, vcpu: VcpuId, paging: Paging) {
        match paging {
            Paging::TwoDimensional => {
                if let Some(flag) = self.flag(vcpu) {
                    *flag = false;
                }
            }
            Paging::Shadow => {}
        }
    }

    fn is_off(&self, vcpu: VcpuId) -> bool {
        self.is_pending(vcpu)
    }

    fn state_bytes(&self) -> usize {
        size_of_val(&*self.pending)
    }
}
