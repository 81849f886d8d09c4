//! Taking a handshake from a connection.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use surefault_pager::ServedRegion;
use surefault_uffd::Userfaultfd;
use thiserror::Error;

use super::framing::Framing;
use super::parse::parse;
use super::{HandshakeLimits, ParseError};

/// Descriptors that a handshake may bring: the userfaultfd, and up to two that newer VMMs add.
const MAX_FDS: usize = 3;
/// Bytes read at once.
const PIECE: usize = 16 << 10;

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
    #[error("descriptors were lost (MSG_CTRUNC): too many came, or this process has no room")]
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
    let regions = message.take(stream, limits);
    let uffd = message.uffd();
    match (regions, uffd) {
        (Ok(regions), Ok(uffd)) => Ok(Handshake { uffd, regions }),
        (Err(error), uffd) => {
            let uffd = uffd.ok();
            Err(Rejected { error, uffd })
        }
        (Ok(_), Err(error)) => Err(Rejected { error, uffd: None }),
    }
}

/// The handshake that waits in `stream`, left there: if it came in one piece and can be served. What
/// did not is for [`receive`], which says why.
///
/// It can so be taken by somebody else, too, until it is [discarded](discard).
pub(crate) fn peek(stream: &UnixStream, limits: &HandshakeLimits) -> Option<Handshake> {
    let until = Instant::now() + limits.time;
    let mut message = Message::default();
    let flags = RecvFlags::PEEK;
    let piece = limits.message;
    message
        .receive_piece(stream, until, limits, piece, flags)
        .ok()?;
    let end = message.framing.end(&message.bytes)?;
    let (json, rest) = message.bytes.split_at(end);
    if !rest.trim_ascii().is_empty() {
        return None;
    }
    let regions = parse(json, limits).ok()?;
    let uffd = message.uffd().ok()?;
    Some(Handshake { uffd, regions })
}

/// Takes what waits in `stream` out of there.
pub(crate) fn discard(stream: &UnixStream, limits: &HandshakeLimits) {
    let mut message = Message::default();
    // There is something to take, or nothing to wait for.
    let _ = message.receive_piece(
        stream,
        Instant::now() + limits.time,
        limits,
        limits.message,
        RecvFlags::empty(),
    );
}

/// What has come so far.
#[derive(Default)]
struct Message {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
    framing: Framing,
}

impl Message {
    fn take(
        &mut self,
        stream: &UnixStream,
        limits: &HandshakeLimits,
    ) -> Result<Vec<ServedRegion>, ReceiveError> {
        let until = Instant::now() + limits.time;
        loop {
            self.receive_piece(stream, until, limits, PIECE, RecvFlags::empty())?;
            if self.bytes.len() > limits.message {
                return Err(ReceiveError::TooLong(limits.message));
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

    /// Receives what there is, or waits for it.
    fn receive_piece(
        &mut self,
        stream: &UnixStream,
        until: Instant,
        limits: &HandshakeLimits,
        piece: usize,
        how: RecvFlags,
    ) -> Result<(), ReceiveError> {
        let old = self.bytes.len();
        self.bytes.resize(old + piece, 0);
        // Room for one more than makes sense, to be able to say so.
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS + 1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            await_input(stream, until, limits)?;
            let mut parts = [IoSliceMut::new(&mut self.bytes[old..])];
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT | how;
            match recvmsg(stream, &mut parts, &mut ancillary, flags) {
                Ok(received) => break received,
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
        Ok(())
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

/// Waits until there is something to read.
fn await_input(
    stream: &UnixStream,
    until: Instant,
    limits: &HandshakeLimits,
) -> Result<(), ReceiveError> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ReceiveError::TooSlow(limits.time));
        }
        let timeout = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&timeout)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(errno) => return Err(ReceiveError::Socket(errno)),
        }
    }
}
