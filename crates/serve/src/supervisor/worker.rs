//! A worker process: started or adopted, heard of, ended.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::channel::Channel;

/// How far a worker is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// It was started. Left by its `Hello`, its end, or its silence.
    Starting,
    /// It was given everything. Left by its `Ready`, its end, or its silence.
    Restoring,
    /// It serves. Left by its end, its silence, or its successor.
    Serving,
}

/// A worker process.
#[derive(Debug)]
pub(crate) struct Worker {
    process: Process,
    pub(crate) pidfd: OwnedFd,
    pub(crate) channel: Channel,
    pub(crate) stage: Stage,
    pub(crate) started: Instant,
    /// When it last said something.
    pub(crate) heard: Instant,
    /// It has said that it ends because everything is over.
    pub(crate) is_over: bool,
}

/// Whose child it is.
#[derive(Debug)]
enum Process {
    Child(Child),
    /// That of a supervisor that has died.
    Adopted(u32),
}

impl Worker {
    /// Starts `binary` with its end of the channel as standard input.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(binary: &Path, arguments: &[OsString]) -> io::Result<Worker> {
        let (channel, theirs) = Channel::pair()?;
        let mut command = Command::new(binary);
        command.args(arguments).stdin(theirs);
        // Signals of the terminal come to the supervisor, which passes them on.
        command.process_group(0);
        let mut child = command.spawn()?;
        let pidfd = match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(errno) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(errno.into());
            }
        };
        Ok(Worker::new(Process::Child(child), channel, pidfd))
    }

    /// A dead supervisor's worker, and that one's end of its channel.
    pub(crate) fn adopt(pid: u32, channel: Channel, pidfd: OwnedFd) -> Worker {
        Worker::new(Process::Adopted(pid), channel, pidfd)
    }

    fn new(process: Process, channel: Channel, pidfd: OwnedFd) -> Worker {
        let now = Instant::now();
        Worker {
            process,
            pidfd,
            channel,
            stage: Stage::Starting,
            started: now,
            heard: now,
            is_over: false,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        match &self.process {
            Process::Child(child) => child.id(),
            Process::Adopted(pid) => *pid,
        }
    }

    /// Whether another supervisor has started it.
    pub(crate) fn is_adopted(&self) -> bool {
        matches!(self.process, Process::Adopted(_))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // One that has ended by itself is as good.
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }

    /// Kills it, and waits for its end. It holds nothing that the supervisor does not.
    pub(crate) fn end(self) {
        self.signal(Signal::KILL);
        self.reap();
    }

    /// How it ended, in words and as an exit code. Of somebody else's child neither is known.
    pub(crate) fn reap(self) -> (String, u8) {
        let mut child = match self.process {
            Process::Child(child) => child,
            Process::Adopted(_) => {
                let mut ended = [PollFd::new(&self.pidfd, PollFlags::IN)];
                while poll(&mut ended, None) == Err(Errno::INTR) {}
                return ("another supervisor's child".to_owned(), 0);
            }
        };
        match child.wait() {
            Ok(status) => {
                let code = match (status.code(), status.signal()) {
                    (Some(code), _) => u8::try_from(code).unwrap_or(1),
                    (None, _) => 1,
                };
                (status.to_string(), code)
            }
            Err(error) => (error.to_string(), 1),
        }
    }
}
