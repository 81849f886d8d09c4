//! Socket options that rustix does not have.

#![expect(unsafe_code, reason = "getsockopt and setsockopt take memory")]

use std::mem::size_of;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;

/// `SO_PEERPIDFD` (include/uapi/asm-generic/socket.h, which x86 and ARM use).
const SO_PEERPIDFD: libc::c_int = 77;

/// `SO_PEEK_OFF` (the same).
const SO_PEEK_OFF: libc::c_int = 42;

/// The process that connected `stream`, on a kernel that says so (Linux 6.5).
pub(crate) fn pidfd_of_peer(stream: &UnixStream) -> Result<OwnedFd, Errno> {
    let mut fd: libc::c_int = -1;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    let (socket, value) = (stream.as_raw_fd(), (&raw mut fd).cast());
    // SAFETY: the kernel writes at most `len` bytes, an int, to `fd`.
    let answer =
        unsafe { libc::getsockopt(socket, libc::SOL_SOCKET, SO_PEERPIDFD, value, &raw mut len) };
    if answer != 0 {
        return Err(last_error());
    }
    // SAFETY: the call succeeded: a new descriptor that nobody else knows of.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Has `MSG_PEEK` begin at `offset` of what waits in `stream`, and go on from there (`SO_PEEK_OFF`).
pub(crate) fn peek_from(stream: &UnixStream, offset: libc::c_int) -> Result<(), Errno> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    let (socket, value) = (stream.as_raw_fd(), (&raw const offset).cast());
    // SAFETY: the kernel reads `len` bytes, an int, from `offset`.
    let answer = unsafe { libc::setsockopt(socket, libc::SOL_SOCKET, SO_PEEK_OFF, value, len) };
    match answer {
        0 => Ok(()),
        _ => Err(last_error()),
    }
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}
