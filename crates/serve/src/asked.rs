//! Connections that the supervisor accepts for its worker.
//!
//! ```text
//!  somebody connects ──► asked ── accepted ──────► a VM's thread, with the supervisor's duplicate
//!                         │  ├── nobody ─────────► waited for again
//!                         │  └── no room here ───► asked again after a pause
//!                         └ not accepted, or late: accepted here, and said to be kept by nobody;
//!                           a late one is asked again, for it may be accepted already
//! ```
//!
//! So a worker that dies between any two of its steps takes no connection with it. A socket that was
//! asked about is not polled until the answer is there, or late. Asking again does no harm: the
//! supervisor accepts once for one number.

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

/// Somebody whom the supervisor is to accept.
pub(crate) struct Asked {
    listener: Arc<Listener>,
    source: Arc<dyn Source>,
    stage: Stage,
    /// When that is to be done which the stage says.
    due: Instant,
    /// It counts as a VM, unless it is late.
    keeper: Option<Keeper>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// There is no answer yet. If there is none when it is due, it is late.
    Waiting,
    /// It was accepted, and this process had no room for it: it is to be asked for again.
    NoRoom,
    /// The supervisor cannot accept: it is to be accepted here.
    Refused,
    /// Somebody was accepted here in its place. It is to be asked for again.
    Late,
}

impl Shared {
    /// Has the supervisor accept who waits at `listener`. False when there is none.
    pub(crate) fn ask(
        self: &Arc<Self>,
        listener: &Arc<Listener>,
        source: &Arc<dyn Source>,
    ) -> bool {
        if self.handover.is_none() {
            return false;
        }
        let id = self.next_id();
        let Some(keeper) = Keeper::new(self, id) else {
            return false;
        };
        let asked = Asked {
            listener: Arc::clone(listener),
            source: Arc::clone(source),
            stage: Stage::Waiting,
            due: Instant::now() + PATIENCE,
            keeper: Some(keeper),
        };
        lock(&self.asked).insert(id, asked);
        let is_asked = self.say_asked(id, listener, &**source);
        if is_asked {
            die_at(&HandshakePoint::Asked);
        } else {
            drop(self.answered(id));
        }
        is_asked
    }

    /// Whether an answer about `socket` is waited for.
    pub(crate) fn is_asked(&self, socket: &Path) -> bool {
        let asked = lock(&self.asked);
        let mut asked = asked.values().filter(|asked| asked.stage != Stage::Late);
        asked.any(|asked| asked.listener.path() == socket)
    }

    /// When something is due about what was asked.
    pub(crate) fn asked_until(&self) -> Option<Instant> {
        lock(&self.asked).values().map(|asked| asked.due).min()
    }

    /// Does what is due. In the thread that accepts.
    pub(crate) fn look_after_asked(self: &Arc<Self>) {
        let now = Instant::now();
        let (mut again, mut here) = (Vec::new(), Vec::new());
        lock(&self.asked).retain(|&id, asked| {
            if now < asked.due {
                return true;
            }
            let place = (id, Arc::clone(&asked.listener), Arc::clone(&asked.source));
            asked.due = now + PATIENCE;
            match asked.stage {
                Stage::NoRoom => {
                    asked.stage = Stage::Waiting;
                    again.push(place);
                }
                Stage::Late => again.push(place),
                Stage::Waiting => {
                    (asked.stage, asked.keeper) = (Stage::Late, None);
                    here.push(place);
                }
                Stage::Refused => {
                    here.push(place);
                    return false;
                }
            }
            true
        });
        for (id, listener, source) in again {
            // One that is dead is found out by listening.
            self.say_asked(id, &listener, &*source);
        }
        for (id, listener, source) in here {
            self.said_to_be_kept(false, &vm_key(id.get()));
            // Under another number: this one may yet come.
            self.accept_at(&listener, Some(&source));
        }
    }

    /// Says to the supervisor what is asked; false when there is none.
    fn say_asked(&self, id: VmId, listener: &Listener, source: &dyn Source) -> bool {
        let handover = self.handover.as_ref();
        handover.is_some_and(|handover| {
            handover.accept(listener.path(), &source.describe(), id, self.last_rule())
        })
    }

    /// Another supervisor may not know what was asked.
    pub(crate) fn ask_anew(&self) {
        let asked = lock(&self.asked);
        let asked = asked.iter().map(|(&id, asked)| {
            let (listener, source) = (&asked.listener, &asked.source);
            (id, Arc::clone(listener), Arc::clone(source))
        });
        for (id, listener, source) in asked.collect::<Vec<_>>() {
            self.say_asked(id, &listener, &*source);
        }
    }

    /// The supervisor has accepted a connection. That may be said twice, if it was asked twice.
    pub(crate) fn accepted(self: &Arc<Self>, id: VmId, stream: UnixStream) {
        die_at(&HandshakePoint::Accepted);
        let Some(asked) = self.answered(id) else {
            return;
        };
        let keeper = asked.keeper.or_else(|| Keeper::new(self, id));
        if let Some(keeper) = keeper {
            let socket = asked.listener.path().to_owned();
            self.begin_vm(socket, asked.source, stream, keeper);
        }
    }

    /// The supervisor has accepted a connection that this process has no room for.
    pub(crate) fn no_room_for(&self, id: VmId) {
        self.set_stage(id, Stage::NoRoom, PAUSE);
    }

    /// Nobody waited there any more.
    pub(crate) fn nobody_there(&self, id: VmId) {
        drop(self.answered(id));
    }

    /// The supervisor accepts nobody there.
    pub(crate) fn not_accepted(&self, id: VmId) {
        self.set_stage(id, Stage::Refused, Duration::ZERO);
    }

    fn set_stage(&self, id: VmId, stage: Stage, pause: Duration) {
        if let Some(asked) = lock(&self.asked).get_mut(&id) {
            (asked.stage, asked.due) = (stage, Instant::now() + pause);
        }
        self.nudge.wake();
    }

    fn answered(&self, id: VmId) -> Option<Asked> {
        let answered = lock(&self.asked).remove(&id);
        self.nudge.wake();
        answered
    }

    /// Goes on with a connection that another worker has left. `None` stands for one that this process
    /// had no room for.
    pub(crate) fn go_on_with(
        self: &Arc<Self>,
        socket: PathBuf,
        store: &str,
        id: VmId,
        stream: Option<UnixStream>,
    ) {
        let Some(keeper) = Keeper::new(self, id) else {
            return;
        };
        let listening = lock(&self.listeners).get(&socket).map(|listening| {
            let (listener, source) = (&listening.listener, &listening.source);
            (Arc::clone(listener), Arc::clone(source))
        });
        let listening = listening.filter(|(_, source)| source.describe() == store);
        match (stream, listening) {
            (Some(stream), Some((_, source))) => self.begin_vm(socket, source, stream, keeper),
            // The socket was removed or replaced since.
            (Some(stream), None) => match (self.sources)(store) {
                Ok(source) => self.begin_vm(socket, source, stream, keeper),
                Err(reason) => {
                    self.turn_away(&socket, &stream, None, false, &reason);
                    self.forget_vm(id);
                }
            },
            (None, Some((listener, source))) => {
                let asked = Asked {
                    listener,
                    source,
                    stage: Stage::NoRoom,
                    due: Instant::now() + PAUSE,
                    keeper: Some(keeper),
                };
                lock(&self.asked).insert(id, asked);
            }
            (None, None) => {
                let reason = "no room for its connection, and its socket was removed";
                self.refused(&socket, None, reason, false);
            }
        }
    }
}
