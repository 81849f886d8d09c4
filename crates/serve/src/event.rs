//! What happens in the daemon, for its log and for who listens on the control socket.

use core::fmt;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A VM that is served, numbered from 1 in the order of the handshakes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VmId(u64);

impl VmId {
    /// The VM with this number.
    pub const fn new(raw: u64) -> VmId {
        VmId(raw)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What happened. As JSON each is one object, whose `event` says which it is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Event {
    /// VMs can connect to a socket.
    Listening {
        /// The socket.
        socket: PathBuf,
        /// What its VMs are served from.
        store: String,
    },
    /// They no longer can.
    Removed {
        /// The socket.
        socket: PathBuf,
    },
    /// A VM is served from now on.
    VmStarted {
        /// Its number.
        vm: VmId,
        /// The socket that it came from.
        socket: PathBuf,
        /// What it is served from.
        store: String,
        /// Its process.
        pid: u32,
        /// Its regions.
        regions: usize,
        /// Their bytes.
        bytes: u64,
    },
    /// A VM that another worker has served is served on.
    VmResumed {
        /// The VM.
        vm: VmId,
        /// Its process.
        pid: u32,
    },
    /// The supervisor does not keep something: if this process dies, nobody goes on with it.
    NotKept {
        /// What.
        key: String,
    },
    /// The supervisor has died: nobody would go on after this process.
    SupervisorGone {
        /// VMs that are served.
        vms: usize,
    },
    /// A connection was not accepted.
    Refused {
        /// The socket.
        socket: PathBuf,
        /// The process that connected, if that is known.
        pid: Option<u32>,
        /// Why.
        reason: String,
        /// Whether the process was killed: it had handed over its memory, and would have found zeros
        /// in it.
        killed: bool,
    },
    /// A page could not be provided.
    PageFailed {
        /// The VM.
        vm: VmId,
        /// Its process.
        pid: u32,
        /// The region, counted from 0.
        region: u16,
        /// The page in it, counted from 0.
        page: u32,
        /// Where the page is in the process's memory, in hexadecimal.
        address: String,
        /// Where it is in the source, in bytes.
        offset: u64,
        /// The kind of cause.
        kind: String,
        /// The cause in words.
        cause: String,
        /// Attempts at this page alone.
        attempts: u8,
        /// What was done.
        action: FailureAction,
    },
    /// A page that had failed is there after all.
    PageRecovered {
        /// The VM.
        vm: VmId,
        /// The region.
        region: u16,
        /// The page in it.
        page: u32,
    },
    /// A VM touched memory that it registered, but did not tell of.
    StrayFault {
        /// The VM.
        vm: VmId,
        /// Where, in hexadecimal.
        address: String,
    },
    /// A VM's process lives, but has closed its connection.
    HungUp {
        /// The VM.
        vm: VmId,
        /// Its process.
        pid: u32,
    },
    /// A process was to be killed, and could not be.
    CannotKill {
        /// Its process.
        pid: u32,
        /// Why.
        reason: String,
    },
    /// The thread that reads a VM's page faults has panicked, which is a bug.
    Panicked {
        /// The VM.
        vm: VmId,
        /// Its process.
        pid: u32,
        /// Whether this worker ends for that, and another goes on; else the VM's process is killed.
        restarts: bool,
    },
    /// A VM has ended.
    VmEnded(VmSummary),
    /// The daemon accepts nobody any more, and ends when its VMs have.
    Draining {
        /// How many are left.
        vms: usize,
    },
}

/// What was done about a failed page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureAction {
    /// Accesses to it end with SIGBUS.
    Poisoned,
    /// The process was killed.
    Killed,
    /// Who touched it waits, until the source heals.
    Waiting,
}

/// A VM's whole life.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VmSummary {
    /// The VM.
    pub vm: VmId,
    /// Its process.
    pub pid: u32,
    /// The socket that it came from.
    pub socket: PathBuf,
    /// Page faults.
    pub faults: u64,
    /// Pages that were put in place from the source.
    pub pages: u64,
    /// Pages of zeros that were.
    pub zeros: u64,
    /// Pages that the VM gave back.
    pub removed: u64,
    /// Pages that failed, each time they did.
    pub failures: u64,
    /// From event to wake-up: the median; null without faults.
    pub p50_ns: Option<u64>,
    /// The 99th percentile.
    pub p99_ns: Option<u64>,
    /// From its handshake to its end.
    pub elapsed_ns: u64,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Listening { socket, store } => {
                write!(f, "listening at {}, serving {store}", socket.display())
            }
            Event::Removed { socket } => {
                write!(f, "not listening at {} any more", socket.display())
            }
            Event::VmStarted {
                vm,
                socket,
                store,
                pid,
                regions,
                bytes,
            } => write!(
                f,
                "vm {vm}: process {pid} at {}, {regions} regions, {} MiB from {store}",
                socket.display(),
                bytes >> 20
            ),
            Event::VmResumed { vm, pid } => write!(f, "vm {vm}: process {pid} is served on"),
            Event::NotKept { key } => {
                write!(
                    f,
                    "{key}: THE SUPERVISOR DOES NOT KEEP IT; if this process dies, it is lost"
                )
            }
            Event::SupervisorGone { vms } => write!(
                f,
                "THE SUPERVISOR IS GONE: {vms} VMs are served to their end, and nobody new; if this \
                 process dies, they hang"
            ),
            Event::Refused {
                socket,
                pid,
                reason,
                killed,
            } => {
                write!(f, "refused at {}: ", socket.display())?;
                if let Some(pid) = pid {
                    write!(f, "process {pid}: ")?;
                }
                f.write_str(reason)?;
                match killed {
                    true => f.write_str("; it was killed, for its memory would read as zeros"),
                    false => Ok(()),
                }
            }
            Event::PageFailed {
                vm,
                pid,
                region,
                page,
                address,
                offset,
                cause,
                attempts,
                action,
                kind: _,
            } => {
                write!(
                    f,
                    "vm {vm}: page {page} of region {region} failed (address {address}, offset \
                     {offset:#x} of the source): {cause} ({attempts} attempts); "
                )?;
                match action {
                    FailureAction::Poisoned => f.write_str("accesses to it end with SIGBUS"),
                    FailureAction::Killed => write!(f, "process {pid} was killed"),
                    FailureAction::Waiting => f.write_str("WHO TOUCHED IT WAITS until it heals"),
                }
            }
            Event::PageRecovered { vm, region, page } => {
                write!(
                    f,
                    "vm {vm}: page {page} of region {region} is there after all"
                )
            }
            Event::StrayFault { vm, address } => write!(
                f,
                "vm {vm}: {address} was touched, which is registered but in none of its regions"
            ),
            Event::HungUp { vm, pid } => write!(
                f,
                "vm {vm}: process {pid} closed its connection but lives: served until it ends"
            ),
            Event::CannotKill { pid, reason } => {
                write!(f, "process {pid} CANNOT BE KILLED: {reason}")
            }
            Event::Panicked { vm, pid, restarts } => {
                let then = match restarts {
                    true => "another worker goes on",
                    false => "its process is killed",
                };
                write!(f, "vm {vm}: serving process {pid} PANICKED: {then}")
            }
            Event::VmEnded(summary) => summary.fmt(f),
            Event::Draining { vms } => write!(f, "draining: {vms} VMs left"),
        }
    }
}

impl fmt::Display for VmSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let VmSummary {
            vm,
            pid,
            pages,
            zeros,
            failures,
            ..
        } = self;
        let elapsed = Duration::from_nanos(self.elapsed_ns);
        write!(
            f,
            "vm {vm}: process {pid} ended after {elapsed:.1?}: {pages} pages"
        )?;
        if *zeros > 0 {
            write!(f, ", {zeros} of zeros")?;
        }
        if let (Some(p50), Some(p99)) = (self.p50_ns, self.p99_ns) {
            let (p50, p99) = (Duration::from_nanos(p50), Duration::from_nanos(p99));
            write!(f, ", p50 {p50:.1?}, p99 {p99:.1?}")?;
        }
        write!(f, ", {failures} failures")
    }
}

/// Events that a listener may lag behind.
const LAG: usize = 1024;

/// Tells events to the log and to whoever listens.
pub(crate) struct Events {
    log: Box<dyn Fn(&Event) + Send + Sync>,
    listeners: Mutex<Vec<SyncSender<Event>>>,
}

impl Events {
    pub(crate) fn new(log: impl Fn(&Event) + Send + Sync + 'static) -> Events {
        Events {
            log: Box::new(log),
            listeners: Mutex::default(),
        }
    }

    /// Tells everybody. Waits for nobody: a listener that lags too far behind is dropped.
    pub(crate) fn tell(&self, event: &Event) {
        (self.log)(event);
        let mut listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| match listener.try_send(event.clone()) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        });
    }

    /// Every event from now on.
    pub(crate) fn listen(&self) -> Receiver<Event> {
        let (sender, receiver) = sync_channel(LAG);
        let mut listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        listeners.push(sender);
        receiver
    }

    /// Nobody hears anything any more.
    pub(crate) fn close(&self) {
        let mut listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        listeners.clear();
    }
}
