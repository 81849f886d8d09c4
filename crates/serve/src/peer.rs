//! Who is at the other end of a connection, and how to tell that they are gone.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use thiserror::Error;

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

impl Peer {
    /// Who connected `stream`.
    ///
    /// By `SO_PEERPIDFD` (Linux 6.5), which cannot be mistaken; before that by the peer's pid, which
    /// is looked at again after it was opened: while the connection lives it was not reused.
    ///
    /// # Errors
    /// When the socket does not say.
    pub fn of(stream: &UnixStream) -> Result<Peer, PeerError> {
        let credentials = rustix::net::sockopt::socket_peercred(stream).map_err(PeerError)?;
        let pid = credentials.pid;
        let pidfd = pidfd::of_peer(stream).or_else(|| by_pid(stream, pid));
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
fn by_pid(stream: &UnixStream, pid: Pid) -> Option<OwnedFd> {
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    // One that has hung up may have ended, and another may have its number.
    (!hung_up(stream)).then_some(pidfd)
}

/// Whether the peer of `stream` has closed it.
pub(crate) fn hung_up(stream: &UnixStream) -> bool {
    let mut fds = [PollFd::new(stream, PollFlags::RDHUP)];
    let now = Timespec::default();
    let closed = PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR;
    poll(&mut fds, Some(&now)).is_err() || fds[0].revents().intersects(closed)
}

mod pidfd {
    #![expect(unsafe_code, reason = "a socket option that rustix does not have")]

    use std::mem::size_of;
    use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
    use std::os::unix::net::UnixStream;

    /// `SO_PEERPIDFD` (include/uapi/asm-generic/socket.h, which x86 and ARM use).
    const SO_PEERPIDFD: libc::c_int = 77;

    pub(super) fn of_peer(stream: &UnixStream) -> Option<OwnedFd> {
        let mut fd: libc::c_int = -1;
        let mut len = size_of::<libc::c_int>() as libc::socklen_t;
        let (socket, value) = (stream.as_raw_fd(), (&raw mut fd).cast());
        // SAFETY: the kernel writes at most `len` bytes, an int, to `fd`.
        let answer = unsafe {
            libc::getsockopt(socket, libc::SOL_SOCKET, SO_PEERPIDFD, value, &raw mut len)
        };
        if answer != 0 || fd < 0 {
            return None;
        }
        // SAFETY: the call succeeded: a new descriptor that nobody else knows of.
        Some(unsafe { OwnedFd::from_raw_fd(fd) })
    }
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
        let peer = Peer::known(child.id(), 0, by_pid(&ours, pid));
        peer.end().expect("it is killed");
        let status = child.wait().expect("a child");
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(9)
        );
        assert!(by_pid(&ours, pid).is_none(), "nobody has that number");
        let own = rustix::process::getpid();
        assert!(by_pid(&ours, own).is_some());
        drop(theirs);
        assert!(by_pid(&ours, own).is_none(), "it may be another's by now");
    }
}
