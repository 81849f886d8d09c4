//! The supervisor: why a dead page-fault handler freezes no VM.
//!
//! The process that a user starts accepts connections, holds duplicates of everything that a VM depends
//! on, and does nothing with them. Another process, the worker, serves. When it dies, at any point and for any
//! reason, the next one is given the duplicates and goes on.
//!
//! ```text
//!          ┌──────────── dies, is silent ────────────┐
//!          ▼                                         │
//!  start ──► Starting ──hello──► Restoring ──ready──► Serving ──over──► end
//!          ▲    │ cannot be started: again and again   │
//!          │    ▼                                      │ upgrade
//!          │  after the deadline: the last resort      ▼
//!          └─────────── rolled back ◄── candidate ──hello──► the old one drains and is killed,
//!                     (no hello, no ready)                  the candidate is Restoring
//! ```
//!
//! | file | what is in it |
//! |---|---|
//! | `channel` | what the two say to each other |
//! | `entries` | what is kept |
//! | `worker` | the process |
//! | `hear` | what a worker says, and that it has died |
//! | `upgrade` | one worker takes another's place |
//! | `standby` | the process that takes this one's place when it dies |
//! | `last_resort` | ends the faults of VMs that nobody serves |
//! | `notify` | systemd, which keeps everything once more |
//!
//! A worker is never trusted to have died well: it is killed when it may hold something, and what it
//! has written into the records is doubted by who reads it. A VM is kept before its first page is
//! served, and forgotten when its process has ended.

mod channel;
mod entries;
mod hear;
mod last_resort;
mod notify;
mod standby;
mod upgrade;
mod worker;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;

pub(crate) use channel::{Channel, ToSupervisor, ToWorker};
pub(crate) use entries::{Entry, LastRule, Record, VmEntry, listener_key, now_ns, vm_key};

use entries::Entries;
use last_resort::LastResort;
use notify::Notify;
use standby::Standby;
use worker::{Stage, Worker};

use crate::wakeup::timespec;

/// How a supervisor starts workers, and how long it waits.
#[derive(Clone, Debug)]
pub struct SupervisorConfig {
    /// The program that is the worker.
    pub binary: PathBuf,
    /// Its arguments. Its standard input is the channel to the supervisor.
    pub arguments: Vec<OsString>,
    /// The arguments of the process that takes the supervisor's place when that dies: one that calls
    /// [`Supervisor::stand_by`], its standard input the channel. Without them there is none.
    pub standby_arguments: Option<Vec<OsString>>,
    /// Without a worker for this long, page faults are ended by the VMs' rules.
    pub deadline: Duration,
    /// A worker that is silent for this long is killed.
    pub silence: Duration,
}

/// The first pause before another start, doubled each time,
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A worker that is to be replaced has this long to let go of what is under way.
const DRAIN: Duration = Duration::from_secs(5);
/// The pause before faults that could not be ended are tried again.
const AGAIN: Duration = Duration::from_millis(5);

/// Keeps VMs served by one worker after the other.
pub struct Supervisor {
    config: SupervisorConfig,
    entries: Entries,
    worker: Option<Worker>,
    /// The worker that is to replace the present one, and its program.
    candidate: Option<(Worker, PathBuf)>,
    /// The program to go back to, until the new one serves.
    previous: Option<PathBuf>,
    /// Until when the old worker may take to drain.
    drain_until: Option<Instant>,
    last_resort: Option<LastResort>,
    notify: Option<Notify>,
    standby: Option<Standby>,
    /// Since when nobody serves.
    unserved: Option<Instant>,
    start_at: Instant,
    pause: Duration,
    /// There was a worker that served.
    has_served: bool,
    /// The last signal that was to be passed on: workers to come must know, too.
    owed: Option<Signal>,
    log: Box<dyn Fn(&str)>,
}

impl Supervisor {
    /// A supervisor that has not started anything yet. `log` hears what happens, a line at a time.
    ///
    /// What systemd has kept for a supervisor before this one is taken over here: to be called
    /// before the process opens any descriptors.
    pub fn new(config: SupervisorConfig, log: impl Fn(&str) + 'static) -> Supervisor {
        let mut notify = Notify::from_env();
        let mut entries = Entries::default();
        let stored = notify.as_mut().map(Notify::stored);
        for (key, entry) in stored.into_iter().flatten() {
            entries.insert(key, entry);
        }
        let vms = entries.vms().count();
        if vms > 0 {
            log(&format!("{vms} VMs were kept by systemd"));
        }
        Supervisor::with(config, entries, notify, log)
    }

    fn with(
        mut config: SupervisorConfig,
        entries: Entries,
        notify: Option<Notify>,
        log: impl Fn(&str) + 'static,
    ) -> Supervisor {
        // systemd ends whoever is left when its main process dies.
        let standby = config.standby_arguments.take().filter(|_| notify.is_none());
        Supervisor {
            config,
            standby: standby.map(Standby::new),
            unserved: (!entries.is_empty()).then(Instant::now),
            entries,
            worker: None,
            candidate: None,
            previous: None,
            drain_until: None,
            last_resort: None,
            notify,
            start_at: Instant::now(),
            pause: FIRST_PAUSE,
            has_served: false,
            owed: None,
            log: Box::new(log),
        }
    }

    /// Supervises until a worker says that everything is over, or the very first one cannot begin.
    /// Gives the exit code of that one. Every byte that can be read from `signals` is the number of a
    /// signal to be passed on to the worker.
    ///
    /// # Errors
    /// When the first worker cannot be started at all.
    pub fn run(mut self, signals: &OwnedFd) -> io::Result<u8> {
        loop {
            let now = Instant::now();
            if self.worker.is_none() && self.candidate.is_none() && now >= self.start_at {
                self.start()?;
            }
            self.look_at_the_clock(now);
            self.look_after_standby(now);
            let happened = self.wait(signals.as_fd(), now);
            if happened.signal {
                self.pass_on(signals);
            }
            if happened.last_resort
                && let Some(last_resort) = &mut self.last_resort
            {
                last_resort.serve(&*self.log);
            }
            if happened.standby {
                self.hear_standby();
            }
            if happened.candidate {
                self.hear_candidate();
            }
            if happened.worker
                && let Some(code) = self.hear_worker()
            {
                self.dismiss_standby();
                return Ok(code);
            }
        }
    }

    fn start(&mut self) -> io::Result<()> {
        match Worker::start(&self.config.binary, &self.config.arguments) {
            Ok(worker) => {
                self.worker = Some(worker);
                self.tell_standby_worker();
                Ok(())
            }
            Err(error) if !self.has_served && self.entries.is_empty() => Err(error),
            Err(error) => {
                let binary = self.config.binary.display();
                self.say(&format!("CANNOT START {binary}: {error}"));
                self.back_off();
                Ok(())
            }
        }
    }

    fn back_off(&mut self) {
        self.start_at = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.unserved.get_or_insert_with(Instant::now);
    }

    fn look_at_the_clock(&mut self, now: Instant) {
        let silence = self.config.silence;
        let silent = |worker: &Worker| now >= worker.heard + silence;
        if let Some(worker) = self.worker.as_ref().filter(|worker| silent(worker)) {
            self.say(&format!(
                "worker {} said nothing for {silence:?}: it is killed",
                worker.pid()
            ));
            worker.signal(Signal::KILL);
        }
        let candidate = self.candidate.as_ref().filter(|_| !self.is_draining());
        if candidate.is_some_and(|(worker, _)| silent(worker)) {
            self.drop_candidate(&format!("it said nothing for {silence:?}"));
        }
        if self.drain_until.is_some_and(|until| now >= until) {
            self.replace();
        }
        let overdue = |since: Instant| now >= since + self.config.deadline;
        if self.last_resort.is_none() && self.unserved.is_some_and(overdue) {
            self.last_resort = Some(LastResort::begin(&self.entries, &*self.log));
        }
    }

    /// Whether the candidate waits for its turn, and has nothing to say.
    fn is_draining(&self) -> bool {
        self.drain_until.is_some()
    }

    /// When something is due.
    fn next_due(&self) -> Option<Instant> {
        let workers = self.worker.iter();
        let candidate = self.candidate.iter().filter(|_| !self.is_draining());
        let workers = workers.chain(candidate.map(|(worker, _)| worker));
        let silences = workers.map(|worker| worker.heard + self.config.silence);
        let start = (self.worker.is_none() && self.candidate.is_none()).then_some(self.start_at);
        let last_resort = self.unserved.map(|since| since + self.config.deadline);
        let last_resort = last_resort.filter(|_| self.last_resort.is_none());
        silences
            .chain(start)
            .chain(last_resort)
            .chain(self.drain_until)
            .chain(self.standby_due())
            .min()
    }

    fn wait(&mut self, signals: BorrowedFd<'_>, now: Instant) -> Happened {
        let log = &*self.log;
        let last_resort = self.last_resort.as_mut();
        let again = last_resort.is_some_and(|last_resort| last_resort.serve(log));
        let due = self.next_due();
        let due = if again { Some(now + AGAIN) } else { due };
        let timeout = due.map(|due| timespec(due.saturating_duration_since(now)));
        let mut fds = vec![PollFd::from_borrowed_fd(signals, PollFlags::IN)];
        let mut whose = vec![Whose::Signals];
        let mut add = |fd, who| {
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
            whose.push(who);
        };
        if let Some(worker) = &self.worker {
            add(worker.channel.as_fd(), Whose::Worker);
            add(worker.pidfd.as_fd(), Whose::Worker);
        }
        if let Some((worker, _)) = &self.candidate {
            add(worker.channel.as_fd(), Whose::Candidate);
            add(worker.pidfd.as_fd(), Whose::Candidate);
        }
        if let Some(standby) = self.standby.as_ref().and_then(Standby::fd) {
            add(standby, Whose::Standby);
        }
        if let Some(last_resort) = &self.last_resort {
            last_resort.fds().for_each(|fd| add(fd, Whose::LastResort));
        }
        let mut happened = Happened::default();
        // A signal ends the sleep early, which is as good as a time-out.
        if poll(&mut fds, timeout.as_ref()).is_ok() {
            for (fd, whose) in fds.iter().zip(&whose) {
                if !fd.revents().is_empty() {
                    match whose {
                        Whose::Signals => happened.signal = true,
                        Whose::Worker => happened.worker = true,
                        Whose::Candidate => happened.candidate = true,
                        Whose::Standby => happened.standby = true,
                        Whose::LastResort => happened.last_resort = true,
                    }
                }
            }
        }
        happened
    }

    fn pass_on(&mut self, signals: &OwnedFd) {
        let mut numbers = [0; 16];
        let read = rustix::io::read(signals, &mut numbers).unwrap_or(0);
        for &number in &numbers[..read] {
            let Some(signal) = Signal::from_named_raw(number.into()) else {
                continue;
            };
            self.owed = Some(signal);
            self.tell_standby_state();
            if let Some(worker) = &self.worker
                && worker.stage == Stage::Serving
            {
                worker.signal(signal);
            }
        }
    }

    fn tell(&self, message: &ToWorker) {
        if let Some(worker) = &self.worker {
            // One that does not listen will be found dead or silent.
            let _ = worker.channel.send(message, &[]);
        }
    }

    fn say(&self, line: &str) {
        (self.log)(line);
    }
}

/// Whose descriptor it is.
enum Whose {
    Signals,
    Worker,
    Candidate,
    Standby,
    LastResort,
}

/// What there is to look at.
#[derive(Default)]
struct Happened {
    signal: bool,
    worker: bool,
    candidate: bool,
    standby: bool,
    last_resort: bool,
}
