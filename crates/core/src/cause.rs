//! Why a page could not be provided.

use core::fmt;

use serde::{Deserialize, Serialize};

/// The kind of a cause: what programs may act upon.
///
/// The words are part of the JSON interface (`docs/json.md`): kinds are added, never renamed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum CauseKind {
    /// The source ends before the page does.
    Truncated,
    /// Reading the source failed (a device or file error).
    Io,
    /// The source could not be reached.
    Unavailable,
    /// The source is there, but reading it is not allowed.
    Permission,
    /// What the source gave does not match its checksum.
    Corrupt,
    /// The page did not arrive within the deadline.
    Deadline,
    /// The page arrived, but the kernel refused to install it.
    Install,
    /// A fault plan asked for this failure.
    Injected,
    /// The host's kernel gave no page and no reason (Linux alone: "Bad address").
    BadAddress,
}

impl CauseKind {
    /// The word for this kind, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            CauseKind::Truncated => "truncated",
            CauseKind::Io => "io",
            CauseKind::Unavailable => "unavailable",
            CauseKind::Permission => "permission",
            CauseKind::Corrupt => "corrupt",
            CauseKind::Deadline => "deadline",
            CauseKind::Install => "install",
            CauseKind::Injected => "injected",
            CauseKind::BadAddress => "bad-address",
        }
    }
}

impl fmt::Display for CauseKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Names a cause's text, which the driver keeps: opaque to the machines, 0 when there is none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct CauseId(u32);

impl CauseId {
    /// The id with this value.
    pub const fn new(raw: u32) -> CauseId {
        CauseId(raw)
    }

    /// The id as an integer.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// Why a page could not be provided: a kind to act upon and the name of a text to read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Cause {
    /// What sort of failure it was.
    pub kind: CauseKind,
    /// The driver's text for it.
    pub id: CauseId,
}

/// Whether trying again makes sense.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Persistence {
    /// The next attempt may succeed: retried within the budget.
    Temporary,
    /// No attempt will succeed until something is repaired: never retried.
    Permanent,
}

/// How a page failed: the cause, and how many attempts at it were made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Failure {
    /// Why the last attempt failed.
    pub cause: Cause,
    /// Attempts at this page alone that ended or were abandoned, at most the budget. A read of a
    /// whole range is not an attempt at each of its pages.
    pub attempts: u8,
}
