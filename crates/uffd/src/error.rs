//! Failures that are not a normal outcome.

use core::fmt;

use rustix::io::Errno;
use thiserror::Error;

use crate::PageRange;

/// An operation on a range, by the name of its ioctl.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum OperationName {
    /// [`Userfaultfd::register`](crate::Userfaultfd::register).
    Register,
    /// [`Userfaultfd::unregister`](crate::Userfaultfd::unregister).
    Unregister,
    /// [`Userfaultfd::wake`](crate::Userfaultfd::wake).
    Wake,
    /// [`Userfaultfd::copy`](crate::Userfaultfd::copy).
    Copy,
    /// [`Userfaultfd::zeropage`](crate::Userfaultfd::zeropage).
    Zeropage,
    /// [`Userfaultfd::write_protect`](crate::Userfaultfd::write_protect).
    WriteProtect,
    /// [`Userfaultfd::continue_pages`](crate::Userfaultfd::continue_pages).
    Continue,
    /// [`Userfaultfd::poison`](crate::Userfaultfd::poison).
    Poison,
}

impl fmt::Display for OperationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OperationName::Register => "UFFDIO_REGISTER",
            OperationName::Unregister => "UFFDIO_UNREGISTER",
            OperationName::Wake => "UFFDIO_WAKE",
            OperationName::Copy => "UFFDIO_COPY",
            OperationName::Zeropage => "UFFDIO_ZEROPAGE",
            OperationName::WriteProtect => "UFFDIO_WRITEPROTECT",
            OperationName::Continue => "UFFDIO_CONTINUE",
            OperationName::Poison => "UFFDIO_POISON",
        })
    }
}

/// Why an operation on a range failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum OperationError {
    /// The kernel refused it.
    #[error("{operation} of {range} was refused{}", meaning(*operation, *errno))]
    Refused {
        /// What was asked for.
        operation: OperationName,
        /// Of which pages.
        range: PageRange,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
    /// The bytes to copy are not as many as the range has.
    #[error("{source_len} bytes cannot fill {range}")]
    SourceLength {
        /// Bytes given.
        source_len: usize,
        /// The range to fill.
        range: PageRange,
    },
}

/// What an errno means for an operation, where that is not what its name says (`fs/userfaultfd.c`,
/// `mm/userfaultfd.c`).
fn meaning(operation: OperationName, errno: Errno) -> &'static str {
    use OperationName::{Continue, Copy, Poison, Register, WriteProtect};
    match (operation, errno) {
        (Register, Errno::BUSY) => ": some of it is registered with another userfaultfd",
        (Register, Errno::INVAL) => {
            ": some of it is not mapped, or is memory of a kind that cannot be served in this mode"
        }
        (Register, Errno::PERM) => ": the mapping could never be written to",
        (Poison, Errno::INVAL) => ": the kernel may be older than 6.6, which first had it",
        (Continue, Errno::FAULT) => ": the page cache does not have the page",
        (Copy, Errno::FAULT) => ": the source cannot be read",
        (WriteProtect, Errno::INVAL) => ": the range is not registered for write protection",
        (_, Errno::NOMEM) => ": the host or the memory cgroup has no page left",
        _ => "",
    }
}

/// Why events could not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ReadError {
    /// The system call failed.
    #[error("reading events from the userfaultfd failed")]
    Failed(#[source] Errno),
    /// The kernel gave a piece of a message.
    #[error("the userfaultfd gave {0} bytes, which are not whole messages")]
    Torn(usize),
}

/// Why a descriptor was not taken for a userfaultfd.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum FromFdError {
    /// It is something else.
    #[error("the descriptor is not a userfaultfd but {0:?}")]
    SomethingElse(String),
    /// What it is could not be found out.
    #[error("cannot tell what the descriptor is: /proc/self/fd cannot be read")]
    Proc(#[source] Errno),
    /// It could not be made non-blocking.
    #[error("cannot make the userfaultfd non-blocking")]
    Flags(#[source] Errno),
}
