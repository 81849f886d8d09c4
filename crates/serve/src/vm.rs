//! A VM that is served, and what is known of it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use surefault_core::{Failure, Hva, PageId};
use surefault_pager::{Attendant, FailedPage, Latencies, Pager, PagerStats, Point, ServedRegion};

use crate::event::{Event, Events, FailureAction, VmId, VmSummary};
use crate::handover::Handover;
use crate::peer::Peer;
use crate::wakeup::Wakeup;

/// All that another daemon would need to go on serving a VM.
#[derive(Debug)]
pub struct VmRecord {
    /// Its number.
    pub id: VmId,
    /// The socket that it came from.
    pub socket: PathBuf,
    /// What it is served from.
    pub store: String,
    /// What lies where in its memory.
    pub regions: Vec<ServedRegion>,
    /// A duplicate of its userfaultfd.
    pub uffd: OwnedFd,
    /// Its process.
    pub peer: Peer,
    /// When it shook hands.
    pub started: Instant,
}

impl VmRecord {
    /// Bytes of all its regions.
    pub fn bytes(&self) -> u64 {
        let bytes = self
            .regions
            .iter()
            .map(|region| region.pages.get() << region.page_size.shift());
        bytes.sum()
    }
}

/// A VM, as its keeper and the control socket see it.
pub(crate) struct Vm {
    pub(crate) record: VmRecord,
    pub(crate) attendant: Arc<VmAttendant>,
    pager: Mutex<Option<Pager>>,
    /// Wakes the keeper: the memory is gone, or the VM's service is to end.
    pub(crate) over: Arc<Wakeup>,
}

impl Vm {
    pub(crate) fn new(
        record: VmRecord,
        attendant: Arc<VmAttendant>,
        pager: Pager,
        over: Arc<Wakeup>,
    ) -> Vm {
        Vm {
            record,
            attendant,
            pager: Mutex::new(Some(pager)),
            over,
        }
    }

    /// Asks something of the pager; `None` when the VM has ended.
    pub(crate) fn ask<T>(&self, question: impl FnOnce(&Pager) -> T) -> Option<T> {
        let pager = self.pager.lock().unwrap_or_else(PoisonError::into_inner);
        pager.as_ref().map(question)
    }

    /// Whether every page is in place, so that the VM needs nobody any more.
    pub(crate) fn is_complete(&self) -> bool {
        let pages: u64 = self
            .record
            .regions
            .iter()
            .map(|region| region.pages.get())
            .sum();
        self.ask(|pager| pager.residency().0.get() == pages) == Some(true)
    }

    /// Ends the service, and says what it was.
    pub(crate) fn end(&self) -> (VmSummary, PagerStats, Latencies) {
        let pager = self
            .pager
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let (stats, latencies) = match &pager {
            Some(pager) => (pager.stats(), pager.latencies()),
            None => Default::default(),
        };
        drop(pager);
        let quantile = |part| {
            let took = latencies.quantile(part)?;
            u64::try_from(took.as_nanos()).ok()
        };
        let summary = VmSummary {
            vm: self.record.id,
            pid: self.record.peer.pid(),
            socket: self.record.socket.clone(),
            faults: stats.faults,
            pages: stats.installed,
            zeros: stats.zeroed,
            removed: stats.removed,
            failures: self.attendant.failures(),
            p50_ns: quantile(0.5),
            p99_ns: quantile(0.99),
            elapsed_ns: u64::try_from(self.record.started.elapsed().as_nanos()).unwrap_or(u64::MAX),
        };
        (summary, stats, latencies)
    }
}

/// Hears of a VM's failed pages, and kills its process where that is the rule.
pub(crate) struct VmAttendant {
    id: VmId,
    pid: u32,
    /// To kill by; a duplicate, because the record lives elsewhere.
    killer: Option<OwnedFd>,
    regions: Vec<ServedRegion>,
    rule: FailedPage,
    events: Arc<Events>,
    over: Arc<Wakeup>,
    /// Who would go on after this process.
    handover: Option<Arc<Handover>>,
    failures: AtomicU64,
    killed: AtomicBool,
}

impl VmAttendant {
    pub(crate) fn new(
        id: VmId,
        peer: &Peer,
        regions: &[ServedRegion],
        rule: FailedPage,
        events: Arc<Events>,
        over: Arc<Wakeup>,
        handover: Option<Arc<Handover>>,
    ) -> io::Result<VmAttendant> {
        let killer = peer
            .pidfd()
            .map(|pidfd| pidfd.try_clone_to_owned())
            .transpose()?;
        Ok(VmAttendant {
            id,
            pid: peer.pid(),
            killer,
            regions: regions.to_vec(),
            rule,
            events,
            over,
            handover,
            failures: AtomicU64::new(0),
            killed: AtomicBool::new(false),
        })
    }

    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// What is done about failed pages.
    fn action(&self) -> FailureAction {
        match self.rule {
            FailedPage::Wait => FailureAction::Waiting,
            // Also where poison was the rule, but was refused.
            _ if self.killed.load(Ordering::Acquire) => FailureAction::Killed,
            _ => FailureAction::Poisoned,
        }
    }
}

impl Attendant for VmAttendant {
    fn page_failed(&self, page: PageId, failure: Failure, cause: &str) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let region = &self.regions[usize::from(page.region().get())];
        let distance = u64::from(page.index().get()) << region.page_size.shift();
        self.events.tell(&Event::PageFailed {
            vm: self.id,
            pid: self.pid,
            region: page.region().get(),
            page: page.index().get(),
            address: Hva::new(region.start.get() + distance).to_string(),
            offset: region.store_offset + distance,
            kind: failure.cause.kind.to_string(),
            cause: cause.to_owned(),
            attempts: failure.attempts,
            action: self.action(),
        });
    }

    fn page_recovered(&self, page: PageId) {
        self.events.tell(&Event::PageRecovered {
            vm: self.id,
            region: page.region().get(),
            page: page.index().get(),
        });
    }

    fn stray_fault(&self, address: Hva) {
        let address = address.to_string();
        self.events.tell(&Event::StrayFault {
            vm: self.id,
            address,
        });
    }

    fn kill(&self) -> io::Result<()> {
        use rustix::process::{Signal, pidfd_send_signal};
        let killed = match &self.killer {
            Some(pidfd) => match pidfd_send_signal(pidfd, Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
                Err(errno) => Err(io::Error::from(errno)),
            },
            None => Err(io::ErrorKind::Unsupported.into()),
        };
        match &killed {
            Ok(()) => self.killed.store(true, Ordering::Release),
            Err(error) => self.events.tell(&Event::CannotKill {
                pid: self.pid,
                reason: error.to_string(),
            }),
        }
        killed
    }

    fn reached(&self, point: Point) {
        crate::death::die_at(&point);
    }

    /// With a supervisor the worker ends, and all VMs are served on by the next one. Without one only
    /// this VM cannot be served any more: its process is killed, for no page of it ever fails or comes.
    fn panicked(&self) {
        let handover = self.handover.as_ref();
        let restarts = handover.is_some_and(|handover| !handover.is_alone());
        self.events.tell(&Event::Panicked {
            vm: self.id,
            pid: self.pid,
            restarts,
        });
        if restarts {
            std::process::abort();
        }
        // Where it cannot be killed, that is said.
        let _ = self.kill();
    }

    fn memory_gone(&self) {
        self.over.wake();
    }
}
