//! Taking a handshake from a connection.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use surefault_pager::ServedRegion;
use surefault_uffd::Userfaultfd;
use thiserror::Error;

use crate::death::{HandshakePoint, die_at};
use crate::sockopt::peek_from;

use super::framing::Framing;
use super::parse::parse;
use super::{HandshakeLimits, ParseError};

/// Descriptors that a handshake may bring: the userfaultfd, and up to two that newer VMMs add.
const MAX_FDS: usize = 3;
/// Descriptors that one message can bring at all (`SCM_MAX_FD`).
const MAX_SENT: usize = 253;
/// A sender that says nothing for this long in the middle of a handshake may have no room to go on.
const SILENCE: Duration = Duration::from_secs(1);

/// A VMM's memory, to be served.
#[derive(Debug)]
pub struct Handshake {
    /// Its page faults.
    pub uffd: Userfaultfd,
    /// What lies where.
    pub regions: Vec<ServedRegion>,
}

/// A handshake that was not accepted.
#[derive(Debug, Error)]
#[error("{error}")]
pub struct Rejected {
    /// Why.
    #[source]
    pub error: ReceiveError,
    /// The userfaultfd, if it came. Closing it makes the VMM's memory read as **zeros**: see to the
    /// VMM's end first.
    pub uffd: Option<Userfaultfd>,
}

/// Why a handshake was not accepted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// The peer is gone.
    #[error("the peer hung up after {0} bytes")]
    HungUp(usize),
    /// The peer took too long.
    #[error("not complete after {0:?}")]
    TooSlow(core::time::Duration),
    /// More bytes than are allowed.
    #[error("longer than {0} bytes")]
    TooLong(usize),
    /// Something follows the array.
    #[error("something follows the array")]
    Trailing,
    /// The kernel cut it short (`MSG_TRUNC`).
    #[error("the kernel cut its bytes short (MSG_TRUNC)")]
    Truncated,
    /// Descriptors were lost (`MSG_CTRUNC`).
    #[error("its descriptors were lost: this process has no room for more (MSG_CTRUNC)")]
    DescriptorsLost,
    /// More descriptors than there can be.
    #[error("it brought {0} descriptors, and at most {MAX_FDS} make sense")]
    TooManyDescriptors(usize),
    /// No descriptor came, or no userfaultfd was among them.
    #[error("none of its {0} descriptors is a userfaultfd")]
    NoUserfaultfd(usize),
    /// Which one is meant?
    #[error("it brought several userfaultfds")]
    SeveralUserfaultfds,
    /// What it says cannot be served.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The socket failed.
    #[error("reading from the connection failed")]
    Socket(#[source] Errno),
}

/// Receives a handshake from `stream`.
///
/// # Errors
/// [`Rejected`], with the reason, and the userfaultfd if it had come.
pub fn receive(stream: &UnixStream, limits: &HandshakeLimits) -> Result<Handshake, Rejected> {
    let mut message = Message::default();
    let regions = message.take(stream, limits, RecvFlags::empty());
    message.judge(regions)
}

/// Reads the handshake that comes from `stream`, and leaves it there, so that it can be read again by
/// somebody else until it is [taken out](take_out). Gives its length, too.
///
/// What is left there counts against the room that its sender has: when nothing more comes for a
/// [while](SILENCE), it is taken out. VMMs send all of it at once.
///
/// # Errors
/// As [`receive`].
pub(crate) fn look(
    stream: &UnixStream,
    limits: &HandshakeLimits,
) -> Result<(Handshake, usize), Rejected> {
    let mut message = Message::default();
    // From the beginning, wherever somebody else has stopped.
    let left = match peek_from(stream, 0) {
        Ok(()) => RecvFlags::PEEK,
        Err(_) => RecvFlags::empty(),
    };
    let regions = message.take(stream, limits, left);
    let handshake = message.judge(regions)?;
    Ok((handshake, message.left))
}

/// Takes `len` bytes that were looked at out of `stream`, with the descriptors that came with them.
pub(crate) fn take_out(stream: &UnixStream, mut len: usize) {
    let mut bytes = vec![0; len];
    while len > 0 {
        let mut ancillary = RecvAncillaryBuffer::default();
        let mut parts = [IoSliceMut::new(&mut bytes[..len])];
        match recvmsg(stream, &mut parts, &mut ancillary, RecvFlags::DONTWAIT) {
            Ok(received) if received.bytes > 0 => len -= received.bytes,
            Err(Errno::INTR) => {}
            // Whoever has nothing more there has hung up.
            Ok(_) | Err(_) => return,
        }
    }
}

/// What has come so far.
#[derive(Default)]
struct Message {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
    framing: Framing,
    /// Bytes that were looked at, and left.
    left: usize,
}

impl Message {
    fn take(
        &mut self,
        stream: &UnixStream,
        limits: &HandshakeLimits,
        mut how: RecvFlags,
    ) -> Result<Vec<ServedRegion>, ReceiveError> {
        let until = Instant::now() + limits.time;
        loop {
            if !self.receive_piece(stream, until, limits, how)? {
                take_out(stream, self.left);
                (self.left, how) = (0, RecvFlags::empty());
                continue;
            }
            if self.bytes.len() > limits.message {
                return Err(ReceiveError::TooLong(limits.message));
            }
            if how.contains(RecvFlags::PEEK) {
                self.left = self.bytes.len();
                die_at(&HandshakePoint::Looked);
            }
            if let Some(end) = self.framing.end(&self.bytes) {
                let (json, rest) = self.bytes.split_at(end);
                if !rest.trim_ascii().is_empty() {
                    return Err(ReceiveError::Trailing);
                }
                return Ok(parse(json, limits)?);
            }
        }
    }

    /// The handshake, if what it says is good and it brought what it has to.
    fn judge(
        &mut self,
        regions: Result<Vec<ServedRegion>, ReceiveError>,
    ) -> Result<Handshake, Rejected> {
        match (regions, self.uffd()) {
            (Ok(regions), Ok(uffd)) => Ok(Handshake { uffd, regions }),
            (Err(error), uffd) => {
                let uffd = uffd.ok();
                Err(Rejected { error, uffd })
            }
            (Ok(_), Err(error)) => Err(Rejected { error, uffd: None }),
        }
    }

    /// Receives what there is, or waits for it. False when nothing comes to what is left where it is.
    fn receive_piece(
        &mut self,
        stream: &UnixStream,
        until: Instant,
        limits: &HandshakeLimits,
        how: RecvFlags,
    ) -> Result<bool, ReceiveError> {
        let old = self.bytes.len();
        // One byte more than is allowed tells that it is too long. A piece that is looked at has to
        // find room as a whole: its descriptors come again with every part of it.
        self.bytes.resize(limits.message + 1, 0);
        // Room for all that can come: what is lost then was lost for want of room in this process.
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SENT))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.bytes.truncate(old);
                return Err(ReceiveError::TooSlow(limits.time));
            }
            // What was looked at keeps the socket readable: poll would not wait.
            let is_left = how.contains(RecvFlags::PEEK) && old > 0;
            let patience = if is_left { left.min(SILENCE) } else { left };
            let waited = set_socket_timeout(stream, Timeout::Recv, Some(patience));
            let mut parts = [IoSliceMut::new(&mut self.bytes[old..])];
            let flags = RecvFlags::CMSG_CLOEXEC | how;
            match waited.and_then(|()| recvmsg(stream, &mut parts, &mut ancillary, flags)) {
                Ok(received) => break received,
                Err(Errno::AGAIN) if is_left && patience < left => {
                    self.bytes.truncate(old);
                    return Ok(false);
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => {
                    self.bytes.truncate(old);
                    return Err(match errno {
                        Errno::CONNRESET | Errno::PIPE => ReceiveError::HungUp(old),
                        errno => ReceiveError::Socket(errno),
                    });
                }
            }
        };
        self.bytes.truncate(old + received.bytes);
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(ReceiveError::DescriptorsLost);
        }
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Err(ReceiveError::Truncated);
        }
        if self.fds.len() > MAX_FDS {
            return Err(ReceiveError::TooManyDescriptors(self.fds.len()));
        }
        if received.bytes == 0 {
            return Err(ReceiveError::HungUp(old));
        }
        Ok(true)
    }

    /// The one userfaultfd among the descriptors; the others are closed.
    fn uffd(&mut self) -> Result<Userfaultfd, ReceiveError> {
        let count = self.fds.len();
        let uffds = self
            .fds
            .drain(..)
            .filter_map(|fd| Userfaultfd::from_fd(fd).ok());
        let mut uffds: Vec<Userfaultfd> = uffds.collect();
        match (uffds.pop(), uffds.is_empty()) {
            (Some(uffd), true) => Ok(uffd),
            (Some(_), false) => Err(ReceiveError::SeveralUserfaultfds),
            (None, _) => Err(ReceiveError::NoUserfaultfd(count)),
        }
    }
}
