//! `guest-error`: the guest is told.

use crate::faults::FaultsConfig;

use super::{AfterFailure, AsyncFailure, Attempt, ErrorGfn, Policy};

/// The event "page ready" carries an error word, upon which the guest sends SIGBUS to the task; where
/// the guest cannot be told, `error-gfn` takes over. Vivek Goyal, RFC of 16 June 2020, patches 1 and
/// 2 of 3 (<https://lore.kernel.org/kvm/20200616214847.24482-1-vgoyal@redhat.com/>): CPUID bit 15
/// (taken for something else since), `MSR_KVM_ASYNC_PF_EN` bit 4, `u32 ready_flags` at offset 8 of
/// the shared area.
///
/// As posted, so with its quirks:
/// * It notes what the *work* met (`work->error_code`), not what the prefault says: shadow paging
///   hides nothing from it. A page that was repaired between the two still costs the task its life.
/// * The guest signals tasks in user mode only. A fault in the guest's kernel is not announced, so
///   that its error takes the fallback, with all its quirks: one slot a vCPU, address 0, no clearing.
/// * Any failure of the host reaches the guest, a passing one as well: the task is killed, and nobody
///   outside is told. That the host's faults would leak into the guest was an objection.
/// * The token was written before the error word. A guest that reads at once misses the error; here
///   both are written together.
#[derive(PartialEq, Eq, Hash, Debug)]
pub struct GuestError {
    fallback: ErrorGfn,
}

crate::clone_in_place! { GuestError {
    fallback,
} }

impl Policy for GuestError {
    fn new(config: &FaultsConfig) -> GuestError {
        GuestError {
            fallback: ErrorGfn::new(config),
        }
    }

    fn may_go_async(&mut self, attempt: &Attempt) -> bool {
        self.fallback.may_go_async(attempt)
    }

    fn work_failed(&mut self, failed: &AsyncFailure) -> AfterFailure {
        if failed.guest_reads_errors {
            AfterFailure::TellGuest
        } else {
            self.fallback.async_failed(failed)
        }
    }

    fn state_bytes(&self) -> usize {
        self.fallback.state_bytes()
    }
}
