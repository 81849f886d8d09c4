//! Why nothing can be watched.

use std::error::Error;

use surefault_trace::TraceError;
use thiserror::Error;

use crate::ids::Pid;

/// Why the watcher cannot start, or go on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WatchError {
    /// There is no such process.
    #[error("there is no process {pid}")]
    NoProcess {
        /// The one that was to be watched.
        pid: Pid,
    },
    /// Neither can page faults be traced, nor may processes be looked at.
    #[error("nothing can be watched: {tracing}; {processes}")]
    Nothing {
        /// What tracing lacks.
        tracing: Lack,
        /// What looking at processes lacks.
        processes: Lack,
    },
    /// Reading the trace failed while it was running.
    #[error("read the trace")]
    Trace(#[source] TraceError),
}

/// Something that cannot be had, and what to do about it.
#[derive(Clone, PartialEq, Eq, Debug, Error, serde::Serialize)]
#[error("{part}: {reason} ({remedy})")]
pub struct Lack {
    /// What does not work without it.
    pub part: &'static str,
    /// Why.
    pub reason: String,
    /// What would help.
    pub remedy: &'static str,
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
