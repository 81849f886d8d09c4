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
    /// Somebody wanted it to end.
    #[error("interrupted before everything was measured")]
    Interrupted,
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
    #[error("{name} has ended ({status}): {said}")]
    Ended {
        /// The handler.
        name: &'static str,
        /// How.
        status: ExitStatus,
        /// The last line that it said.
        said: String,
    },
    /// A handler does not listen.
    #[error("{name} does not listen after {patience:?}")]
    Silent {
        /// The handler.
        name: &'static str,
        /// For how long it was waited.
        patience: Duration,
    },
    /// A handler does not take the handshake.
    #[error("no connection to the handler")]
    Connect(#[source] Errno),
    /// A handler does not serve.
    #[error("the handler has not served {pages} pages within {patience:?}")]
    NotServed {
        /// How many were to be served.
        pages: u32,
        /// For how long it was waited.
        patience: Duration,
    },
    /// A handler has served wrong bytes.
    #[error("the handler has served {0} pages with wrong contents")]
    Wrong(u64),
    /// A VMM that was played came to no end.
    #[error("{name}, {entrant}: {said}")]
    Vmm {
        /// The handler.
        name: &'static str,
        /// What was measured.
        entrant: String,
        /// What it said.
        said: String,
    },
}
