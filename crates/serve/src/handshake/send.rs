//! The VMM's side of a handshake, for clients and tests.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use thiserror::Error;

use super::WireRegion;

/// Why a handshake was not sent.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SendError {
    /// It cannot be written as JSON.
    #[error("the regions cannot be written as JSON")]
    Json(#[source] serde_json::Error),
    /// The connection does not take it.
    #[error("the handshake cannot be sent")]
    Socket(#[source] Errno),
}

/// Sends `regions` and `uffd` on `stream`, which has to stay open for as long as the memory is to be
/// served.
///
/// # Errors
/// When the connection does not take all of it.
pub fn send(
    stream: &UnixStream,
    regions: &[WireRegion],
    uffd: BorrowedFd<'_>,
) -> Result<(), SendError> {
    let json = serde_json::to_vec(regions).map_err(SendError::Json)?;
    let fds = [uffd];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let pushed = ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    debug_assert!(pushed, "there is room for one descriptor");
    let mut sent = 0;
    while sent < json.len() {
        let parts = [IoSlice::new(&json[sent..])];
        match sendmsg(stream, &parts, &mut ancillary, SendFlags::NOSIGNAL) {
            Ok(bytes) => {
                sent += bytes;
                // The descriptor went with the first byte.
                ancillary.clear();
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(SendError::Socket(errno)),
        }
    }
    Ok(())
}
