//! Messages between supervisor and worker: one packet each, with the descriptors that belong to it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_send_buffer_size, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::entries::{LastRule, Record};

/// Descriptors in one message: userfaultfd, connection, records, pidfd.
const MAX_FDS: usize = 4;
/// A record of more regions than a handshake may bring does not come near this.
const MAX_MESSAGE: usize = 200 << 10;
/// A side that takes nothing for this long is stuck.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a worker says.
#[derive(Serialize, Deserialize, Debug)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub(crate) enum ToSupervisor {
    /// It has begun, and can be given what there is to serve.
    Hello {
        /// Its process.
        pid: u32,
        /// Its version.
        version: String,
    },
    /// It serves all it was given.
    Ready,
    /// It gets on with its work.
    Alive,
    /// To be kept for its successors, with the descriptors that come along. Answered by `Kept` or
    /// `NotKept`.
    Keep {
        /// What they belong to.
        record: Record,
    },
    /// Somebody connects: to be accepted, and kept. Answered by `Accepted`, `Nobody` or `NotAccepted`.
    Accept {
        /// At this socket.
        socket: PathBuf,
        /// What its VMs are served from: the socket may have been replaced by another of this name.
        store: String,
        /// The number of the VM that it may become.
        id: u64,
        /// What becomes of it when nobody serves it.
        rule: LastRule,
    },
    /// To be kept no longer.
    Forget {
        /// What was kept by this name.
        key: String,
    },
    /// To be replaced by a worker from another program.
    Upgrade {
        /// The program; the one of the supervisor if there is none.
        binary: Option<PathBuf>,
    },
    /// It has let go of everything that is under way, and can be ended.
    Drained,
    /// It ends because everything is over.
    Over,
}

impl ToSupervisor {
    /// This process has begun.
    pub(crate) fn hello() -> ToSupervisor {
        ToSupervisor::Hello {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// What a worker is told.
#[derive(Serialize, Deserialize, Debug)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub(crate) enum ToWorker {
    /// What its predecessor has left, with the descriptors.
    Restore {
        /// What they belong to.
        record: Record,
    },
    /// That was all: to be served now.
    Serve,
    /// The supervisor has died, and this is another: what the dead one may have read and not seen to
    /// is to be said again. Answered by `Hello` or `Ready`, as far as the worker is.
    Takeover,
    /// It is kept.
    Kept {
        /// By this name.
        key: String,
    },
    /// It is not kept.
    NotKept {
        /// By this name.
        key: String,
    },
    /// Who connected is kept, and comes along.
    Accepted {
        /// As this VM.
        id: u64,
    },
    /// Who connected is gone.
    Nobody {
        /// The number that was asked for.
        id: u64,
    },
    /// Who connects cannot be accepted.
    NotAccepted {
        /// The number that was asked for.
        id: u64,
    },
    /// To let go of what is under way; its successor is there. Answered by `Drained`.
    Drain,
    /// It was not replaced.
    NotUpgraded {
        /// Why.
        reason: String,
    },
}

/// One end.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl Channel {
    /// Both ends.
    pub(crate) fn pair() -> io::Result<(Channel, OwnedFd)> {
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let (ours, theirs) = socketpair(family, kind, SocketFlags::CLOEXEC, None)?;
        Ok((Channel::new(ours)?, theirs))
    }

    pub(crate) fn new(socket: OwnedFd) -> io::Result<Channel> {
        // The limit of the host may be lower; messages are seldom long.
        let _ = set_socket_send_buffer_size(&socket, 2 * MAX_MESSAGE);
        set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
        Ok(Channel(socket))
    }

    /// The other side is stuck when it takes nothing for this long.
    pub(crate) fn set_patience(&self, patience: Duration) -> io::Result<()> {
        Ok(set_socket_timeout(&self.0, Timeout::Send, Some(patience))?)
    }

    /// Sends a message and duplicates of `fds`.
    pub(crate) fn send(&self, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::Error::other("too many descriptors for one message"));
        }
        let data = [IoSlice::new(&bytes)];
        loop {
            match sendmsg(&self.0, &data, &mut ancillary, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// The next message; `None` when the other side is gone. Where this process has no room for its
    /// descriptors, it comes without any.
    pub(crate) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut bytes = vec![0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            match recvmsg(&self.0, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Ok(received) => break received,
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
        };
        let mut fds = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(some) = message {
                fds.extend(some);
            }
        }
        if received.bytes == 0 {
            return Ok(None);
        }
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Err(io::Error::other("a message was cut short"));
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            fds.clear();
        }
        let message = serde_json::from_slice(&bytes[..received.bytes])?;
        Ok(Some((message, fds)))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
