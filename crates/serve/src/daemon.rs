//! The daemon: its sockets, its VMs, its end.
//!
//! ```text
//!  run: accept, a thread for each VM ── drain ──► nobody is accepted; VMs are served to their end ──► over
//!                                    └─ stop ───► VMs that lack pages are killed, all are let go ──► over
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use surefault_core::{PageId, PageIndex, RegionId};
use surefault_pager::{Latencies, PagerStats};

use crate::ServeConfig;
use crate::asked::Asked;
use crate::control::{ListenerInfo, Pages, Reply, VmInfo};
use crate::event::{Event, Events, VmId};
use crate::handover::{Handover, Supervised};
use crate::listener::{ListenError, Listener};
use crate::resume::{Left, LeftConnection};
use crate::source::Source;
use crate::spare::Spare;
use crate::supervisor::{Entry, VmEntry};
use crate::vm::Vm;
use crate::wakeup::Wakeup;

/// Who listens to events is given this long to take the last of them.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// From what is said on the control socket to a source.
pub type Sources = dyn Fn(&str) -> Result<Arc<dyn Source>, String> + Send + Sync;

/// Serves VMs. Clones are the same daemon.
#[derive(Clone)]
pub struct Daemon {
    shared: Arc<Shared>,
}

/// What the threads of a daemon share.
pub(crate) struct Shared {
    pub(crate) config: ServeConfig,
    pub(crate) events: Arc<Events>,
    pub(crate) sources: Box<Sources>,
    pub(crate) listeners: Mutex<BTreeMap<PathBuf, Listening>>,
    pub(crate) vms: Mutex<BTreeMap<VmId, Arc<Vm>>>,
    totals: Mutex<Totals>,
    last_id: AtomicU64,
    /// VMs that somebody looks after: asks for, shakes hands with, or serves.
    pub(crate) kept: Mutex<BTreeSet<VmId>>,
    pub(crate) control: Mutex<Option<Arc<Listener>>>,
    pub(crate) control_clients: Mutex<BTreeMap<u64, UnixStream>>,
    /// Threads that shake hands.
    pub(crate) handshakes: AtomicUsize,
    /// The way to the supervisor, if there is one.
    pub(crate) handover: Option<Arc<Handover>>,
    /// Whom the supervisor is to accept.
    pub(crate) asked: Mutex<BTreeMap<VmId, Asked>>,
    /// VMs that another worker has left.
    pub(crate) left: Mutex<Vec<(VmEntry, Vec<OwnedFd>)>>,
    /// Connections that another worker has left in the middle of their handshakes.
    pub(crate) shaking: Mutex<Vec<LeftConnection>>,
    draining: AtomicBool,
    stopping: AtomicBool,
    /// Gets the accepting thread out of its sleep.
    pub(crate) nudge: Wakeup,
    /// Room to kill a process that cannot be served for lack of room.
    pub(crate) spare: Spare,
}

pub(crate) struct Listening {
    pub(crate) listener: Arc<Listener>,
    pub(crate) source: Arc<dyn Source>,
}

/// What was counted of VMs that have ended, and of connections.
#[derive(Clone, Default)]
pub(crate) struct Totals {
    pub(crate) started: u64,
    pub(crate) refused: u64,
    pub(crate) stats: PagerStats,
    pub(crate) failures: u64,
    pub(crate) latencies: Latencies,
}

impl Daemon {
    /// A daemon that listens at nothing but its control socket yet. `log` hears all events; `sources`
    /// is for sockets that are added by the control socket.
    ///
    /// # Errors
    /// When the control socket cannot be had, or no descriptors.
    pub fn new(
        config: ServeConfig,
        log: impl Fn(&Event) + Send + Sync + 'static,
        sources: Box<Sources>,
    ) -> Result<Daemon, ListenError> {
        Daemon::build(config, log, sources, None)
    }

    /// A daemon that is the worker of a supervisor, and goes on where another worker was.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn supervised(
        config: ServeConfig,
        log: impl Fn(&Event) + Send + Sync + 'static,
        sources: Box<Sources>,
        supervised: Supervised,
    ) -> Result<Daemon, ListenError> {
        Daemon::build(config, log, sources, Some(supervised.into_parts()))
    }

    fn build(
        config: ServeConfig,
        log: impl Fn(&Event) + Send + Sync + 'static,
        sources: Box<Sources>,
        supervised: Option<(Handover, Vec<Entry>)>,
    ) -> Result<Daemon, ListenError> {
        let (handover, entries) = match supervised {
            Some((handover, entries)) => (Some(Arc::new(handover)), entries),
            None => (None, Vec::new()),
        };
        let left = Left::sort(entries);
        let control = match (&config.control, left.control) {
            (Some(path), Some((socket, fd))) if *path == socket => {
                Some(Listener::adopt(&socket, fd))
            }
            (Some(path), _) => Some(Listener::bind(path, false)?),
            (None, _) => None,
        };
        let control = control.map(Arc::new);
        let no_room = |source| ListenError::Failed {
            path: PathBuf::new(),
            source,
        };
        let nudge = Wakeup::new().map_err(no_room)?;
        let spare = Spare::new().map_err(no_room)?;
        let known = left.vms.iter().map(|(vm, _)| vm.id);
        let known = known.chain(left.connections.iter().map(|left| left.id));
        let last_id = known.max().unwrap_or(0);
        let daemon = Daemon {
            shared: Arc::new(Shared {
                config,
                events: Arc::new(Events::new(log)),
                sources,
                listeners: Mutex::default(),
                vms: Mutex::default(),
                totals: Mutex::default(),
                last_id: AtomicU64::new(last_id),
                kept: Mutex::default(),
                control: Mutex::new(control),
                control_clients: Mutex::default(),
                handshakes: AtomicUsize::new(0),
                handover,
                asked: Mutex::default(),
                left: Mutex::new(left.vms),
                shaking: Mutex::new(left.connections),
                draining: AtomicBool::new(false),
                stopping: AtomicBool::new(false),
                nudge,
                spare,
            }),
        };
        daemon.shared.hear_supervisor();
        daemon.shared.adopt(left.listeners);
        Ok(daemon)
    }

    /// Lets VMs connect to `socket`, to be served from `source`.
    ///
    /// # Errors
    /// When it cannot be listened at.
    pub fn listen(&self, socket: &Path, source: Arc<dyn Source>) -> Result<(), ListenError> {
        self.shared.listen(socket, source)
    }

    /// Accepts VMs until it is told to drain or to stop, and comes back when all VMs have ended.
    pub fn run(&self) {
        self.shared.run();
    }

    /// Accepts nobody any more, and ends when its VMs have. May be called in a signal handler.
    pub fn drain(&self) {
        self.shared.drain();
    }

    /// Ends now. VMs that lack pages are killed first: these would read as zeros. May be called in a
    /// signal handler.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.drain();
    }

    /// Its numbers, in the text format of Prometheus.
    pub fn metrics(&self) -> String {
        crate::metrics::render(&self.shared)
    }
}

impl Shared {
    pub(crate) fn listen(&self, socket: &Path, source: Arc<dyn Source>) -> Result<(), ListenError> {
        if lock(&self.listeners).contains_key(socket) {
            return Err(ListenError::InUse(socket.to_owned()));
        }
        let listener = Listener::bind(socket, !self.config.allow_uids.is_empty())?;
        let store = source.describe();
        let listener = Arc::new(listener);
        // With no lock held: it waits for the supervisor.
        self.keep_listener(&listener, &store);
        lock(&self.listeners).insert(socket.to_owned(), Listening { listener, source });
        let socket = socket.to_owned();
        self.events.tell(&Event::Listening { socket, store });
        self.nudge.wake();
        Ok(())
    }

    pub(crate) fn remove(&self, socket: &Path) -> bool {
        let removed = lock(&self.listeners).remove(socket);
        // The accepting thread may hold it for a moment yet, but its name is to be free at once.
        let is_removed = removed.is_some_and(|removed| {
            let _ = std::fs::remove_file(removed.listener.path());
            true
        });
        if is_removed {
            self.forget_listener(socket);
            let socket = socket.to_owned();
            self.events.tell(&Event::Removed { socket });
            self.nudge.wake();
        }
        is_removed
    }

    fn run(self: &Arc<Self>) {
        self.go_on();
        let mut told = false;
        loop {
            let draining = self.draining.load(Ordering::Acquire);
            if draining && !told {
                told = true;
                lock(&self.listeners).clear();
                let vms = lock(&self.vms).len();
                self.events.tell(&Event::Draining { vms });
            }
            if self.must_end() {
                lock(&self.vms).values().for_each(|vm| vm.over.wake());
            }
            if draining && lock(&self.kept).is_empty() {
                break;
            }
            self.accept();
        }
        drop(lock(&self.control).take());
        self.events.close();
        self.dismiss_control_clients();
        if let Some(handover) = &self.handover {
            handover.over();
        }
    }

    /// Ends the conversations on the control socket; who listens to events may hear the last ones.
    fn dismiss_control_clients(&self) {
        for stream in lock(&self.control_clients).values() {
            let _ = stream.shutdown(Shutdown::Read);
        }
        let until = Instant::now() + LAST_WORDS;
        while Instant::now() < until && !lock(&self.control_clients).is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
        for stream in lock(&self.control_clients).values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn allows(&self, uid: u32) -> bool {
        uid == 0
            || uid == rustix::process::geteuid().as_raw()
            || self.config.allow_uids.contains(&uid)
    }

    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.nudge.wake();
    }

    pub(crate) fn must_end(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(crate) fn next_id(&self) -> VmId {
        VmId::new(self.last_id.fetch_add(1, Ordering::Relaxed) + 1)
    }

    pub(crate) fn refused(&self, socket: &Path, pid: Option<u32>, reason: &str, killed: bool) {
        lock(&self.totals).refused += 1;
        self.events.tell(&Event::Refused {
            socket: socket.to_owned(),
            pid,
            reason: reason.to_owned(),
            killed,
        });
    }

    pub(crate) fn started(&self, vm: &Arc<Vm>) {
        let record = &vm.record;
        lock(&self.totals).started += 1;
        lock(&self.vms).insert(record.id, Arc::clone(vm));
        self.events.tell(&Event::VmStarted {
            vm: record.id,
            socket: record.socket.clone(),
            store: record.store.clone(),
            pid: record.peer.pid(),
            regions: record.regions.len(),
            bytes: record.bytes(),
        });
        if self.must_end() {
            vm.over.wake();
        }
    }

    pub(crate) fn ended(&self, vm: &Vm) {
        let (summary, stats, latencies) = vm.end();
        let mut totals = lock(&self.totals);
        totals.stats.add(&stats);
        totals.failures += summary.failures;
        totals.latencies.merge(&latencies);
        drop(totals);
        lock(&self.vms).remove(&vm.record.id);
        self.forget_vm(vm.record.id);
        self.events.tell(&Event::VmEnded(summary));
    }

    pub(crate) fn list(&self) -> Reply {
        let listeners = lock(&self.listeners);
        let listeners = listeners.iter().map(|(socket, listening)| ListenerInfo {
            socket: socket.clone(),
            store: listening.source.describe(),
        });
        let listeners = listeners.collect();
        let vms = self.vms().iter().filter_map(|vm| info(vm)).collect();
        Reply::Listed { listeners, vms }
    }

    pub(crate) fn heal(&self, id: VmId, pages: &[Pages]) -> Result<u64, String> {
        let vm = lock(&self.vms).get(&id).cloned();
        let gone = || format!("there is no VM {id}");
        let vm = vm.ok_or_else(gone)?;
        let regions = &vm.record.regions;
        let mut all = Vec::new();
        for &Pages {
            region,
            first,
            last,
        } in pages
        {
            let known = regions
                .get(usize::from(region))
                .map_or(0, |region| region.pages.get());
            if first > last || u64::from(last) >= known {
                return Err(format!(
                    "VM {id} has no pages {first} to {last} of region {region}: it has {known}"
                ));
            }
            all.push((region, first, last - first + 1));
        }
        if pages.is_empty() {
            let whole = regions.iter().zip(0..);
            all = whole
                .map(|(region, n)| (n, 0, region.pages.get() as u32))
                .collect();
        }
        let heal = |pager: &surefault_pager::Pager| {
            let healed = all.iter().map(|&(region, first, count)| {
                let first = PageId::new(RegionId::new(region), PageIndex::new(first));
                u64::from(pager.heal(first, count))
            });
            healed.sum()
        };
        vm.ask(heal).ok_or_else(gone)
    }

    pub(crate) fn vms(&self) -> Vec<Arc<Vm>> {
        lock(&self.vms).values().cloned().collect()
    }

    pub(crate) fn totals(&self) -> Totals {
        lock(&self.totals).clone()
    }
}

fn info(vm: &Vm) -> Option<VmInfo> {
    vm.ask(|pager| {
        let (present, pending) = pager.residency();
        VmInfo {
            vm: vm.record.id,
            pid: vm.record.peer.pid(),
            socket: vm.record.socket.clone(),
            store: vm.record.store.clone(),
            bytes: vm.record.bytes(),
            present: present.get(),
            pending: pending.get(),
            failed: pager.failed_pages().len() as u64,
            faults: pager.stats().faults,
        }
    })
}

/// What each of these locks guards is changed in single steps.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
