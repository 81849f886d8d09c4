//! Accepting connections, and giving each a thread.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use crate::control::serve_client;
use crate::daemon::{Shared, lock};
use crate::event::VmId;
use crate::keeper;
use crate::listener::Listener;
use crate::source::Source;
use crate::wakeup::timespec;

/// The pause after a connection could not be accepted, so that the daemon does not spin.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);
/// Clients of the control socket at a time.
const MAX_CONTROL_CLIENTS: usize = 64;

impl Shared {
    /// Waits for connections, and begins with those there are.
    pub(crate) fn accept(self: &Arc<Self>) {
        let room = lock(&self.kept).len() < self.config.max_vms;
        let mut sockets = Vec::new();
        if let Some(control) = &*lock(&self.control) {
            sockets.push((Arc::clone(control), None));
        }
        let successor = self.handover.as_ref();
        if room && !successor.is_some_and(|handover| handover.is_draining()) {
            for listening in lock(&self.listeners).values() {
                let source = Arc::clone(&listening.source);
                sockets.push((Arc::clone(&listening.listener), Some(source)));
            }
            sockets
                .retain(|(listener, source)| source.is_none() || !self.is_asked(listener.path()));
        }
        let mut fds = vec![PollFd::new(&self.nudge, PollFlags::IN)];
        fds.extend(
            sockets
                .iter()
                .map(|(socket, _)| PollFd::new(&**socket, PollFlags::IN)),
        );
        let due = self.asked_until();
        let timeout = due.map(|due| timespec(due.saturating_duration_since(Instant::now())));
        if poll(&mut fds, timeout.as_ref()).is_err() {
            return;
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready[0] {
            self.nudge.clear();
        }
        self.look_after_asked();
        for ((listener, source), _) in sockets.iter().zip(&ready[1..]).filter(|(_, ready)| **ready)
        {
            // By the supervisor, if there is one: who dies with a connection closes it.
            let asked = source
                .as_ref()
                .is_some_and(|source| self.ask(listener, source));
            if !asked {
                self.accept_at(listener, source.as_ref());
            }
        }
    }

    /// Accepts who waits at `listener`: a VM, or, without a source, a client of the control socket.
    pub(crate) fn accept_at(
        self: &Arc<Self>,
        listener: &Listener,
        source: Option<&Arc<dyn Source>>,
    ) {
        let socket = listener.path();
        let begun = listener.accept().map(|stream| match (stream, source) {
            (None, _) => Ok(()),
            (Some(stream), Some(source)) => {
                if let Some(keeper) = Keeper::new(self, self.next_id()) {
                    self.begin_vm(socket.to_owned(), Arc::clone(source), stream, keeper);
                }
                Ok(())
            }
            (Some(stream), None) => self.begin_control(stream),
        });
        match begun {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.refused(socket, None, &error.to_string(), false),
            Err(error) => {
                self.refused(socket, None, &error.to_string(), false);
                std::thread::sleep(PAUSE_AFTER_ERROR);
            }
        }
    }

    /// Gives a connection a thread.
    pub(crate) fn begin_vm(
        self: &Arc<Self>,
        socket: PathBuf,
        source: Arc<dyn Source>,
        stream: UnixStream,
        keeper: Keeper,
    ) {
        let (shared, at, id) = (Arc::clone(self), socket.clone(), keeper.id);
        let (stream, handshake) = (Arc::new(stream), Shaking::new(self));
        let kept = Arc::clone(&stream);
        let begun = thread("vm", move || {
            keeper::keep(&shared, &socket, source, &kept, id, handshake);
            drop(kept);
            drop(keeper);
        });
        if let Err(error) = begun {
            self.turn_away(&at, &stream, None, false, &error.to_string());
            self.forget_vm(id);
        }
    }

    fn begin_control(self: &Arc<Self>, stream: UnixStream) -> io::Result<()> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut clients = lock(&self.control_clients);
        if clients.len() >= MAX_CONTROL_CLIENTS {
            return Err(io::Error::other("too many clients of the control socket"));
        }
        clients.insert(number, stream.try_clone()?);
        drop(clients);
        let shared = Arc::clone(self);
        let begun = thread("control", move || {
            // A client that goes away is its own business.
            let _ = serve_client(&shared, &stream);
            lock(&shared.control_clients).remove(&number);
        });
        if begun.is_err() {
            lock(&self.control_clients).remove(&number);
        }
        begun
    }
}

/// Counts a thread among those that shake hands.
pub(crate) struct Shaking(Arc<Shared>);

impl Shaking {
    fn new(shared: &Arc<Shared>) -> Shaking {
        shared.handshakes.fetch_add(1, Ordering::AcqRel);
        Shaking(Arc::clone(shared))
    }
}

impl Drop for Shaking {
    fn drop(&mut self) {
        self.0.handshakes.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Somebody looks after a VM, and nobody else does.
pub(crate) struct Keeper {
    pub(crate) id: VmId,
    shared: Arc<Shared>,
}

impl Keeper {
    /// `None` when somebody does already.
    pub(crate) fn new(shared: &Arc<Shared>, id: VmId) -> Option<Keeper> {
        let shared = lock(&shared.kept).insert(id).then(|| Arc::clone(shared))?;
        Some(Keeper { id, shared })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        lock(&self.shared.kept).remove(&self.id);
        self.shared.nudge.wake();
    }
}

pub(crate) fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map(drop)
}
