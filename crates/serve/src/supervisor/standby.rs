//! The stand-by: a process that takes the supervisor's place when that dies.
//!
//! ```text
//!   supervisor ── state, workers, whatever is kept ──► stand-by        both are children of nobody
//!       │  ▲                                              │             who reads memory
//!       ▼  │ channel                                      │ the end of its channel: it is dead
//!     worker ◄──── the same channel, a duplicate ─────────┘
//! ```
//!
//! It has a duplicate of everything, the supervisor's ends of the workers' channels included. So the
//! worker's words are heard by whoever is the supervisor, and what nobody had read is not lost. What
//! the dead one had read and not seen to is asked for again (`ToWorker::Takeover`). It is told of a
//! worker *before* that is given anything to serve: there are never two that serve.
//!
//! The worker needs no program and no permission for that, and supervisor and worker may die together.
//! Under systemd there is none: when the main process dies, systemd ends the others and begins again
//! from its own store.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::channel::Channel;
use super::entries::{Entries, Entry, Record};
use super::worker::{Stage, Worker};
use super::{FIRST_PAUSE, Supervisor, SupervisorConfig, ToSupervisor, ToWorker};

/// The pause before another stand-by is started.
const PAUSE: Duration = Duration::from_millis(500);
/// A stand-by that takes nothing for this long is replaced: the supervisor has others to hear.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a stand-by is told.
#[derive(Serialize, Deserialize, Debug)]
#[serde(tag = "say", rename_all = "kebab-case")]
enum ToStandby {
    /// What the supervisor knows besides.
    State(State),
    /// There is a worker: the supervisor's end of its channel, and its pidfd.
    Worker {
        /// Its process.
        pid: u32,
    },
    /// To be kept, with the descriptors.
    Keep {
        /// What they belong to.
        record: Record,
    },
    /// To be kept no longer.
    Forget {
        /// What was kept by this name.
        key: String,
    },
    /// Everything is over.
    Over,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
struct State {
    /// The supervisor's process.
    pid: u32,
    /// The program that workers are started from.
    binary: PathBuf,
    /// The one to go back to.
    previous: Option<PathBuf>,
    /// The signal that workers to come must know.
    owed: Option<i32>,
}

/// The supervisor's side: the process, and when the next one may be started.
#[derive(Debug)]
pub(super) struct Standby {
    arguments: Vec<OsString>,
    /// Its stage is `Serving` when it knows everything.
    process: Option<Worker>,
    start_at: Instant,
    /// It was said that there is none.
    is_missed: bool,
}

impl Standby {
    pub(super) fn new(arguments: Vec<OsString>) -> Standby {
        Standby {
            arguments,
            process: None,
            start_at: Instant::now(),
            is_missed: false,
        }
    }

    /// What is readable when it says something, or has died.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.process.as_ref().map(|process| process.channel.as_fd())
    }

    fn is_told(&self) -> bool {
        let process = self.process.as_ref();
        process.is_some_and(|process| process.stage == Stage::Serving)
    }
}

impl Supervisor {
    /// Starts a stand-by where one is missing, and lets go of one that does not begin. Not before
    /// there is something to lose.
    pub(super) fn look_after_standby(&mut self, now: Instant) {
        let Some(standby) = self.standby.as_ref().filter(|_| self.has_served) else {
            return;
        };
        match &standby.process {
            None if now >= standby.start_at => self.start_standby(),
            Some(process)
                if process.stage == Stage::Starting
                    && now >= process.heard + self.config.silence =>
            {
                self.lose_standby("it does not begin");
            }
            None | Some(_) => {}
        }
    }

    /// When something is due about it.
    pub(super) fn standby_due(&self) -> Option<Instant> {
        let standby = self.standby.as_ref().filter(|_| self.has_served)?;
        match &standby.process {
            None => Some(standby.start_at),
            Some(process) if process.stage == Stage::Starting => {
                Some(process.heard + self.config.silence)
            }
            Some(_) => None,
        }
    }

    fn start_standby(&mut self) {
        let Some(standby) = &mut self.standby else {
            return;
        };
        let started = Worker::start(&self.config.binary, &standby.arguments);
        let started = started.and_then(|process| {
            process.channel.set_patience(PATIENCE)?;
            Ok(process)
        });
        match started {
            Ok(process) => standby.process = Some(process),
            Err(error) => {
                let binary = self.config.binary.display();
                self.lose_standby(&format!("cannot start {binary}: {error}"));
            }
        }
    }

    /// Hears that it has begun, or of its end.
    pub(super) fn hear_standby(&mut self) {
        let process = self.standby.as_mut().and_then(|it| it.process.as_mut());
        let Some(process) = process else {
            return;
        };
        match process.channel.receive() {
            Ok(Some((ToSupervisor::Hello { pid, .. }, _))) => {
                process.stage = Stage::Serving;
                self.brief();
                if let Some(standby) = self.standby.as_mut().filter(|it| it.is_told()) {
                    standby.is_missed = false;
                    self.say(&format!("process {pid} stands by"));
                }
            }
            Ok(Some(_)) | Err(_) => self.lose_standby("its words make no sense"),
            Ok(None) => self.lose_standby("it has died"),
        }
    }

    /// Tells it everything.
    fn brief(&mut self) {
        self.tell_standby_state();
        self.tell_standby_worker();
        let standby = self.standby.as_ref().filter(|standby| standby.is_told());
        let Some(process) = standby.and_then(|standby| standby.process.as_ref()) else {
            return;
        };
        let told = self.entries.iter().try_for_each(|(_, entry)| {
            let record = entry.record.clone();
            let message = ToStandby::Keep { record };
            process.channel.send(&message, &entry.borrowed())
        });
        if let Err(error) = told {
            self.lose_standby(&error.to_string());
        }
    }

    fn tell_standby(&mut self, message: &ToStandby, fds: &[BorrowedFd<'_>]) {
        let standby = self.standby.as_ref().filter(|standby| standby.is_told());
        let Some(process) = standby.and_then(|standby| standby.process.as_ref()) else {
            return;
        };
        if let Err(error) = process.channel.send(message, fds) {
            self.lose_standby(&error.to_string());
        }
    }

    pub(super) fn tell_standby_state(&mut self) {
        let state = State {
            pid: std::process::id(),
            binary: self.config.binary.clone(),
            previous: self.previous.clone(),
            owed: self.owed.map(Signal::as_raw),
        };
        self.tell_standby(&ToStandby::State(state), &[]);
    }

    /// To be called before the worker is given anything to serve.
    pub(super) fn tell_standby_worker(&mut self) {
        let Some(worker) = &self.worker else {
            return;
        };
        let duplicate = |fd: BorrowedFd<'_>| fd.try_clone_to_owned();
        let fds = duplicate(worker.channel.as_fd())
            .and_then(|channel| Ok([channel, duplicate(worker.pidfd.as_fd())?]));
        let pid = worker.pid();
        match fds {
            Ok([channel, pidfd]) => {
                let fds = [channel.as_fd(), pidfd.as_fd()];
                self.tell_standby(&ToStandby::Worker { pid }, &fds);
            }
            Err(error) => self.lose_standby(&error.to_string()),
        }
    }

    pub(super) fn tell_standby_to_keep(&mut self, entry: &Entry) {
        let record = entry.record.clone();
        let message = ToStandby::Keep { record };
        self.tell_standby(&message, &entry.borrowed());
    }

    pub(super) fn tell_standby_to_forget(&mut self, key: &str) {
        let key = key.to_owned();
        self.tell_standby(&ToStandby::Forget { key }, &[]);
    }

    /// Nobody is to take this one's place.
    pub(super) fn dismiss_standby(&mut self) {
        self.tell_standby(&ToStandby::Over, &[]);
        if let Some(process) = self.standby.take().and_then(|standby| standby.process) {
            process.end();
        }
    }

    /// One of another program is to stand by.
    pub(super) fn renew_standby(&mut self) {
        if let Some(standby) = &mut self.standby {
            standby.start_at = Instant::now();
            if let Some(process) = standby.process.take() {
                process.end();
            }
        }
    }

    fn lose_standby(&mut self, why: &str) {
        let Some(standby) = &mut self.standby else {
            return;
        };
        standby.start_at = Instant::now() + PAUSE;
        let process = standby.process.take();
        let was_missed = core::mem::replace(&mut standby.is_missed, true);
        if let Some(process) = process {
            process.end();
        }
        if !was_missed {
            self.say(&format!(
                "NOBODY STANDS BY ({why}): if this process dies, the worker is alone"
            ));
        }
    }
}

/// What a supervisor has left.
struct Left {
    state: State,
    entries: Entries,
    worker: Option<Worker>,
}

impl Supervisor {
    /// Stands by at standard input, and gives the supervisor that goes on where another has died;
    /// `None` when that has ended otherwise. `log` as of [`new`](Supervisor::new).
    ///
    /// # Errors
    /// When standard input is no channel of a supervisor.
    pub fn stand_by(
        config: SupervisorConfig,
        log: impl Fn(&str) + 'static,
    ) -> io::Result<Option<Supervisor>> {
        let socket = fcntl_dupfd_cloexec(std::io::stdin().as_fd(), 3)?;
        let Some(left) = wait(&Channel::new(socket)?)? else {
            return Ok(None);
        };
        let Left {
            state,
            entries,
            worker,
        } = left;
        let config = SupervisorConfig {
            binary: state.binary,
            ..config
        };
        let mut supervisor = Supervisor::with(config, entries, None, log);
        supervisor.say(&format!(
            "the supervisor (process {}) DIED: process {} takes its place",
            state.pid,
            std::process::id()
        ));
        supervisor.previous = state.previous;
        supervisor.has_served = true;
        supervisor.owed = state.owed.and_then(Signal::from_named_raw);
        if worker.is_some() {
            supervisor.unserved = None;
        }
        supervisor.worker = worker;
        supervisor.pause = FIRST_PAUSE;
        // One that is dead is heard of as of any other's death.
        supervisor.tell(&ToWorker::Takeover);
        Ok(Some(supervisor))
    }
}

/// Takes what there is to take, until the supervisor is dead; `None` when there is nothing to go on
/// with.
fn wait(channel: &Channel) -> io::Result<Option<Left>> {
    channel.send(&ToSupervisor::hello(), &[])?;
    let (mut state, mut worker) = (None, None);
    let mut entries = Entries::default();
    loop {
        // What makes no sense is as good as nothing: this one ends, and another is started.
        match channel.receive()? {
            Some((ToStandby::State(new), _)) => state = Some(new),
            Some((ToStandby::Worker { pid }, fds)) => worker = adopt(pid, fds)?,
            // Without it this process would lose what it is there for.
            Some((ToStandby::Keep { .. }, fds)) if fds.is_empty() => {
                return Err(io::Error::other("no room for what is to be kept"));
            }
            Some((ToStandby::Keep { record }, fds)) => {
                entries.insert(record.key(), Entry { record, fds });
            }
            Some((ToStandby::Forget { key }, _)) => {
                entries.remove(&key);
            }
            Some((ToStandby::Over, _)) => return Ok(None),
            None => {
                return Ok(state.map(|state| Left {
                    state,
                    entries,
                    worker,
                }));
            }
        }
    }
}

fn adopt(pid: u32, fds: Vec<OwnedFd>) -> io::Result<Option<Worker>> {
    let mut fds = fds.into_iter();
    let (Some(channel), Some(pidfd)) = (fds.next(), fds.next()) else {
        return Ok(None);
    };
    Ok(Some(Worker::adopt(pid, Channel::new(channel)?, pidfd)))
}
