//! Accepting connections, and giving each a thread.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use crate::control::serve_client;
use crate::daemon::{Shared, lock};
use crate::event::VmId;
use crate::keeper;
use crate::listener::Listener;
use crate::source::Source;

/// The pause after a connection could not be accepted, so that the daemon does not spin.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);
/// Clients of the control socket at a time.
const MAX_CONTROL_CLIENTS: usize = 64;

impl Shared {
    /// Waits for connections, and begins with those there are.
    pub(crate) fn accept(self: &Arc<Self>) {
        let room = self.keepers.load(Ordering::Acquire) < self.config.max_vms;
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
        }
        let mut fds = vec![PollFd::new(&self.nudge, PollFlags::IN)];
        fds.extend(
            sockets
                .iter()
                .map(|(socket, _)| PollFd::new(&**socket, PollFlags::IN)),
        );
        if poll(&mut fds, None).is_err() {
            return;
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready[0] {
            self.nudge.clear();
        }
        for ((listener, source), _) in sockets.iter().zip(&ready[1..]).filter(|(_, ready)| **ready)
        {
            match listener.accept() {
                Ok(Some(stream)) => self.begin(listener, source.as_ref(), stream),
                Ok(None) => {}
                Err(error) => {
                    self.refused(listener.path(), None, &error.to_string(), false);
                    std::thread::sleep(PAUSE_AFTER_ERROR);
                }
            }
        }
    }

    fn begin(
        self: &Arc<Self>,
        listener: &Listener,
        source: Option<&Arc<dyn Source>>,
        stream: UnixStream,
    ) {
        let socket = listener.path().to_owned();
        match source {
            Some(source) => {
                let id = self.next_id();
                // Before anything else: who dies with a connection closes it.
                self.keep_connection(id, &socket, &stream);
                self.begin_vm(socket, Arc::clone(source), stream, id);
            }
            None => {
                if let Err(error) = self.begin_control(stream) {
                    self.refused(listener.path(), None, &error.to_string(), false);
                }
            }
        }
    }

    /// Gives a connection a thread.
    pub(crate) fn begin_vm(
        self: &Arc<Self>,
        socket: PathBuf,
        source: Arc<dyn Source>,
        stream: UnixStream,
        id: VmId,
    ) {
        let (shared, at) = (Arc::clone(self), socket.clone());
        let keeper = Keeper::new(self);
        let handshake = Shaking::new(self);
        let begun = thread("vm", move || {
            keeper::keep(&shared, &socket, source, &stream, id, handshake);
            drop(stream);
            drop(keeper);
        });
        if let Err(error) = begun {
            self.forget_vm(id);
            self.refused(&at, None, &error.to_string(), false);
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

/// Counts a thread among the keepers for as long as it lives.
pub(crate) struct Keeper(Arc<Shared>);

impl Keeper {
    pub(crate) fn new(shared: &Arc<Shared>) -> Keeper {
        shared.keepers.fetch_add(1, Ordering::AcqRel);
        Keeper(Arc::clone(shared))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.keepers.fetch_sub(1, Ordering::AcqRel);
        self.0.nudge.wake();
    }
}

pub(crate) fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map(drop)
}
