//! Why a read failed, and whether trying again makes sense.

use rustix::io::Errno;
use surefault_core::{CauseKind, PageIndex, Persistence};
use thiserror::Error;

use crate::OpenError;

/// Why a read of a [`Store`](crate::Store) failed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The source ends before the bytes that were asked for do.
    #[error("{source_name} is too short: it has {found} bytes, and {needed} are needed")]
    Truncated {
        /// The source.
        source_name: String,
        /// Bytes that it has now.
        found: u64,
        /// Bytes that it must have: where the read was to end.
        needed: u64,
    },
    /// The system refused the read.
    #[error("reading {len} bytes at offset {offset:#x} of {source_name} failed")]
    Read {
        /// The source.
        source_name: String,
        /// The first byte of the read.
        offset: u64,
        /// Bytes of the read.
        len: usize,
        /// The system's answer.
        #[source]
        errno: Errno,
    },
    /// A fault plan asked for it.
    #[error(
        "the fault plan fails page {page} of {source_name} {}",
        match persistence {
            Persistence::Temporary => format!("on attempt {attempt}"),
            Persistence::Permanent => "on every attempt".to_owned(),
        }
    )]
    Injected {
        /// The source.
        source_name: String,
        /// The first page of the read that fails.
        page: PageIndex,
        /// Which attempt it was, counted from 1.
        attempt: u8,
        /// Whether later attempts fare better.
        persistence: Persistence,
    },
    /// The source could not be opened, which some stores try at their first read only.
    #[error("the source is not available")]
    Open(#[source] OpenError),
    /// The store is being closed.
    #[error("reading {source_name} was cancelled")]
    Cancelled {
        /// The source.
        source_name: String,
    },
}

impl StoreError {
    /// The kind of cause this is.
    pub fn kind(&self) -> CauseKind {
        match self {
            StoreError::Truncated { .. } => CauseKind::Truncated,
            StoreError::Read { errno, .. } => classify(*errno).0,
            StoreError::Injected { .. } => CauseKind::Injected,
            StoreError::Open(error) => open_error(error).0,
            StoreError::Cancelled { .. } => CauseKind::Unavailable,
        }
    }

    /// Whether trying again makes sense.
    pub fn persistence(&self) -> Persistence {
        match self {
            StoreError::Read { errno, .. } => classify(*errno).1,
            StoreError::Injected { persistence, .. } => *persistence,
            StoreError::Open(error) => open_error(error).1,
            StoreError::Truncated { .. } | StoreError::Cancelled { .. } => Persistence::Permanent,
        }
    }
}

fn open_error(error: &OpenError) -> (CauseKind, Persistence) {
    match error {
        OpenError::Failed { errno, .. } => classify(*errno),
        OpenError::Permission { .. } => (CauseKind::Permission, Persistence::Permanent),
        OpenError::Missing { .. } | OpenError::NotAFile { .. } => {
            (CauseKind::Unavailable, Persistence::Permanent)
        }
        OpenError::Empty { .. } | OpenError::PartialPage { .. } | OpenError::TooSmall { .. } => {
            (CauseKind::Truncated, Persistence::Permanent)
        }
    }
}

/// What an errno of a read means.
///
/// Block devices give those of `blk_errors` (`block/blk-core.c`), file systems on a network those of
/// their transport. Temporary is what the kernel itself calls so, or what somebody may mend without
/// touching the source. `EIO` and the like are not: the driver has tried again already.
fn classify(errno: Errno) -> (CauseKind, Persistence) {
    use CauseKind::{Corrupt, Io, Permission, Unavailable};
    use Persistence::{Permanent, Temporary};
    match errno {
        Errno::ACCESS | Errno::PERM | Errno::KEYEXPIRED | Errno::KEYREJECTED | Errno::NOKEY => {
            (Permission, Permanent)
        }
        // Checksums of file systems and of protection information (EFSBADCRC, EFSCORRUPTED).
        Errno::BADMSG | Errno::UCLEAN | Errno::ILSEQ => (Corrupt, Permanent),
        // A lack on this host, or of a thin pool, that may pass.
        Errno::AGAIN
        | Errno::INTR
        | Errno::NOMEM
        | Errno::NOBUFS
        | Errno::BUSY
        | Errno::NOSPC
        | Errno::DQUOT => (Io, Temporary),
        // A transport that may come back.
        Errno::TIMEDOUT
        | Errno::NOLINK
        | Errno::CONNRESET
        | Errno::CONNREFUSED
        | Errno::CONNABORTED
        | Errno::NOTCONN
        | Errno::HOSTDOWN
        | Errno::HOSTUNREACH
        | Errno::NETDOWN
        | Errno::NETRESET
        | Errno::NETUNREACH => (Unavailable, Temporary),
        // The source was taken away from under the open file.
        Errno::STALE | Errno::NODEV | Errno::NXIO | Errno::NOMEDIUM | Errno::SHUTDOWN => {
            (Unavailable, Permanent)
        }
        _ => (Io, Permanent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(errno: Errno) -> StoreError {
        StoreError::Read {
            source_name: "x".to_owned(),
            offset: 0,
            len: 1,
            errno,
        }
    }

    #[test]
    fn errnos_are_classified() {
        for (errno, kind, persistence) in [
            (Errno::IO, CauseKind::Io, Persistence::Permanent),
            (Errno::NODATA, CauseKind::Io, Persistence::Permanent),
            (Errno::AGAIN, CauseKind::Io, Persistence::Temporary),
            (Errno::NOSPC, CauseKind::Io, Persistence::Temporary),
            (Errno::ACCESS, CauseKind::Permission, Persistence::Permanent),
            (Errno::STALE, CauseKind::Unavailable, Persistence::Permanent),
            (Errno::NXIO, CauseKind::Unavailable, Persistence::Permanent),
            (
                Errno::TIMEDOUT,
                CauseKind::Unavailable,
                Persistence::Temporary,
            ),
            (Errno::UCLEAN, CauseKind::Corrupt, Persistence::Permanent),
        ] {
            let error = read(errno);
            assert_eq!(
                (error.kind(), error.persistence()),
                (kind, persistence),
                "{errno:?}"
            );
        }
    }

    #[test]
    fn messages_say_what_and_where() {
        let truncated = StoreError::Truncated {
            source_name: "/snap/mem".to_owned(),
            found: 6144,
            needed: 8192,
        };
        assert_eq!(
            truncated.to_string(),
            "/snap/mem is too short: it has 6144 bytes, and 8192 are needed"
        );
        assert_eq!(
            read(Errno::IO).to_string(),
            "reading 1 bytes at offset 0x0 of x failed"
        );
        let injected = StoreError::Injected {
            source_name: "x".to_owned(),
            page: PageIndex::new(5),
            attempt: 2,
            persistence: Persistence::Temporary,
        };
        assert_eq!(
            injected.to_string(),
            "the fault plan fails page 5 of x on attempt 2"
        );
    }
}
