//! Connections that the supervisor accepts for its worker.
//!
//! ```text
//!  somebody connects ──► Asked ── accepted ──► a VM's thread, with the supervisor's duplicate
//!                         │  ├── nobody ─────► waited for again
//!                         │  └── no room ────► asked again after a pause
//!                         └ not accepted, or no answer: accepted here, and said to be kept by nobody
//! ```
//!
//! So a worker that dies between any two of its steps takes no connection with it. A socket that was
//! asked about is not polled until the answer is there.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::accept::Keeper;
use crate::daemon::{Shared, lock};
use crate::death::{HandshakePoint, die_at};
use crate::event::VmId;
use crate::listener::Listener;
use crate::source::Source;
use crate::supervisor::vm_key;

/// The supervisor answers within this time, or accepts for nobody.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause before a connection is asked for again that this process had no room for.
const PAUSE: Duration = Duration::from_millis(100);

/// What was asked about one socket.
pub(crate) struct Asked {
    listener: Arc<Listener>,
    source: Arc<dyn Source>,
    /// When the answer is late, or it is to be asked again.
    due: Instant,
    /// The answer came, and its descriptor found no room.
    no_room: bool,
    keeper: Keeper,
}

impl Shared {
    /// Has the supervisor accept who waits at `listener`. False when there is none.
    pub(crate) fn ask(
        self: &Arc<Self>,
        listener: &Arc<Listener>,
        source: &Arc<dyn Source>,
    ) -> bool {
        let Some(handover) = &self.handover else {
            return false;
        };
        let (id, socket) = (self.next_id(), listener.path());
        let Some(keeper) = Keeper::new(self, id) else {
            return false;
        };
        let asked = Asked {
            listener: Arc::clone(listener),
            source: Arc::clone(source),
            due: Instant::now() + PATIENCE,
            no_room: false,
            keeper,
        };
        lock(&self.asked).insert(socket.to_owned(), asked);
        let is_asked = handover.accept(socket, id, self.last_rule());
        if is_asked {
            die_at(&HandshakePoint::Asked);
        } else {
            lock(&self.asked).remove(socket);
        }
        is_asked
    }

    /// When something is due about what was asked.
    pub(crate) fn asked_until(&self) -> Option<Instant> {
        lock(&self.asked).values().map(|asked| asked.due).min()
    }

    /// Does what is due.
    pub(crate) fn ask_again(self: &Arc<Self>) {
        let (now, rule) = (Instant::now(), self.last_rule());
        let mut late = Vec::new();
        for (socket, asked) in &mut *lock(&self.asked) {
            if now < asked.due {
                continue;
            }
            asked.due = now + PATIENCE;
            let again = core::mem::take(&mut asked.no_room);
            let handover = self.handover.as_ref().filter(|_| again);
            if !handover.is_some_and(|handover| handover.accept(socket, asked.keeper.id, rule)) {
                late.push(socket.clone());
            }
        }
        for socket in late {
            self.not_accepted(&socket);
        }
    }

    /// Another supervisor may not know what was asked.
    pub(crate) fn ask_anew(&self) {
        let Some(handover) = &self.handover else {
            return;
        };
        for (socket, asked) in &*lock(&self.asked) {
            // One that is dead, too, is found out by listening.
            let _ = handover.accept(socket, asked.keeper.id, self.last_rule());
        }
    }

    /// The supervisor has accepted a connection. That may come too late to be waited for, and be said
    /// again by another supervisor.
    pub(crate) fn accepted(self: &Arc<Self>, socket: PathBuf, id: VmId, stream: UnixStream) {
        die_at(&HandshakePoint::Accepted);
        match self.answered(&socket, Some(id)) {
            Some(asked) => self.begin_vm(socket, asked.source, stream, asked.keeper),
            None => self.begin_kept(socket, id, stream),
        }
    }

    /// The supervisor has accepted a connection that this process has no room for.
    pub(crate) fn no_room_for(&self, socket: &Path) {
        if let Some(asked) = lock(&self.asked).get_mut(socket) {
            (asked.no_room, asked.due) = (true, Instant::now() + PAUSE);
        }
        self.nudge.wake();
    }

    /// Nobody waited there any more.
    pub(crate) fn nobody_there(&self, socket: &Path) {
        self.answered(socket, None);
    }

    /// The supervisor accepts nobody there.
    pub(crate) fn not_accepted(self: &Arc<Self>, socket: &Path) {
        if let Some(asked) = self.answered(socket, None) {
            self.said_to_be_kept(false, &vm_key(asked.keeper.id.get()));
            // Under another number: this one may yet come.
            self.accept_at(&asked.listener, Some(&asked.source));
        }
    }

    /// Takes note of an answer; a late one is for something that nobody waits for.
    fn answered(&self, socket: &Path, id: Option<VmId>) -> Option<Asked> {
        let mut asked = lock(&self.asked);
        let is_awaited = |asked: &Asked| id.is_none_or(|id| asked.keeper.id == id);
        let answered = match asked.get(socket).is_some_and(is_awaited) {
            true => asked.remove(socket),
            false => None,
        };
        drop(asked);
        self.nudge.wake();
        answered
    }

    /// Goes on with a connection that the supervisor keeps, if nobody does yet.
    pub(crate) fn begin_kept(self: &Arc<Self>, socket: PathBuf, id: VmId, stream: UnixStream) {
        let Some(keeper) = Keeper::new(self, id) else {
            return;
        };
        let source = lock(&self.listeners)
            .get(&socket)
            .map(|listening| Arc::clone(&listening.source));
        match source {
            Some(source) => self.begin_vm(socket, source, stream, keeper),
            None => {
                self.forget_vm(id);
                self.refused(&socket, None, "nobody is served there any more", false);
            }
        }
    }
}
