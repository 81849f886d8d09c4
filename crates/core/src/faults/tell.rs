//! Telling the guest of a failed page by a machine check, instead of stopping its vCPU.
//!
//! ```text
//!              Tell                   MachineCheck
//!  a failure ──────► Telling ──┬────────────────────► Entering   the guest kills the task
//!                              ├─ an event is pending: Resume, once; the access comes again
//!                              ├─ the page is healed or removed meanwhile, or the vCPU does not
//!                              │  stand at the access any more: Resume
//!                              └─ it cannot be told: Report
//! ```
//!
//! A machine check is an exception at the faulting instruction, so it goes to whoever runs there:
//! only a failure that belongs to that instruction is told. It cannot be told to a guest whose
//! kernel made the access (there is no task to kill), or that would shut down for it; an event that
//! waits to be injected would be lost. What cannot be told is reported.
//!
//! A guest that takes the machine check and makes the same access again does not listen. It is told
//! a bounded number of times in a row, so that its fault ends, too.

use crate::policy::Policy;
use crate::{Failure, Gva, PageId, VcpuId};

use super::{Accepted, Effect, Fault, Faults, VcpuState};

/// Whether the guest on a vCPU can be told something, at this moment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Listening {
    /// The access is not user mode's: there is no task that it could be blamed on.
    pub kernel_mode: bool,
    /// An event waits to be injected, whose place a machine check would take.
    pub event_pending: bool,
    /// The guest has machine checks on, is not in the middle of one, and there is a form of it that
    /// its CPUs know.
    pub machine_checks: bool,
}

/// What a vCPU's guest has been told, or was to be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Told {
    /// The last access that its guest was told of, and how often in a row.
    last: Option<(PageId, Gva, u16)>,
    /// The access that was put off for a pending event.
    put_off: Option<(PageId, Gva)>,
}

impl<P: Policy> Faults<P> {
    /// The access at the instruction at which the vCPU stands has failed for good.
    pub(super) fn fail(&mut self, id: VcpuId, fault: Fault, failure: Failure) {
        if !self.config.errors_to_guest {
            return self.report(id, fault, failure);
        }
        self.set_state(id, VcpuState::Telling(fault, failure));
        self.emit(Effect::Tell {
            vcpu: id,
            fault,
            failure,
        });
    }

    /// Whether the guest can be told, as `Tell` has asked. Ends with one of `MachineCheck`,
    /// `Resume`, `Report`.
    pub fn handle_listening(&mut self, id: VcpuId, listening: Listening) -> Accepted {
        let Some(VcpuState::Telling(fault, failure)) = self.vcpu_state(id) else {
            return Accepted::Stale;
        };
        let limit = self.config.told_limit;
        let Some(vcpu) = self.vcpu_mut(id) else {
            return Accepted::Stale;
        };
        let here = (fault.page, fault.rip);
        let before = match vcpu.told.last {
            Some((page, rip, times)) if (page, rip) == here => times,
            Some(_) | None => 0,
        };
        let put_off = vcpu.told.put_off.take();
        if listening.kernel_mode || !listening.machine_checks || before >= limit {
            vcpu.told.last = None;
            self.report(id, fault, failure);
        } else if !listening.event_pending {
            vcpu.told.last = Some((fault.page, fault.rip, before + 1));
            vcpu.state = VcpuState::Entering;
            self.emit(Effect::MachineCheck {
                vcpu: id,
                fault,
                failure,
            });
        } else if put_off == Some(here) {
            // The event is still not delivered: it will not be.
            self.report(id, fault, failure);
        } else {
            vcpu.told.put_off = Some(here);
            self.resume(id);
        }
        self.taken()
    }
}
