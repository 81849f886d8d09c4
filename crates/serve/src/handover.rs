//! The worker's side of a [supervisor](crate::supervisor): what is given to be kept, and taken over.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::fcntl_dupfd_cloexec;

use crate::accept::thread;
use crate::daemon::{Shared, lock};
use crate::event::{Event, VmId};
use crate::supervisor::{Channel, Entry, LastRule, Record, ToSupervisor, ToWorker};

/// The supervisor keeps what it is given within this time, or is taken for dead.
const PATIENCE: Duration = Duration::from_secs(5);
/// The worker shows that it lives this often. A supervisor's patience is many times that.
const ALIVE: Duration = Duration::from_secs(1);
/// Handshakes that are under way have this long to end when a successor is there. Less than the
/// supervisor waits.
const DRAIN: Duration = Duration::from_secs(4);

/// What a worker is given by its supervisor when it begins.
#[derive(Debug)]
pub struct Supervised {
    channel: Channel,
    entries: Vec<Entry>,
}

impl Supervised {
    /// Takes over what there is from the supervisor at the other end of standard input.
    ///
    /// # Errors
    /// When standard input is no such thing.
    pub fn begin() -> io::Result<Supervised> {
        let socket = fcntl_dupfd_cloexec(std::io::stdin().as_fd(), 3)?;
        let channel = Channel::new(socket)?;
        channel.send(&ToSupervisor::hello(), &[])?;
        let mut entries = Vec::new();
        loop {
            match channel.receive()? {
                Some((ToWorker::Restore { record }, fds)) => entries.push(Entry { record, fds }),
                // The other supervisor gives everything, whatever the dead one had.
                Some((ToWorker::Takeover, _)) => {
                    entries.clear();
                    channel.send(&ToSupervisor::hello(), &[])?;
                }
                Some((ToWorker::Serve, _)) => return Ok(Supervised { channel, entries }),
                Some(_) => {}
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }

    /// Whether it goes on where another worker was: what is listened at is known then.
    pub fn is_successor(&self) -> bool {
        !self.entries.is_empty()
    }

    pub(crate) fn into_parts(self) -> (Handover, Vec<Entry>) {
        (Handover::new(self.channel), self.entries)
    }
}

/// What supervisors have answered.
#[derive(Default, Debug)]
struct Answers {
    /// By the name: whether it is kept.
    kept: BTreeMap<String, bool>,
    /// How many supervisors have died: what one of them was told, the next may not know.
    dead: u64,
}

/// The way to the supervisor.
#[derive(Debug)]
pub(crate) struct Handover {
    channel: Channel,
    heard: Mutex<Answers>,
    was_heard: Condvar,
    /// Everything that was taken over is served.
    is_ready: AtomicBool,
    /// The supervisor is gone: nothing is kept any more.
    alone: AtomicBool,
    /// Who waits for the outcome of an upgrade: nothing, or why there was none.
    upgrading: Mutex<Option<SyncSender<Option<String>>>>,
    /// Answers about it that are still to be sent.
    answers: AtomicUsize,
    /// A successor is there: nobody new is served.
    draining: AtomicBool,
}

impl Handover {
    fn new(channel: Channel) -> Handover {
        Handover {
            channel,
            heard: Mutex::default(),
            was_heard: Condvar::new(),
            is_ready: AtomicBool::new(false),
            alone: AtomicBool::new(false),
            upgrading: Mutex::default(),
            answers: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
        }
    }

    /// Has the supervisor keep duplicates of `fds`, and waits until it does. False when it does not.
    pub(crate) fn keep(&self, record: Record, fds: &[BorrowedFd<'_>]) -> bool {
        if self.alone.load(Ordering::Acquire) {
            return false;
        }
        let key = record.key();
        let kept = self.keep_it(&key, record, fds);
        if !kept {
            // It may be yet, when nobody knows of it any more.
            self.forget(&key);
        }
        kept
    }

    fn keep_it(&self, key: &str, record: Record, fds: &[BorrowedFd<'_>]) -> bool {
        let message = ToSupervisor::Keep { record };
        let mut told = lock(&self.heard).dead;
        if self.channel.send(&message, fds).is_err() {
            return false;
        }
        let until = Instant::now() + PATIENCE;
        let mut heard = lock(&self.heard);
        loop {
            if let Some(kept) = heard.kept.remove(key) {
                return kept;
            }
            if heard.dead > told {
                told = heard.dead;
                drop(heard);
                if self.channel.send(&message, fds).is_err() {
                    return false;
                }
                heard = lock(&self.heard);
                continue;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.alone.load(Ordering::Acquire) {
                return false;
            }
            let waited = self.was_heard.wait_timeout(heard, left);
            heard = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Has the supervisor accept who waits at `socket` as `id`. What comes of it is said to
    /// [`accepted`](Shared::accepted). False when there is nobody to ask.
    pub(crate) fn accept(&self, socket: &Path, store: &str, id: VmId, rule: LastRule) -> bool {
        let message = ToSupervisor::Accept {
            socket: socket.to_owned(),
            store: store.to_owned(),
            id: id.get(),
            rule,
        };
        !self.is_alone() && self.channel.send(&message, &[]).is_ok()
    }

    /// What was kept by this name need not be.
    pub(crate) fn forget(&self, key: &str) {
        let key = key.to_owned();
        self.say(&ToSupervisor::Forget { key });
    }

    /// Everything that was taken over is served.
    pub(crate) fn ready(&self) {
        self.is_ready.store(true, Ordering::Release);
        self.say(&ToSupervisor::Ready);
    }

    /// Everything is over.
    pub(crate) fn over(&self) {
        self.say(&ToSupervisor::Over);
    }

    /// Whether the supervisor is gone.
    pub(crate) fn is_alone(&self) -> bool {
        self.alone.load(Ordering::Acquire)
    }

    /// Whether a successor is there, so that nobody new is to be served here.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Asks to be replaced. Gives what comes of it; to be followed by [`answered`](Self::answered).
    pub(crate) fn upgrade(&self, binary: Option<PathBuf>) -> Result<(), String> {
        let outcome: Receiver<_> = {
            let mut upgrading = lock(&self.upgrading);
            if upgrading.is_some() {
                return Err("an upgrade is under way".to_owned());
            }
            let (sender, receiver) = sync_channel(1);
            *upgrading = Some(sender);
            receiver
        };
        self.answers.fetch_add(1, Ordering::AcqRel);
        self.say(&ToSupervisor::Upgrade { binary });
        let outcome = outcome.recv();
        let alone = || Some("the supervisor is gone".to_owned());
        match outcome.unwrap_or_else(|_| alone()) {
            None => Ok(()),
            Some(reason) => Err(reason),
        }
    }

    /// Who asked for the upgrade has its answer.
    pub(crate) fn answered(&self) {
        let _ = self
            .answers
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1));
    }

    /// Hears what the supervisor says, until it is gone. In a thread of its own.
    pub(crate) fn listen(&self, shared: &Arc<Shared>) {
        loop {
            match self.channel.receive() {
                Ok(Some((message, fds))) => self.hear(shared, message, fds),
                Ok(None) => break,
                Err(_) => break,
            }
        }
        self.alone.store(true, Ordering::Release);
        self.was_heard.notify_all();
        lock(&self.upgrading).take();
        // Nobody accepts any more who was to be accepted.
        lock(&shared.asked).clear();
        shared.events.tell(&Event::SupervisorGone {
            vms: shared.vms().len(),
        });
        // Whoever is taken in now would be frozen when this process dies. Under systemd another takes
        // over soon, and needs the sockets as they are.
        if std::env::var_os("NOTIFY_SOCKET").is_some() {
            self.draining.store(true, Ordering::Release);
            shared.nudge.wake();
        } else {
            shared.drain();
        }
    }

    fn hear(&self, shared: &Arc<Shared>, message: ToWorker, fds: Vec<OwnedFd>) {
        match message {
            ToWorker::Kept { key } => {
                lock(&self.heard).kept.insert(key, true);
                self.was_heard.notify_all();
            }
            ToWorker::NotKept { key } => {
                lock(&self.heard).kept.insert(key, false);
                self.was_heard.notify_all();
            }
            ToWorker::Accepted { id } => match fds.into_iter().next() {
                Some(stream) => shared.accepted(VmId::new(id), stream.into()),
                None => shared.no_room_for(VmId::new(id)),
            },
            ToWorker::Nobody { id } => shared.nobody_there(VmId::new(id)),
            ToWorker::NotAccepted { id } => shared.not_accepted(VmId::new(id)),
            ToWorker::Drain => {
                self.draining.store(true, Ordering::Release);
                self.tell_upgrading(None);
                shared.nudge.wake();
                // In a thread of its own: handshakes wait for what is heard in this one.
                let waits = Arc::clone(shared);
                let begun = thread("drain", move || {
                    if let Some(handover) = &waits.handover {
                        handover.let_go(&waits);
                    }
                });
                if begun.is_err() {
                    self.say(&ToSupervisor::Drained);
                }
            }
            ToWorker::NotUpgraded { reason } => {
                self.draining.store(false, Ordering::Release);
                self.tell_upgrading(Some(reason));
                shared.nudge.wake();
            }
            ToWorker::Takeover => {
                lock(&self.heard).dead += 1;
                self.was_heard.notify_all();
                shared.ask_anew();
                // A successor that was begun with has died with the supervisor.
                self.draining.store(false, Ordering::Release);
                self.tell_upgrading(Some("the supervisor has died".to_owned()));
                shared.nudge.wake();
                if self.is_ready.load(Ordering::Acquire) {
                    self.say(&ToSupervisor::Ready);
                }
            }
            // These come before it begins.
            ToWorker::Restore { .. } | ToWorker::Serve => {}
        }
    }

    /// Waits until nothing is under way that a successor would not find.
    fn let_go(&self, shared: &Shared) {
        // A handshake that was taken out of its connection, or accepted here, would be lost.
        let until = Instant::now() + DRAIN;
        while Instant::now() < until
            && (shared.is_shaking_hands() || self.answers.load(Ordering::Acquire) > 0)
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.say(&ToSupervisor::Drained);
    }

    fn tell_upgrading(&self, outcome: Option<String>) {
        if let Some(sender) = lock(&self.upgrading).take() {
            let _ = sender.try_send(outcome);
        }
    }

    /// Says again and again that the worker gets on, as long as it does. In a thread of its own.
    pub(crate) fn show_life(&self, shared: &Arc<Shared>) {
        while !self.alone.load(Ordering::Acquire) {
            // Whoever holds one of these locks for ever has stopped a VM.
            for vm in shared.vms() {
                vm.ask(surefault_pager::Pager::residency);
            }
            self.say(&ToSupervisor::Alive);
            std::thread::sleep(ALIVE);
        }
    }

    fn say(&self, message: &ToSupervisor) {
        // That it is gone is found out by listening.
        let _ = self.channel.send(message, &[]);
    }
}
