//! Who is at the other end of a connection, and how to tell that they are gone.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use thiserror::Error;

use crate::sockopt;

/// A process is given this long to die of a kill.
const DEATH: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};

/// The process that connected.
#[derive(Debug)]
pub struct Peer {
    pid: u32,
    uid: u32,
    pidfd: Option<OwnedFd>,
}

/// Why nobody knows who connected.
#[derive(Debug, Error)]
#[error("cannot tell who connected")]
pub struct PeerError(#[source] Errno);

impl PeerError {
    /// Whether there was no room for a descriptor, and may be later.
    pub(crate) fn is_no_room(&self) -> bool {
        matches!(self.0, Errno::MFILE | Errno::NFILE)
    }
}

impl Peer {
    /// Who connected `stream`.
    ///
    /// By `SO_PEERPIDFD` (Linux 6.5), which cannot be mistaken; before that by the peer's pid, which
    /// is looked at again after it was opened: while the connection lives it was not reused.
    ///
    /// # Errors
    /// When the socket does not say, or there is no room for its pidfd.
    pub fn of(stream: &UnixStream) -> Result<Peer, PeerError> {
        let credentials = rustix::net::sockopt::socket_peercred(stream).map_err(PeerError)?;
        let pid = credentials.pid;
        let pidfd = match sockopt::pidfd_of_peer(stream).or_else(|_| by_pid(stream, pid)) {
            Ok(pidfd) => Some(pidfd),
            Err(errno @ (Errno::MFILE | Errno::NFILE)) => return Err(PeerError(errno)),
            Err(_) => None,
        };
        Ok(Peer {
            pid: pid.as_raw_nonzero().get().cast_unsigned(),
            uid: credentials.uid.as_raw(),
            pidfd,
        })
    }

    /// A process that another worker had to do with.
    pub(crate) fn known(pid: u32, uid: u32, pidfd: Option<OwnedFd>) -> Peer {
        Peer { pid, uid, pidfd }
    }

    /// Its number, for messages.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whose it is.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Readable when the process has ended; `None` where it could not be had.
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(OwnedFd::as_fd)
    }

    /// Kills it, and nobody else, and waits until it is dead.
    ///
    /// # Errors
    /// When there is no pidfd, or this process may not.
    pub fn end(&self) -> io::Result<()> {
        self.kill()?;
        if let Some(pidfd) = self.pidfd() {
            let _ = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&DEATH));
        }
        Ok(())
    }

    /// Kills it, and nobody else.
    ///
    /// # Errors
    /// As [`end`](Self::end).
    pub fn kill(&self) -> io::Result<()> {
        let pidfd = self.pidfd().ok_or(io::ErrorKind::Unsupported)?;
        match pidfd_send_signal(pidfd, Signal::KILL) {
            // It has ended by itself.
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// The process that has the other end of `stream`, and had this number when it connected.
fn by_pid(stream: &UnixStream, pid: Pid) -> Result<OwnedFd, Errno> {
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    // One that has hung up may have ended, and another may have its number.
    match hung_up(stream) {
        true => Err(Errno::SRCH),
        false => Ok(pidfd),
    }
}

/// Whether the peer of `stream` has closed it.
pub(crate) fn hung_up(stream: &UnixStream) -> bool {
    let mut fds = [PollFd::new(stream, PollFlags::RDHUP)];
    let now = Timespec::default();
    let closed = PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR;
    poll(&mut fds, Some(&now)).is_err() || fds[0].revents().intersects(closed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_this_process() {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        let peer = Peer::of(&ours).expect("a peer");
        assert_eq!(peer.pid(), std::process::id());
        assert!(!hung_up(&ours));
        drop(theirs);
        assert!(hung_up(&ours));
    }

    /// As on a kernel that does not say who the peer is but by its number.
    #[test]
    fn without_peerpidfd_a_number_is_believed_while_connected() {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("a process");
        let pid = Pid::from_child(&child);
        let peer = Peer::known(child.id(), 0, by_pid(&ours, pid).ok());
        peer.end().expect("it is killed");
        let status = child.wait().expect("a child");
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(9)
        );
        assert!(by_pid(&ours, pid).is_err(), "nobody has that number");
        let own = rustix::process::getpid();
        assert!(by_pid(&ours, own).is_ok());
        drop(theirs);
        assert!(by_pid(&ours, own).is_err(), "it may be another's by now");
    }
}
