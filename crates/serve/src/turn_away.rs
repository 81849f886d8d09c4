//! Turning away who connected and is not served.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::daemon::Shared;
use crate::handshake::has_descriptors;
use crate::peer::{Peer, hung_up};

/// How often room for a pidfd is tried for, and the pause in between.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(10);

impl Shared {
    /// Refuses to serve who connected `stream`, which is to be closed after that only. Its process is
    /// killed if it has handed its memory over, known from elsewhere or because descriptors wait in the
    /// connection: it must not go on with zeros, nor wait for ever.
    pub(crate) fn turn_away(
        &self,
        socket: &Path,
        stream: &UnixStream,
        peer: Option<&Peer>,
        has_handed_over: bool,
        reason: &str,
    ) {
        let has_handed_over = has_handed_over || has_descriptors(stream);
        let killed = has_handed_over
            && match peer {
                Some(peer) => peer.end().is_ok(),
                None => self.end_unknown(stream),
            };
        self.refused(socket, peer.map(Peer::pid), reason, killed);
    }

    /// Kills who connected `stream`, whom there was no room to know yet.
    fn end_unknown(&self, stream: &UnixStream) -> bool {
        for _ in 0..TRIES {
            match self.spare.lend(|| Peer::of(stream)) {
                Ok(peer) => return self.allows(peer.uid()) && peer.end().is_ok(),
                // Somebody else was faster.
                Err(error) if error.is_no_room() && !hung_up(stream) => std::thread::sleep(PAUSE),
                Err(_) => return false,
            }
        }
        false
    }
}
