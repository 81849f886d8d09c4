//! A vCPU whose every fault ends: the guest goes on, or the run ends with a report.
//!
//! ```text
//!            ┌──────────── again: the page is there now, or to be sure ─────┐
//!            ▼                                                              │
//!  run ─► KVM_RUN ─┬─ SIGBUS, EINTR ─ page from the signal's address ──┐    │
//!                  ├─ EFAULT ──────── pages of the instruction at RIP ─┼─► watch ─► report
//!                  ├─ MMIO in a slot ─ page from the exit's gpa ───────┘
//!                  ├─ EINTR ───────── kicked?
//!                  └─ out ─────────── the guest has something to say
//! ```
//!
//! After a report the vCPU stands at the faulting instruction. Running it again makes the access
//! again, which succeeds if the page has been healed and ends in the same report otherwise.

use core::ptr::NonNull;
use core::time::Duration;
use std::sync::Arc;

use kvm_ioctls::{VcpuExit, VcpuFd};
use surefault_core::faults::{Fault, Seen};
use surefault_core::residency::PageState;
use surefault_core::{Access, FaultReport, Gfn, Gpa, Gva, Hva, PageId, PageSize, VcpuId};
use surefault_guest::VcpuStart;

use crate::boot;
use crate::cpu::Cpu;
use crate::memory::MemoryError;
use crate::mmio::Unfinished;
use crate::pages::PageSource;
use crate::signals::{Kicker, Run, Signals};
use crate::vm::{Slot, Vm};
use crate::watch::{Judgement, Refusal, Watch};

mod error;

pub use error::VcpuError;

/// An access that found its page neither present nor failed this often, in a row, at one
/// instruction: somebody is not telling the truth, and a loop without end is what we are here
/// to prevent.
const MAX_RETRIES: u32 = 10_000;

/// The first retries are made at once; later ones give whoever settles the page this much time.
const RETRY_PAUSE: Duration = Duration::from_millis(1);
const EAGER_RETRIES: u32 = 16;

/// A vCPU of a VM.
pub struct Vcpu {
    id: VcpuId,
    fd: VcpuFd,
    slots: Vec<Slot>,
    pages: Arc<dyn PageSource>,
    watch: Arc<Watch>,
    kicker: Arc<Kicker>,
    unfinished: Option<Unfinished>,
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
}

/// A page that could not be had: where it is in the guest, and what is known of it.
struct Missing {
    slot: Slot,
    gpa: Gpa,
    page: PageId,
    state: PageState,
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
        Ok(Vcpu {
            id,
            fd: vm.create_vcpu(id)?,
            slots: vm.slots().to_vec(),
            pages,
            watch,
            kicker: Arc::new(Kicker::new(signals)),
            unfinished: None,
        })
    }

    /// Gives the vCPU the registers with which the built-in guest starts on it.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn start(&self, start: &VcpuStart) -> Result<(), VcpuError> {
        Ok(boot::start(&self.fd, start)?)
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

    /// Runs the guest on this thread until there is something to say.
    ///
    /// # Errors
    /// When the guest cannot go on for a reason that is not a page's failure.
    pub fn run(&mut self) -> Result<Exit, VcpuError> {
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
            let (seen, missing) = match self.finish_access()? {
                Some(missing) => (Seen::MmioInSlot, missing),
                None => {
                    let stop = self.enter()?;
                    let failed = armed.take_failed();
                    if failed.is_some() || !matches!(stop, Stop::Interrupted) {
                        self.watch.count_return();
                    }
                    match stop {
                        Stop::Out(port) => return Ok(Exit::Out(port)),
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
            match self.watch.observed(self.id, fault, seen, missing.state) {
                Judgement::Report(fault, failure) => {
                    // KVM's frames are 4 KiB, whatever the host's pages are.
                    let report = fault.report(self.id, access, failure, PageSize::KIB_4);
                    return Ok(Exit::Failed {
                        report: report.expect("the frame of an address has an address"),
                        page: fault.page,
                    });
                }
                Judgement::Again if retries.again_at(fault.rip, missing.gpa) => {}
                Judgement::Again => {
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
            Ok(VcpuExit::Intr) => Stop::Interrupted,
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

    fn missing_at_hva(&self, hva: Hva) -> Result<Missing, VcpuError> {
        (self.slots.iter())
            .find_map(|slot| self.missing(slot, slot.gpa_of(hva)?))
            .ok_or(VcpuError::Lost { vcpu: self.id, hva })
    }

    fn missing_at_gpa(&self, gpa: Gpa) -> Result<Missing, VcpuError> {
        (self.slots.iter())
            .find_map(|slot| self.missing(slot, gpa))
            .ok_or(VcpuError::NoMemory { vcpu: self.id, gpa })
    }

    /// Nothing named the page: whichever page of the instruction has failed; if none has, one that
    /// is about to (the access fails a moment before the pager knows that it does).
    fn missing_at_rip(&self) -> Result<Missing, VcpuError> {
        let cpu = self.cpu()?;
        let footprint = cpu.footprint(&self.fd, &self.slots);
        footprint
            .pages()
            .filter_map(|gpa| self.slots.iter().find_map(|slot| self.missing(slot, gpa)))
            .min_by_key(|missing| match missing.state {
                PageState::Failed(_) => 0,
                PageState::Absent
                | PageState::Pending
                | PageState::Present
                | PageState::Removed => 1,
            })
            .ok_or(VcpuError::BadAddress {
                vcpu: self.id,
                rip: cpu.rip(),
            })
    }

    /// What is to be said of the page of `gpa`, if it is in `slot` and provided on demand.
    fn missing(&self, slot: &Slot, gpa: Gpa) -> Option<Missing> {
        let hva = slot.hva_of(gpa)?;
        let page = self.pages.page_of(hva)?;
        Some(Missing {
            slot: slot.clone(),
            gpa: gpa.page_base(self.pages.page_size()),
            page,
            state: self.pages.demand(page),
        })
    }

    /// The fault of the instruction that the vCPU stands at, and what that wants with the page.
    fn fault(&self, missing: &Missing) -> Result<(Fault, Access), VcpuError> {
        let (rip, access) = self.instruction(&self.cpu()?, missing);
        let fault = Fault {
            page: missing.page,
            memslot: missing.slot.id(),
            gfn: Gfn::of(missing.gpa, PageSize::KIB_4),
            rip,
        };
        Ok((fault, access))
    }

    /// The instruction that wants the missing page, and what it wants with it.
    fn instruction(&self, cpu: &Cpu, missing: &Missing) -> (Gva, Access) {
        if let Some(unfinished) = self.unfinished
            && unfinished.is_write()
        {
            // RIP is behind the instruction already.
            let (gpa, len) = (unfinished.gpa(), unfinished.len());
            let rip = cpu.writer_before_rip(&self.fd, &self.slots, gpa, len);
            return (rip.unwrap_or(cpu.rip()), Access::Write);
        }
        let footprint = cpu.footprint(&self.fd, &self.slots);
        let access = footprint.access_to(missing.gpa, self.pages.page_size());
        (cpu.rip(), access)
    }
}

/// Counts retries of one access in a row.
#[derive(Default)]
struct Retries {
    at: Option<(Gva, Gpa)>,
    count: u32,
}

impl Retries {
    /// Counts one more retry there; false when there have been too many.
    fn again_at(&mut self, rip: Gva, page: Gpa) -> bool {
        if self.at != Some((rip, page)) {
            self.at = Some((rip, page));
            self.count = 0;
        }
        self.count += 1;
        if self.count > EAGER_RETRIES {
            std::thread::sleep(RETRY_PAUSE);
        }
        self.count <= MAX_RETRIES
    }
}
