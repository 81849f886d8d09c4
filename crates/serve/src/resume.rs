//! What a worker gives its supervisor to be kept, and how the next one goes on from that.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};

use surefault_pager::Records;
use surefault_uffd::Userfaultfd;

use crate::accept::{Keeper, thread};
use crate::daemon::{Listening, Shared, lock};
use crate::death::{HandshakePoint, die_at};
use crate::event::{Event, VmId};
use crate::handover::Handover;
use crate::keeper::{Newcomer, chain, watch};
use crate::listener::Listener;
use crate::peer::Peer;
use crate::supervisor::{Entry, LastRule, Record, VmEntry, listener_key, now_ns, vm_key};
use crate::vm::{Vm, VmRecord};

/// What another worker has left, sorted.
#[derive(Default)]
pub(crate) struct Left {
    pub(crate) control: Option<(PathBuf, OwnedFd)>,
    pub(crate) listeners: Vec<(PathBuf, String, OwnedFd)>,
    pub(crate) vms: Vec<(VmEntry, Vec<OwnedFd>)>,
    pub(crate) connections: Vec<LeftConnection>,
}

/// A connection whose handshake is not over.
pub(crate) struct LeftConnection {
    socket: PathBuf,
    store: String,
    /// The number of the VM that it may become.
    pub(crate) id: u64,
    /// Nothing if this process had no room for it.
    stream: Option<OwnedFd>,
}

impl Left {
    pub(crate) fn sort(entries: Vec<Entry>) -> Left {
        let mut left = Left::default();
        for Entry { record, mut fds } in entries {
            match record {
                Record::Vm(vm) => left.vms.push((vm, fds)),
                Record::Connection {
                    socket, store, id, ..
                } => left.connections.push(LeftConnection {
                    socket,
                    store,
                    id,
                    stream: fds.pop(),
                }),
                Record::Control { socket } => {
                    left.control = fds.pop().map(|fd| (socket, fd));
                }
                Record::Listener { socket, store } => {
                    left.listeners
                        .extend(fds.pop().map(|fd| (socket, store, fd)));
                }
            }
        }
        left
    }
}

impl Shared {
    /// Has the sockets kept that another worker has bound.
    pub(crate) fn adopt(&self, listeners: Vec<(PathBuf, String, OwnedFd)>) {
        for (socket, store, fd) in listeners {
            match (self.sources)(&store) {
                Ok(source) => {
                    let listener = Arc::new(Listener::adopt(&socket, fd));
                    let listening = Listening { listener, source };
                    lock(&self.listeners).insert(socket, listening);
                }
                Err(reason) => {
                    self.forget_listener(&socket);
                    self.refused(&socket, None, &reason, false);
                }
            }
        }
    }

    /// Has something kept, or says that it is not.
    fn keep(&self, handover: &Handover, record: Record, fds: &[BorrowedFd<'_>]) -> bool {
        let key = record.key();
        let kept = handover.keep(record, fds);
        self.said_to_be_kept(kept, &key);
        kept
    }

    /// Has a socket kept.
    pub(crate) fn keep_listener(&self, listener: &Listener, store: &str) {
        if let Some(handover) = &self.handover {
            let record = Record::Listener {
                socket: listener.path().to_owned(),
                store: store.to_owned(),
            };
            self.keep(handover, record, &[listener.as_fd()]);
        }
    }

    pub(crate) fn forget_listener(&self, socket: &Path) {
        if let Some(handover) = &self.handover {
            handover.forget(&listener_key(socket));
        }
    }

    /// Has a VM kept, before any of its pages is served. Gives the records to be written; without a
    /// supervisor, or where it does not keep them, there are none.
    pub(crate) fn keep_vm(&self, vm: &VmRecord, stream: &UnixStream) -> Option<Records> {
        let handover = self.handover.as_ref()?;
        let records = match Records::create(&vm.regions, self.config.pager.batch) {
            Ok(records) => records,
            Err(_) => {
                self.said_to_be_kept(false, &vm_key(vm.id.get()));
                return None;
            }
        };
        let record = Record::Vm(VmEntry {
            id: vm.id.get(),
            pid: vm.peer.pid(),
            uid: vm.peer.uid(),
            socket: vm.socket.clone(),
            store: vm.store.clone(),
            rule: self.last_rule(),
            regions: vm.regions.iter().map(Into::into).collect(),
            started_ns: now_ns(),
        });
        let mut fds = vec![vm.uffd.as_fd(), stream.as_fd(), records.as_fd()];
        fds.extend(vm.peer.pidfd());
        let kept = self.keep(handover, record, &fds);
        die_at(&HandshakePoint::Kept);
        kept.then_some(records)
    }

    /// What becomes of pages when there is no worker.
    pub(crate) fn last_rule(&self) -> LastRule {
        self.config.pager.failed_page.into()
    }

    pub(crate) fn forget_vm(&self, id: VmId) {
        if let Some(handover) = &self.handover {
            handover.forget(&vm_key(id.get()));
        }
    }

    /// A VM that another worker has served is served on.
    fn resumed(&self, vm: &Arc<Vm>) {
        lock(&self.vms).insert(vm.record.id, Arc::clone(vm));
        self.events.tell(&Event::VmResumed {
            vm: vm.record.id,
            pid: vm.record.peer.pid(),
        });
        if self.must_end() {
            vm.over.wake();
        }
    }

    pub(crate) fn said_to_be_kept(&self, kept: bool, key: &str) {
        if !kept {
            let key = key.to_owned();
            self.events.tell(&Event::NotKept { key });
        }
    }

    pub(crate) fn is_shaking_hands(&self) -> bool {
        self.handshakes.load(Ordering::Acquire) > 0
    }

    /// Begins to hear the supervisor, and to show it that this worker lives.
    pub(crate) fn hear_supervisor(self: &Arc<Self>) {
        let Some(handover) = &self.handover else {
            return;
        };
        let (hears, shared) = (Arc::clone(handover), Arc::clone(self));
        let lives = (Arc::clone(handover), Arc::clone(self));
        let begun = thread("supervisor", move || hears.listen(&shared))
            .and_then(|()| thread("heartbeat", move || lives.0.show_life(&lives.1)));
        if begun.is_err() {
            self.said_to_be_kept(false, "the worker");
        }
    }

    /// Goes on with what another worker has left.
    pub(crate) fn go_on(self: &Arc<Self>) {
        let Some(handover) = &self.handover else {
            return;
        };
        let kept_control = lock(&self.control).clone();
        if let Some(control) = kept_control {
            let socket = control.path().to_owned();
            self.keep(handover, Record::Control { socket }, &[control.as_fd()]);
        }
        let (attached, all_attached) = channel::<()>();
        for (vm, fds) in core::mem::take(&mut *lock(&self.left)) {
            let (shared, attached) = (Arc::clone(self), attached.clone());
            let Some(keeper) = Keeper::new(self, VmId::new(vm.id)) else {
                continue;
            };
            let begun = thread("vm", move || {
                resume(&shared, vm, fds, attached);
                drop(keeper);
            });
            if let Err(error) = begun {
                // What is not served by this worker may be by another.
                self.refused(Path::new(""), None, &error.to_string(), false);
                std::process::abort();
            }
        }
        drop(attached);
        for left in core::mem::take(&mut *lock(&self.shaking)) {
            let (id, stream) = (VmId::new(left.id), left.stream.map(Into::into));
            self.go_on_with(left.socket, &left.store, id, stream);
        }
        // Nothing is ever sent: it ends when all have let go of it.
        let _ = all_attached.recv();
        handover.ready();
    }
}

/// Goes on with a VM, to its end; lets go of `attached` when it is served.
fn resume(shared: &Arc<Shared>, vm: VmEntry, fds: Vec<OwnedFd>, attached: Sender<()>) {
    let (id, socket) = (VmId::new(vm.id), vm.socket.clone());
    let mut fds = fds.into_iter();
    let [uffd, stream, records] = [fds.next(), fds.next(), fds.next()];
    let peer = Peer::known(vm.pid, vm.uid, fds.next());
    let source = (shared.sources)(&vm.store);
    let prepared = (|| {
        let regions = vm.served_regions().ok_or("regions that are none")?;
        let [Some(uffd), Some(stream), Some(records)] = [uffd, stream, records] else {
            return Err("descriptors are missing".to_owned());
        };
        let uffd = Userfaultfd::from_fd(uffd).map_err(|error| chain(&error))?;
        let records = Records::open(records, &regions).map_err(|error| chain(&error))?;
        Ok((uffd, UnixStream::from(stream), records, regions, source?))
    })();
    let (uffd, stream, records, regions, source) = match prepared {
        Ok(prepared) => prepared,
        Err(reason) => {
            // The supervisor keeps its userfaultfd open until it is forgotten.
            let killed = peer.end().is_ok();
            shared.forget_vm(id);
            return shared.refused(&socket, Some(vm.pid), &reason, killed);
        }
    };
    let newcomer = Newcomer {
        id,
        socket: socket.clone(),
        peer,
        regions,
        started: vm.started(),
        records: Some(records),
    };
    match newcomer.serve(shared, source, uffd, &stream) {
        Ok(vm) => {
            shared.resumed(&vm);
            drop(attached);
            watch(shared, &vm, &stream);
            shared.ended(&vm);
        }
        Err((reason, peer)) => {
            let killed = peer.is_some_and(|peer| peer.end().is_ok());
            shared.forget_vm(id);
            shared.refused(&socket, Some(vm.pid), &reason, killed);
        }
    }
}
