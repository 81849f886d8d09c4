//! A vCPU whose every fault ends: the guest goes on, or the run ends with a report.
//!
//! ```text
//!            ┌──────────── again: the page is there now, or to be sure ─────┐
//!            ▼                                                              │
//!  run ─► KVM_RUN ─┬─ SIGBUS, EINTR ─ page from the signal's address ──┐    │
//!                  ├─ EFAULT ──────── pages of the instruction at RIP ─┼─► watch ─► report
//!                  ├─ MMIO in a slot ─ page from the exit's gpa ───────┘
//!                  ├─ EINTR ───────── kicked?
//!                  ├─ hlt ─────────── sleep until there is an interrupt (no irqchip in KVM)
//!                  └─ out ─────────── the guest has something to say
//! ```
//!
//! After a report the vCPU stands at the faulting instruction. Running it again makes the access
//! again, which succeeds if the page has been healed and ends in the same report otherwise.

use core::ptr::NonNull;
use std::sync::Arc;

use kvm_ioctls::{VcpuExit, VcpuFd};
use surefault_core::faults::Seen;
use surefault_core::run::Irqchip;
use surefault_core::{FaultReport, Gpa, PageId, PageSize, VcpuId};
use surefault_guest::{Apic, VcpuStart};

use crate::apf::{self, Apf};
use crate::boot;
use crate::broadcast::Broadcast;
use crate::cpu::Cpu;
use crate::interrupts::Interrupts;
use crate::mce::MachineChecks;
use crate::memory::MemoryError;
use crate::mmio::Unfinished;
use crate::pages::PageSource;
use crate::signals::{Kicker, Run, Signals};
use crate::vm::{Slot, Vm};
use crate::watch::{Judgement, Refusal, Watch};

use missing::Missing;
use retries::Retries;
use tell::Others;

mod error;
mod missing;
mod retries;
mod tell;
mod user;

pub use error::VcpuError;

/// A vCPU of a VM.
pub struct Vcpu {
    id: VcpuId,
    fd: VcpuFd,
    slots: Vec<Slot>,
    pages: Arc<dyn PageSource>,
    watch: Arc<Watch>,
    kicker: Arc<Kicker>,
    /// Where KVM has no interrupt controllers.
    interrupts: Option<Arc<Interrupts>>,
    /// The guest has executed HLT, and no interrupt has come since.
    halted: bool,
    /// Where its asynchronous faults come from user space.
    apf: Option<Arc<Apf>>,
    unfinished: Option<Unfinished>,
    /// Where KVM has them.
    machine_checks: Option<MachineChecks>,
    /// Where all vCPUs may have to take one together.
    broadcast: Option<Arc<Broadcast>>,
    /// An exception is queued for the next entry, which no other event may join.
    exception_queued: bool,
}

/// Why a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// The guest wrote to this I/O port.
    Out(u16),
    /// A page cannot be provided.
    Failed {
        /// What there is to say.
        report: FaultReport,
        /// The page.
        page: PageId,
    },
    /// Somebody kicked the vCPU.
    Kicked,
}

/// What `KVM_RUN` came back with, freed from the borrow of the vCPU.
enum Stop {
    Out(u16),
    Interrupted,
    BadAddress,
    Mmio(Unfinished),
    Memory(Gpa),
    Halted,
    /// An MSR that is answered by [`Apf`] was accessed, and was answered.
    Answered,
}

impl Vcpu {
    /// A new vCPU of `vm`, which sees the memory slots that there are now. All vCPUs of a VM are
    /// given the same `watch`.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn new(
        vm: &Vm,
        id: VcpuId,
        pages: Arc<dyn PageSource>,
        watch: Arc<Watch>,
        signals: Signals,
    ) -> Result<Vcpu, VcpuError> {
        let kicker = Arc::new(Kicker::new(signals));
        let interrupts = match vm.irqchip() {
            Irqchip::Kernel => None,
            Irqchip::User => Some(Arc::new(Interrupts::new(Arc::clone(&kicker)))),
        };
        let fd = vm.create_vcpu(id)?;
        let machine_checks = vm.machine_checks(&fd);
        Ok(Vcpu {
            id,
            fd,
            slots: vm.slots().to_vec(),
            pages,
            watch,
            kicker,
            interrupts,
            halted: false,
            apf: None,
            unfinished: None,
            machine_checks,
            broadcast: None,
            exception_queued: false,
        })
    }

    /// Has its asynchronous faults come from `apf`, which is attached to its VM.
    pub fn with_apf(mut self, apf: Arc<Apf>) -> Vcpu {
        self.apf = Some(apf);
        self
    }

    /// Has its machine checks be those of all vCPUs of its VM, where its guest's CPUs know no others.
    pub(crate) fn with_broadcast(mut self, broadcast: Arc<Broadcast>) -> Vcpu {
        let checks = self.machine_checks.as_ref();
        let together = checks.is_some_and(MachineChecks::may_be_everybodys);
        self.broadcast = together.then_some(broadcast);
        self
    }

    /// Gives the vCPU the registers with which the built-in guest starts on it.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn start(&self, start: &VcpuStart) -> Result<(), VcpuError> {
        let apic = match self.interrupts {
            None => Apic::X2apic,
            Some(_) => Apic::None,
        };
        Ok(boot::start(&self.fd, start, apic)?)
    }

    /// KVM's id of it.
    pub fn id(&self) -> VcpuId {
        self.id
    }

    /// KVM's own handle.
    pub fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    /// What gets it out of [`run`](Self::run) from another thread.
    pub fn kicker(&self) -> Arc<Kicker> {
        Arc::clone(&self.kicker)
    }

    /// What interrupts it, from any thread; `None` where KVM has the interrupt controllers.
    pub fn interrupts(&self) -> Option<Arc<Interrupts>> {
        self.interrupts.clone()
    }

    /// Runs the guest on this thread until there is something to say.
    ///
    /// # Errors
    /// When the guest cannot go on for a reason that is not a page's failure.
    pub fn run(&mut self) -> Result<Exit, VcpuError> {
        let broadcast = self.broadcast.as_ref();
        let present = broadcast.map(|broadcast| broadcast.present(self.id, &self.kicker));
        let exit = match self.apf.clone() {
            Some(apf) => self.run_from_user_space(&apf),
            None => self.run_under_linux(),
        }?;
        if let Some(present) = present {
            present.leave(self.readiness()?);
        }
        Ok(exit)
    }

    /// As [`run`](Self::run), where Linux takes the faults.
    fn run_under_linux(&mut self) -> Result<Exit, VcpuError> {
        let kicker = Arc::clone(&self.kicker);
        let immediate_exit = NonNull::from(&mut self.fd.get_kvm_run().immediate_exit);
        let armed = Run::new(&kicker, immediate_exit);
        self.watch.running(self.id);
        let mut retries = Retries::default();
        loop {
            // In this order: a kick that sets it after this is seen by KVM_RUN, and one that set it
            // before is taken here.
            self.fd.set_kvm_immediate_exit(0);
            if kicker.take() {
                return Ok(Exit::Kicked);
            }
            self.stand_by()?;
            if self.halted {
                self.sleep();
                continue;
            }
            let (seen, missing) = match self.finish_access()? {
                Some(missing) => (Seen::MmioInSlot, missing),
                None => {
                    self.queue_interrupt()?;
                    let stop = self.enter()?;
                    self.exception_queued = false;
                    let failed = armed.take_failed();
                    if failed.is_some() || !matches!(stop, Stop::Interrupted | Stop::Halted) {
                        self.watch.count_return();
                    }
                    match stop {
                        Stop::Out(port) => return Ok(Exit::Out(port)),
                        Stop::Halted => {
                            self.halted = true;
                            continue;
                        }
                        Stop::Answered => continue,
                        Stop::Interrupted => match failed {
                            Some(hva) => (Seen::Sigbus, self.missing_at_hva(hva)?),
                            None => continue,
                        },
                        Stop::BadAddress => (Seen::Efault, self.missing_at_rip()?),
                        Stop::Memory(gpa) => (Seen::Efault, self.missing_at_gpa(gpa)?),
                        Stop::Mmio(unfinished) => {
                            let missing = self.missing_at_gpa(unfinished.gpa())?;
                            self.unfinished = Some(unfinished);
                            (Seen::MmioInSlot, missing)
                        }
                    }
                }
            };
            let (fault, access) = self.fault(&missing)?;
            let mut judgement = self.watch.observed(self.id, fault, seen, missing.state);
            let mut others = Others::Unneeded;
            if judgement == Judgement::Ask {
                let listening;
                (listening, others) = self.listening()?;
                judgement = self.watch.listening(self.id, listening);
            }
            match judgement {
                Judgement::Tell => {
                    self.queue_machine_check(missing.gpa, others)?;
                    retries = Retries::default();
                }
                Judgement::Report(fault, failure) => {
                    // KVM's frames are 4 KiB, whatever the host's pages are.
                    let report = fault.report(self.id, access, failure, PageSize::KIB_4);
                    return Ok(Exit::Failed {
                        report: report.expect("the frame of an address has an address"),
                        page: fault.page,
                    });
                }
                Judgement::Again | Judgement::Ask if retries.again_at(fault.rip, missing.gpa) => {}
                Judgement::Again | Judgement::Ask => {
                    return Err(VcpuError::NoProgress {
                        vcpu: self.id,
                        gpa: missing.gpa,
                        rip: fault.rip,
                    });
                }
            }
        }
    }

    /// `KVM_RUN`, once.
    fn enter(&mut self) -> Result<Stop, VcpuError> {
        Ok(match self.fd.run() {
            Ok(VcpuExit::IoOut(port, _)) => Stop::Out(port),
            Ok(VcpuExit::MmioRead(gpa, data)) => Stop::Mmio(Unfinished::read(gpa, data)),
            Ok(VcpuExit::MmioWrite(gpa, data)) => Stop::Mmio(Unfinished::write(gpa, data)),
            Ok(VcpuExit::MemoryFault { gpa, .. }) => {
                let gpa = Gpa::new(gpa);
                self.note_refusal(Some(gpa));
                Stop::Memory(gpa)
            }
            Ok(VcpuExit::X86Rdmsr(exit)) if apf::is_ours(exit.index) => {
                let value = (self.apf.as_ref()).and_then(|apf| apf.read_msr(self.id, exit.index));
                *exit.data = value.unwrap_or(0);
                *exit.error = u8::from(value.is_none());
                Stop::Answered
            }
            Ok(VcpuExit::X86Wrmsr(exit)) if apf::is_ours(exit.index) => {
                let written = (self.apf.as_ref())
                    .and_then(|apf| apf.write_msr(self.id, exit.index, exit.data));
                *exit.error = u8::from(written.is_none());
                Stop::Answered
            }
            Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen) => Stop::Interrupted,
            Ok(VcpuExit::Hlt) => Stop::Halted,
            Ok(exit) => {
                let exit = format!("{exit:?}");
                return Err(VcpuError::Unexpected {
                    vcpu: self.id,
                    rip: self.cpu()?.rip(),
                    exit,
                });
            }
            Err(error) => match error.errno() {
                libc::EINTR | libc::EAGAIN => Stop::Interrupted,
                libc::EFAULT => {
                    self.note_refusal(None);
                    Stop::BadAddress
                }
                _ => {
                    return Err(VcpuError::Run {
                        vcpu: self.id,
                        source: error,
                    });
                }
            },
        })
    }

    /// Has the guest take an interrupt at this entry, or be asked again as soon as it can.
    fn queue_interrupt(&mut self) -> Result<(), VcpuError> {
        let Some(interrupts) = &self.interrupts else {
            return Ok(());
        };
        let queued = interrupts.queue_first(&mut self.fd, self.exception_queued);
        queued.map_err(|source| VcpuError::Interrupt {
            vcpu: self.id,
            source,
        })
    }

    /// The guest has halted: sleeps until it has an interrupt to take, or somebody has this thread look
    /// around.
    fn sleep(&mut self) {
        let open = self.fd.get_kvm_run().if_flag != 0;
        let interrupts = self.interrupts.as_ref();
        let raised = || open && interrupts.is_some_and(|interrupts| interrupts.first().is_some());
        if !raised() {
            self.kicker.sleep();
        }
        self.halted = !raised();
    }

    fn note_refusal(&mut self, named: Option<Gpa>) {
        let exit_reason = self.fd.get_kvm_run().exit_reason;
        self.watch.note_refusal(Refusal {
            errno: libc::EFAULT,
            exit_reason,
            named,
        });
    }

    fn cpu(&self) -> Result<Cpu, VcpuError> {
        Cpu::of(&self.fd).map_err(|source| VcpuError::Registers {
            vcpu: self.id,
            source,
        })
    }

    /// Makes the access that an MMIO exit in a memory slot has left half done, which waits for the
    /// page. Says so if that still cannot be had.
    fn finish_access(&mut self) -> Result<Option<Missing>, VcpuError> {
        let Some(unfinished) = self.unfinished else {
            return Ok(None);
        };
        let gpa = unfinished.gpa();
        match unfinished.finish(&self.slots, self.fd.get_kvm_run()) {
            Ok(()) => {
                self.unfinished = None;
                Ok(None)
            }
            Err(MemoryError::Access { .. }) => self.missing_at_gpa(gpa).map(Some),
            Err(source) => Err(VcpuError::Unfinished {
                vcpu: self.id,
                gpa,
                source,
            }),
        }
    }
}
