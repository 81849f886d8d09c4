//! Why nothing was measured.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::io::Errno;
use surefault_uffd::{CreateError, OperationError};
use thiserror::Error;

/// Why nothing was measured.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BenchError {
    /// There is no userfaultfd to be had.
    #[error("memory cannot be served on demand here")]
    Userfaultfd(#[from] CreateError),
    /// The memory cannot be had, or not be registered.
    #[error("{pages} pages of memory cannot be mapped")]
    Memory {
        /// How many.
        pages: u32,
        /// The system's answer.
        source: Errno,
    },
    /// The kernel does not let the memory be registered.
    #[error("the memory cannot be registered")]
    Register(#[source] OperationError),
    /// The file that is served cannot be written.
    #[error("the file to be served cannot be written in {}", dir.display())]
    Source {
        /// Where.
        dir: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The floor needs a C compiler.
    #[error("the floor cannot be compiled with {compiler}")]
    Compiler {
        /// The compiler.
        compiler: String,
        /// What came of it.
        source: io::Error,
    },
    /// A handler's program does not start.
    #[error("{name} cannot be started")]
    Start {
        /// The handler.
        name: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A handler has ended.
    #[error("{name} has ended ({status})")]
    Ended {
        /// The handler.
        name: &'static str,
        /// How.
        status: ExitStatus,
    },
    /// A handler does not listen, or does not take the handshake.
    #[error("no connection to {name}")]
    Connect {
        /// The handler.
        name: &'static str,
        /// The system's answer.
        source: Errno,
    },
    /// A handler does not serve.
    #[error("{name} has not served {pages} pages within {patience:?}")]
    NotServed {
        /// The handler.
        name: &'static str,
        /// How many were to be served.
        pages: u32,
        /// For how long it was waited.
        patience: Duration,
    },
    /// A handler has served wrong bytes.
    #[error("{name} has served {pages} pages with wrong contents")]
    Wrong {
        /// The handler.
        name: &'static str,
        /// How many.
        pages: u64,
    },
}
