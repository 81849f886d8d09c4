//! `exit-on-completion`: stop as soon as the error is known.

use crate::faults::FaultsConfig;

use super::{AddressKey, AfterFailure, AsyncFailure, Policy};

/// An asynchronous error raises a request: the vCPU exits to user space at its next entry, with the
/// gfn, before the guest is entered again. Sean Christopherson in reply to `error-gfn-table`, 1 and 2
/// October 2020 (<https://lore.kernel.org/kvm/20201001223320.GI7474@linux.intel.com/>): "8 bytes per
/// vCPU versus 512, with no guesswork".
///
/// It was described in prose and never posted as code; it is played in its favour where the prose is
/// open: an error is noticed wherever it shows first, in the work or in the prefault, so that shadow
/// paging does not hide it, and no error is lost while a request is pending.
///
/// Its quirks:
/// * The task that faulted is usually asleep, so the registers at the exit are somebody else's: the
///   report names a page that the task on the vCPU never touched. The author of the table raised it;
///   the answer was that user space has no use for the registers.
/// * It says "ready" all the same: unless whoever gets the report repairs the page, the task comes
///   back, and the next report follows.
/// * An error is reported even when its task was killed meanwhile.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ExitOnCompletion {
    vcpus: u16,
}

impl Policy for ExitOnCompletion {
    fn new(config: &FaultsConfig) -> ExitOnCompletion {
        ExitOnCompletion {
            vcpus: config.vcpus,
        }
    }

    fn work_failed(&mut self, _: &AsyncFailure) -> AfterFailure {
        AfterFailure::Exit
    }

    fn async_failed(&mut self, _: &AsyncFailure) -> AfterFailure {
        AfterFailure::Exit
    }

    fn state_bytes(&self) -> usize {
        // The gfn of the pending request.
        usize::from(self.vcpus) * size_of::<AddressKey>()
    }
}
