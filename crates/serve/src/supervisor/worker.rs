//! A worker process: started, heard of, ended.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command};
use std::time::Instant;

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
    child: Child,
    pub(crate) pidfd: OwnedFd,
    pub(crate) channel: Channel,
    pub(crate) stage: Stage,
    pub(crate) started: Instant,
    /// When it last said something.
    pub(crate) heard: Instant,
    /// It has said that it ends because everything is over.
    pub(crate) is_over: bool,
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
        let now = Instant::now();
        Ok(Worker {
            child,
            pidfd,
            channel,
            stage: Stage::Starting,
            started: now,
            heard: now,
            is_over: false,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // One that has ended by itself is as good.
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }

    /// Kills it, and waits for its end. It holds nothing that the supervisor does not.
    pub(crate) fn end(mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }

    /// How it ended, in words and as an exit code.
    pub(crate) fn reap(mut self) -> (String, u8) {
        match self.child.wait() {
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
