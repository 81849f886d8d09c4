//! Tells the guest of a page that failed, at the instruction that wanted it.

use kvm_bindings::kvm_vcpu_events;
use surefault_core::Gpa;
use surefault_core::faults::Listening;

use super::{Vcpu, VcpuError};

/// CR4: machine checks are on.
const CR4_MCE: u64 = 1 << 6;
/// In `kvm_run.flags`: in system management mode; a guest of the guest's runs.
const RUN_SMM: u16 = 1 << 0;
const RUN_GUEST_MODE: u16 = 1 << 2;

impl Vcpu {
    /// Whether the guest can be told, now that the vCPU stands at the failed access.
    pub(super) fn listening(&mut self) -> Result<Listening, VcpuError> {
        let flags = self.fd.get_kvm_run().flags;
        let refused = |source| VcpuError::Registers {
            vcpu: self.id,
            source,
        };
        let sregs = self.fd.get_sregs().map_err(refused)?;
        let events = self.fd.get_vcpu_events().map_err(refused)?;
        let elsewhere = flags & (RUN_SMM | RUN_GUEST_MODE) != 0;
        let checks = self.machine_checks.as_ref();
        Ok(Listening {
            kernel_mode: sregs.ss.dpl != 3,
            event_pending: is_pending(&events),
            machine_checks: !elsewhere
                && sregs.cr4 & CR4_MCE != 0
                // KVM is in the middle of the instruction, and would go on with it first.
                && self.unfinished.is_none()
                && checks.is_some_and(|checks| checks.are_taken(&self.fd)),
        })
    }

    /// Has the guest take a machine check for the page at `gpa`, at the next entry.
    pub(super) fn queue_machine_check(&mut self, gpa: Gpa) -> Result<(), VcpuError> {
        let Some(checks) = &self.machine_checks else {
            return Ok(());
        };
        let queued = checks.queue(&self.fd, gpa);
        queued.map_err(|source| VcpuError::MachineCheck {
            vcpu: self.id,
            source,
        })
    }
}

/// Whether an event waits to be injected.
fn is_pending(events: &kvm_vcpu_events) -> bool {
    let (exception, nmi) = (&events.exception, &events.nmi);
    exception.injected != 0
        || exception.pending != 0
        || events.interrupt.injected != 0
        || nmi.injected != 0
}
