//! Why a page does not come, and what a person can do about it.

use core::fmt;

use serde::Serialize;

/// The kind of a cause: what programs may act upon.
///
/// The words are part of the JSON interface: kinds are added, never renamed. Where
/// [`surefault_core::CauseKind`] has a word for it, it is the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum CauseKind {
    /// The file ends before the page does.
    Truncated,
    /// The page is a hole of the file, and the file system is full.
    NoSpace,
    /// There is no huge page left.
    HugetlbExhausted,
    /// The page was lost, or declared lost.
    Poisoned,
    /// A userfaultfd watches the page, and lets the access fail instead of waiting.
    Userfaultfd,
    /// The userfaultfd is held by nobody but the process itself.
    HandlerGone,
    /// Somebody holds the userfaultfd, and does not answer.
    HandlerSilent,
    /// Reading the file or device fails, or does not end.
    Io,
    /// The page is in swap, and does not come back.
    Swap,
    /// There is no memory at the address.
    NotMapped,
    /// A page is there, but not as the access needs it.
    Access,
    /// Nothing that can be seen from outside explains it.
    Unknown,
}

impl CauseKind {
    /// The word for this kind, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            CauseKind::Truncated => "truncated",
            CauseKind::NoSpace => "no-space",
            CauseKind::HugetlbExhausted => "hugetlb-exhausted",
            CauseKind::Poisoned => "poisoned",
            CauseKind::Userfaultfd => "userfaultfd",
            CauseKind::HandlerGone => "handler-gone",
            CauseKind::HandlerSilent => "handler-silent",
            CauseKind::Io => "io",
            CauseKind::Swap => "swap",
            CauseKind::NotMapped => "not-mapped",
            CauseKind::Access => "access",
            CauseKind::Unknown => "unknown",
        }
    }
}

impl CauseKind {
    /// Whether it explains by itself that a page can never be had.
    pub const fn is_certain(self) -> bool {
        match self {
            CauseKind::Truncated
            | CauseKind::NoSpace
            | CauseKind::HugetlbExhausted
            | CauseKind::Poisoned
            | CauseKind::Userfaultfd
            | CauseKind::HandlerGone
            | CauseKind::HandlerSilent
            | CauseKind::Io
            | CauseKind::NotMapped => true,
            CauseKind::Swap | CauseKind::Access | CauseKind::Unknown => false,
        }
    }
}

impl fmt::Display for CauseKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a page does not come.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Cause {
    /// For programs.
    pub kind: CauseKind,
    /// For people.
    pub text: String,
    /// What to do about it.
    pub remedy: String,
}

impl Cause {
    pub(crate) fn new(
        kind: CauseKind,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Cause {
        Cause {
            kind,
            text: text.into(),
            remedy: remedy.into(),
        }
    }
}
