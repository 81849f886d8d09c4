//! Taking a handshake from a connection.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use surefault_pager::ServedRegion;
use surefault_uffd::Userfaultfd;
use thiserror::Error;

use crate::death::{HandshakePoint, die_at};
use crate::sockopt::peek_from;
use crate::wakeup::timespec;

use super::framing::Framing;
use super::parse::parse;
use super::{HandshakeLimits, ParseError};

/// Descriptors that a handshake may bring: the userfaultfd, and up to two that newer VMMs add.
const MAX_FDS: usize = 3;
/// Descriptors that one message can bring at all (`SCM_MAX_FD`).
const MAX_SENT: usize = 253;
/// A sender that says nothing for this long in the middle of a handshake may have no room to go on.
const SILENCE: Duration = Duration::from_secs(1);
/// The pause before more of a handshake is looked for.
const PAUSE_FOR_MORE: Duration = Duration::from_millis(1);
/// The pause before descriptors are tried for again that there was no room for.
pub(crate) const PAUSE_FOR_ROOM: Duration = Duration::from_millis(20);

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
    let until = Instant::now() + limits.time;
    let mut message = Message::new(limits);
    let regions = message.take(stream, until, RecvFlags::empty());
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
    let until = Instant::now() + limits.time;
    loop {
        let mut message = Message::new(limits);
        // From the beginning, wherever somebody else has stopped.
        let how = match peek_from(stream, 0) {
            Ok(()) => RecvFlags::PEEK,
            Err(_) => RecvFlags::empty(),
        };
        match message.take(stream, until, how) {
            // They are still there, and there may be room soon.
            Err(ReceiveError::DescriptorsLost) if message.is_left && Instant::now() < until => {
                std::thread::sleep(PAUSE_FOR_ROOM);
            }
            regions => {
                let handshake = message.judge(regions)?;
                let left = message.is_left.then_some(message.bytes.len());
                return Ok((handshake, left.unwrap_or(0)));
            }
        }
    }
}

/// Whether descriptors wait in `stream`. No room is needed for them to see that.
pub(crate) fn has_descriptors(stream: &UnixStream) -> bool {
    // Where it cannot be set, everything is looked at from the beginning.
    let _ = peek_from(stream, 0);
    let mut bytes = vec![0; 64 << 10];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let received = recvmsg(stream, &mut parts, &mut Default::default(), flags);
    received.is_ok_and(|received| received.flags.contains(ReturnFlags::CTRUNC))
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
struct Message<'l> {
    limits: &'l HandshakeLimits,
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
    framing: Framing,
    /// What has come is left where it is.
    is_left: bool,
    /// Room for a piece, as long as a message may be and one byte more, which tells that it is too long.
    /// A piece that is looked at has to find room as a whole: its descriptors come with every part of it.
    room: Vec<u8>,
}

impl Message<'_> {
    fn new(limits: &HandshakeLimits) -> Message<'_> {
        Message {
            limits,
            bytes: Vec::new(),
            fds: Vec::new(),
            framing: Framing::default(),
            is_left: true,
            room: vec![0; limits.message + 1],
        }
    }

    fn take(
        &mut self,
        stream: &UnixStream,
        until: Instant,
        mut how: RecvFlags,
    ) -> Result<Vec<ServedRegion>, ReceiveError> {
        let limits = self.limits;
        self.is_left = how.contains(RecvFlags::PEEK);
        loop {
            if !self.receive_piece(stream, until, how)? {
                take_out(stream, self.bytes.len());
                how = RecvFlags::empty();
                self.is_left = false;
                continue;
            }
            if self.bytes.len() > limits.message {
                return Err(ReceiveError::TooLong(limits.message));
            }
            if self.is_left {
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
        let count = self.fds.len();
        let fds = self.fds.drain(..);
        let mut uffds: Vec<_> = fds.filter_map(|fd| Userfaultfd::from_fd(fd).ok()).collect();
        let (uffd, others) = (uffds.pop(), uffds.len());
        let error = match (regions, others) {
            (Err(error), _) => error,
            (Ok(_), 1..) => ReceiveError::SeveralUserfaultfds,
            (Ok(regions), 0) => match uffd {
                Some(uffd) => return Ok(Handshake { uffd, regions }),
                None => ReceiveError::NoUserfaultfd(count),
            },
        };
        Err(Rejected { error, uffd })
    }

    /// Receives what there is, or waits for it. False when nothing comes to what is left where it is.
    fn receive_piece(
        &mut self,
        stream: &UnixStream,
        until: Instant,
        how: RecvFlags,
    ) -> Result<bool, ReceiveError> {
        let time = self.limits.time;
        let old = self.bytes.len();
        let silent_until = Instant::now() + SILENCE.min(time / 4);
        // Room for all that can come: what is lost then was lost for want of room in this process.
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SENT))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let now = Instant::now();
            let left = until.saturating_duration_since(now);
            if left.is_zero() {
                return Err(ReceiveError::TooSlow(time));
            }
            // What was looked at keeps the socket readable, and older kernels begin from the first byte
            // again after a sleep in the middle (ledger).
            let is_in_the_middle = self.is_left && old > 0;
            if !is_in_the_middle {
                await_input(stream, left)?;
            } else if now >= silent_until {
                return Ok(false);
            }
            let mut parts = [IoSliceMut::new(&mut self.room)];
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT | how;
            match recvmsg(stream, &mut parts, &mut ancillary, flags) {
                Ok(received) => break received,
                Err(Errno::AGAIN) if is_in_the_middle => std::thread::sleep(PAUSE_FOR_MORE),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::CONNRESET | Errno::PIPE) => return Err(ReceiveError::HungUp(old)),
                Err(errno) => return Err(ReceiveError::Socket(errno)),
            }
        };
        self.bytes.extend_from_slice(&self.room[..received.bytes]);
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
}

/// Waits until there is something to read, or `patience` is over.
fn await_input(stream: &UnixStream, patience: Duration) -> Result<(), ReceiveError> {
    let mut fds = [PollFd::new(stream, PollFlags::IN)];
    match poll(&mut fds, Some(&timespec(patience))) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(ReceiveError::Socket(errno)),
    }
}
