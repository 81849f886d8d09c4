//! What this machine lacks, and how to get it: exit code 5, as for the command itself.

/// Something that has to be installed or allowed before the matrix can run here.
#[derive(Debug, thiserror::Error)]
#[error("{what}\n  to get it: {remedy}")]
pub(crate) struct Missing {
    /// What is missing, in one line.
    pub(crate) what: String,
    /// What somebody can do about it.
    pub(crate) remedy: String,
}

impl Missing {
    pub(crate) fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}
