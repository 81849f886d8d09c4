//! Tells the guest of a page that failed, at the instruction that wanted it.

use kvm_bindings::kvm_vcpu_events;
use surefault_core::Gpa;
use surefault_core::faults::Listening;

use super::{Vcpu, VcpuError};
use crate::broadcast::{Held, Hold, Order, Readiness};

/// CR4: machine checks are on.
const CR4_MCE: u64 = 1 << 6;
/// In `kvm_run.flags`: in system management mode; a guest of the guest's runs.
const RUN_SMM: u16 = 1 << 0;
const RUN_GUEST_MODE: u16 = 1 << 2;

/// The other vCPUs of the VM, where all take a machine check together.
pub(super) enum Others {
    /// They have no part in it.
    Unneeded,
    /// They stand ready to take theirs.
    Ready(Held),
    /// Not all of them can.
    Missing,
}

/// What a vCPU stands in the middle of.
struct Standing {
    kernel_mode: bool,
    event_pending: bool,
    /// Between two of its own instructions, with machine checks on.
    open: bool,
}

impl Vcpu {
    /// Whether the guest can be told, now that the vCPU stands at the failed access.
    pub(super) fn listening(&mut self) -> Result<(Listening, Others), VcpuError> {
        let others = self.others()?;
        let standing = self.standing()?;
        let taken = match self.readiness_of_checks() {
            Readiness::Ready => true,
            // In the handler, unless it is the very event that waits.
            Readiness::NotYet => standing.event_pending,
            Readiness::Never => false,
        };
        let listening = Listening {
            kernel_mode: standing.kernel_mode,
            event_pending: standing.event_pending,
            // In the middle of an instruction, KVM would go on with it first.
            machine_checks: standing.open
                && self.unfinished.is_none()
                && taken
                && !matches!(others, Others::Missing),
        };
        Ok((listening, others))
    }

    /// Has the guest take a machine check for the page at `gpa`, at the next entry.
    pub(super) fn queue_machine_check(
        &mut self,
        gpa: Gpa,
        others: Others,
    ) -> Result<(), VcpuError> {
        let Some(checks) = &self.machine_checks else {
            return Ok(());
        };
        let queued = checks.queue(&self.fd, gpa);
        queued.map_err(|source| VcpuError::MachineCheck {
            vcpu: self.id,
            source,
        })?;
        self.exception_queued = true;
        if let Others::Ready(held) = others {
            held.take();
        }
        Ok(())
    }

    /// Where another vCPU's guest is being told, and all take a machine check together: stands
    /// outside of the guest, and takes its own.
    pub(super) fn stand_by(&mut self) -> Result<(), VcpuError> {
        let broadcast = self.broadcast.clone();
        let Some(broadcast) = broadcast.filter(|broadcast| broadcast.wants(self.id)) else {
            return Ok(());
        };
        let readiness = self.readiness()?;
        if broadcast.stand(self.id, readiness) == Order::Go {
            return Ok(());
        }
        let Some(checks) = &self.machine_checks else {
            return Ok(());
        };
        let queued = checks.queue_elsewhere(&self.fd);
        queued.map_err(|source| VcpuError::MachineCheck {
            vcpu: self.id,
            source,
        })?;
        self.exception_queued = true;
        self.halted = false;
        Ok(())
    }

    /// Calls the others, where they have a part in a machine check.
    fn others(&mut self) -> Result<Others, VcpuError> {
        let checks = self.machine_checks.as_ref();
        if !checks.is_some_and(|checks| checks.are_everybodys(&self.fd)) {
            return Ok(Others::Unneeded);
        }
        let Some(broadcast) = self.broadcast.clone() else {
            return Ok(Others::Missing);
        };
        loop {
            match broadcast.hold(self.id) {
                Hold::All(held) => return Ok(Others::Ready(held)),
                Hold::Missing => return Ok(Others::Missing),
                Hold::Busy => self.stand_by()?,
            }
            if self.exception_queued {
                // The other's machine check comes first.
                return Ok(Others::Unneeded);
            }
        }
    }

    /// Whether its guest can take a machine check where it stands.
    pub(super) fn readiness(&mut self) -> Result<Readiness, VcpuError> {
        let busy = self.unfinished.is_some()
            || self.exception_queued
            || self.fd.get_kvm_run().kvm_dirty_regs != 0;
        let standing = self.standing()?;
        Ok(match self.readiness_of_checks() {
            Readiness::Ready if busy || standing.event_pending => Readiness::NotYet,
            Readiness::Ready if !standing.open => Readiness::Never,
            readiness => readiness,
        })
    }

    fn readiness_of_checks(&self) -> Readiness {
        let checks = self.machine_checks.as_ref();
        checks.map_or(Readiness::Never, |checks| checks.readiness(&self.fd))
    }

    fn standing(&mut self) -> Result<Standing, VcpuError> {
        let flags = self.fd.get_kvm_run().flags;
        let refused = |source| VcpuError::Registers {
            vcpu: self.id,
            source,
        };
        let sregs = self.fd.get_sregs().map_err(refused)?;
        let events = self.fd.get_vcpu_events().map_err(refused)?;
        let elsewhere = flags & (RUN_SMM | RUN_GUEST_MODE) != 0;
        Ok(Standing {
            kernel_mode: sregs.ss.dpl != 3,
            event_pending: is_pending(&events),
            open: !elsewhere && sregs.cr4 & CR4_MCE != 0,
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
