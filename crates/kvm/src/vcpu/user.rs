//! A vCPU whose asynchronous faults come from user space ([`crate::apf`]).
//!
//! ```text
//!              ┌──────────────── completions served ◄────────────────────────┐
//!              ▼                                                             │
//!  run ─► KVM_RUN ─┬─ EINTR, seen blocked ─► registers ─► Faults ─┬─ told ───┤
//!                  ├─ SIGBUS, EFAULT, MMIO in a slot ─┬───────────┤          │
//!                  │                                  └─ asked for, there ───┤
//!                  ├─ EINTR otherwise ────────────────────────────┼─ waits ──┘
//!                  ├─ rdmsr, wrmsr: answered                      └─ report
//!                  ├─ hlt: sleeps until there is an interrupt (no irqchip in KVM)
//!                  └─ out: the guest has something to say
//! ```

use core::ptr::NonNull;
use std::sync::Arc;

use kvm_bindings::KVM_STATE_NESTED_GUEST_MODE;
use kvm_bindings::nested::KvmNestedStateBuffer;
use kvm_ioctls::{SyncReg, VcpuFd};
use surefault_core::faults::{Fault, Moment};
use surefault_core::{Access, Failure, Gfn, Gpa, Gva, Hva, PageId, PageSize};

use super::{Exit, Retries, Stop, Vcpu, VcpuError};
use crate::apf::{Apf, Next, Taken, moment};
use crate::signals::Run;

impl Vcpu {
    /// As [`run`](Self::run).
    pub(super) fn run_from_user_space(&mut self, apf: &Arc<Apf>) -> Result<Exit, VcpuError> {
        let kicker = Arc::clone(&self.kicker);
        let immediate_exit = NonNull::from(&mut self.fd.get_kvm_run().immediate_exit);
        let armed = Run::new(&kicker, immediate_exit);
        for registers in [
            SyncReg::Register,
            SyncReg::SystemRegister,
            SyncReg::VcpuEvents,
        ] {
            self.fd.set_sync_valid_reg(registers);
        }
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        let interrupts = self.interrupts.clone();
        apf.running(self.id, &kicker, interrupts.as_ref(), thread.unsigned_abs());
        let mut retries = Retries::default();
        let mut waits_for = None;
        loop {
            // In this order: a kick that sets it after this is seen by KVM_RUN, and one that set it
            // before is taken here.
            self.fd.set_kvm_immediate_exit(0);
            if kicker.take() {
                apf.left(self.id);
                return Ok(Exit::Kicked);
            }
            self.stand_by()?;
            match apf.enter(self.id, self.unfinished.is_none()) {
                Next::Enter => {}
                Next::Report(fault, failure) => return self.report(fault, failure),
            }
            if let Some(page) = waits_for.filter(|_| !self.exception_queued) {
                apf.sleep_for(self.id, page, &kicker);
                apf.exited(self.id, false, true);
                waits_for = apf.is_slept_for(page).then_some(page);
                continue;
            }
            if self.unfinished.is_some() {
                if let Some(missing) = self.finish_access()? {
                    let (fault, _) = self.fault(&missing)?;
                    waits_for = self.refused(apf, &mut retries, fault)?;
                }
                continue;
            }
            if self.halted {
                self.sleep();
                apf.exited(self.id, false, false);
                continue;
            }
            self.queue_interrupt()?;
            let stop = self.enter()?;
            let failed = armed.take_failed();
            self.exception_queued = false;
            let interrupted = failed.is_none() && matches!(stop, Stop::Interrupted);
            let refused = failed.is_some()
                || matches!(stop, Stop::BadAddress | Stop::Memory(_) | Stop::Mmio(_));
            let blocked_on = apf.exited(self.id, interrupted, refused);
            if !interrupted {
                self.watch.count_return();
            }
            let fault = match stop {
                Stop::Out(port) => return Ok(Exit::Out(port)),
                Stop::Answered => continue,
                Stop::Halted => {
                    self.halted = true;
                    continue;
                }
                Stop::Interrupted => match (failed, blocked_on) {
                    (Some(hva), _) => self.fault_at(hva)?,
                    (None, Some(hva)) => {
                        let fault = self.fault_at(hva)?;
                        self.take(apf, fault);
                        continue;
                    }
                    (None, None) => continue,
                },
                Stop::BadAddress => self.fault_in(self.missing_at_rip()?.gpa)?,
                Stop::Memory(gpa) => self.fault_in(gpa)?,
                Stop::Mmio(unfinished) => {
                    let missing = self.missing_at_gpa(unfinished.gpa())?;
                    self.unfinished = Some(unfinished);
                    self.fault(&missing)?.0
                }
            };
            waits_for = self.refused(apf, &mut retries, fault)?;
        }
    }

    /// The vCPU was refused the page of `fault`: it has failed, or is about to be known to have, or
    /// it has not been asked for yet, or somebody is not telling the truth. Gives what it is to sleep
    /// for.
    fn refused(
        &mut self,
        apf: &Apf,
        retries: &mut Retries,
        fault: Fault,
    ) -> Result<Option<PageId>, VcpuError> {
        let taken = match apf.ask(self.id, fault.page, &self.kicker) {
            true => Taken::Waits,
            false => self.take(apf, fault),
        };
        match taken {
            Taken::Announced | Taken::Stopped => Ok(None),
            Taken::Ask => {
                let (listening, others) = self.listening()?;
                if apf.listening(self.id, listening) {
                    self.queue_machine_check(gpa_of(&fault), others)?;
                    *retries = Retries::default();
                }
                Ok(None)
            }
            Taken::Waits if apf.is_slept_for(fault.page) => Ok(Some(fault.page)),
            Taken::Waits => {
                let gpa = gpa_of(&fault);
                match retries.again_at(fault.rip, gpa) {
                    true => Ok(None),
                    false => Err(VcpuError::NoProgress {
                        vcpu: self.id,
                        gpa,
                        rip: fault.rip,
                    }),
                }
            }
        }
    }

    /// Gives a fault to the machine; if its guest is to be told, it is at the next entry.
    fn take(&mut self, apf: &Apf, fault: Fault) -> Taken {
        let regs = self.fd.sync_regs();
        let moment = Moment {
            emulated: self.unfinished.is_some(),
            ..moment(&regs, || runs_a_guest(&self.fd))
        };
        let mut events = regs.events;
        let taken = apf.fault(self.id, fault, &moment, &mut events);
        if taken == Taken::Announced {
            self.fd.sync_regs_mut().events = events;
            self.fd.set_sync_dirty_reg(SyncReg::VcpuEvents);
            self.exception_queued = true;
        }
        taken
    }

    /// The fault of the instruction that the vCPU stands at on the memory at `hva`.
    fn fault_at(&self, hva: Hva) -> Result<Fault, VcpuError> {
        let gpa = self.slots.iter().find_map(|slot| slot.gpa_of(hva));
        match gpa {
            Some(gpa) if self.pages.page_of(hva).is_some() => self.fault_in(gpa),
            Some(_) | None => Err(VcpuError::Lost { vcpu: self.id, hva }),
        }
    }

    /// The same on guest memory.
    fn fault_in(&self, gpa: Gpa) -> Result<Fault, VcpuError> {
        let found = self.slots.iter().find_map(|slot| {
            let page = self.pages.page_of(slot.hva_of(gpa)?)?;
            Some((slot.id(), page))
        });
        let (memslot, page) = found.ok_or(VcpuError::NoMemory { vcpu: self.id, gpa })?;
        Ok(Fault {
            page,
            memslot,
            gfn: Gfn::of(gpa.page_base(self.pages.page_size()), PageSize::KIB_4),
            rip: Gva::new(self.fd.sync_regs().regs.rip),
        })
    }

    /// The end of an access that failed. Under `exit-on-completion` the registers may be another
    /// task's, and the access is unknown then.
    fn report(&self, fault: Fault, failure: Failure) -> Result<Exit, VcpuError> {
        let access = match self.unfinished {
            Some(unfinished) if unfinished.is_write() => Access::Write,
            Some(_) | None => {
                let footprint = self.cpu()?.footprint(&self.fd, &self.slots);
                footprint.access_to(gpa_of(&fault), self.pages.page_size())
            }
        };
        let report = fault.report(self.id, access, failure, PageSize::KIB_4);
        Ok(Exit::Failed {
            report: report.expect("the frame of an address has an address"),
            page: fault.page,
        })
    }
}

fn gpa_of(fault: &Fault) -> Gpa {
    (fault.gfn.gpa(PageSize::KIB_4)).expect("the frame of an address has an address")
}

/// Whether a guest of the guest's is what runs. Where KVM does not say, it may be.
fn runs_a_guest(fd: &VcpuFd) -> bool {
    let mut nested = KvmNestedStateBuffer::empty();
    match fd.nested_state(&mut nested) {
        Ok(_) => u32::from(nested.flags) & KVM_STATE_NESTED_GUEST_MODE != 0,
        Err(_) => true,
    }
}
