//! What can go wrong, and what to do about it.

use core::fmt;

use rustix::io::Errno;
use thiserror::Error;

use crate::KernelFsKind;

/// Something done to a file of tracefs or debugfs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Operation {
    /// Opening it.
    Open,
    /// Reading it.
    Read,
    /// Writing it.
    Write,
    /// Making the directory.
    MakeDirectory,
    /// Removing the directory.
    RemoveDirectory,
    /// Waiting for data.
    Poll,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::Open => "open",
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::MakeDirectory => "make directory",
            Operation::RemoveDirectory => "remove directory",
            Operation::Poll => "poll",
        })
    }
}

/// Why there is no trace.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TraceError {
    /// Neither mounted where it usually is, nor could it be mounted.
    #[error("{kind} is not mounted and mounting it failed")]
    Mount {
        /// The file system.
        kind: KernelFsKind,
        /// Why mounting failed: `ENODEV` is a kernel without it, `EPERM` a lack of CAP_SYS_ADMIN.
        #[source]
        errno: Errno,
    },
    /// The kernel does not know the event: the module that has it is not loaded, or the kernel is
    /// built without tracing of events.
    #[error("the kernel has no trace event {event} (is the module that has it loaded?)")]
    NoEvent {
        /// `system/event`.
        event: String,
    },
    /// A file of tracefs or debugfs.
    #[error("{operation} {path}")]
    File {
        /// What was done.
        operation: Operation,
        /// To which file, relative to the root of the file system.
        path: String,
        /// What the kernel said.
        #[source]
        errno: Errno,
    },
    /// A file that describes a layout says something that is not understood.
    #[error("understand {path}")]
    Format {
        /// The file, relative to the root of tracefs.
        path: String,
        /// What is wrong.
        #[source]
        source: FormatError,
    },
}

impl TraceError {
    /// Whether more privileges would have helped.
    pub fn is_permission(&self) -> bool {
        match self {
            TraceError::Mount { errno, .. } | TraceError::File { errno, .. } => {
                matches!(*errno, Errno::PERM | Errno::ACCESS)
            }
            TraceError::NoEvent { .. } | TraceError::Format { .. } => false,
        }
    }
}

/// What is wrong with a description of a layout.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum FormatError {
    /// No line `ID: n`.
    #[error("there is no event id")]
    NoId,
    /// A field that is needed is not there.
    #[error("there is no field {field}")]
    NoField {
        /// The field's name.
        field: String,
    },
    /// A field that should be an integer of 1, 2, 4 or 8 bytes is not.
    #[error("field {field} has {size} bytes, not those of an integer")]
    NotAnInteger {
        /// The field's name.
        field: String,
        /// Its size in bytes.
        size: usize,
    },
}
