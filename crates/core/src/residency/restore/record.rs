//! What is written down of a page while it is served, so that a successor finds it.
//!
//! ```text
//!           intended           settled
//!   absent ─────────► intent ─────────► present
//!     ▲ ▲               │                  │
//!     │ └── given_up ───┘                  │
//!   forgotten (from any)       removed (from any) ─────► removed
//!
//!   absent, intent ── failed ──► failed ── settled ──► present
//! ```
//!
//! The order of writing that makes it true after a death at any point:
//!
//! * [`intended`](PageRecord::intended) before an install, [`settled`](PageRecord::settled) after it,
//!   both inside the driver's gate. Of an intent that a dead driver has left nobody knows whether it
//!   was carried out: the successor installs again, and the kernel says.
//! * [`removed`](PageRecord::removed) as soon as a removal was read, before it is cleared from the
//!   journal of what was read. It is for good: nothing but [`forgotten`](PageRecord::forgotten) leaves
//!   it, because a page that its owner gave up never has its old contents again.
//! * [`failed`](PageRecord::failed) before a page is made to fail; it stays so until contents have
//!   taken the marker's place.

use super::RecordedPage;
use crate::{Cause, CauseId, CauseKind, Failure};

/// What is written down of a page. See the [module](self) for the order of writing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PageRecord {
    /// Nothing was ever installed.
    Absent,
    /// Data was about to be installed: it is there, or not.
    Intent,
    /// Data was installed.
    Present,
    /// Its owner has given it up: it reads as zeros.
    Removed,
    /// It was about to be made to fail: it does, or it is absent.
    Failed,
}

impl PageRecord {
    /// Data is about to be installed. A failed page stays failed until that is done, because it may
    /// have a marker.
    #[must_use]
    pub const fn intended(self) -> PageRecord {
        match self {
            PageRecord::Absent => PageRecord::Intent,
            PageRecord::Intent | PageRecord::Present => self,
            PageRecord::Removed | PageRecord::Failed => self,
        }
    }

    /// What was intended, or had failed, is there, whoever put it there.
    #[must_use]
    pub const fn settled(self) -> PageRecord {
        match self {
            PageRecord::Intent | PageRecord::Failed => PageRecord::Present,
            PageRecord::Absent | PageRecord::Present | PageRecord::Removed => self,
        }
    }

    /// What was intended did not come about.
    #[must_use]
    pub const fn given_up(self) -> PageRecord {
        match self {
            PageRecord::Intent => PageRecord::Absent,
            PageRecord::Absent | PageRecord::Present => self,
            PageRecord::Removed | PageRecord::Failed => self,
        }
    }

    /// Its owner has given it up.
    #[must_use]
    pub const fn removed(self) -> PageRecord {
        PageRecord::Removed
    }

    /// It is about to be made to fail, unless it is removed or there.
    #[must_use]
    pub const fn failed(self) -> PageRecord {
        match self {
            PageRecord::Absent | PageRecord::Intent | PageRecord::Failed => PageRecord::Failed,
            PageRecord::Present | PageRecord::Removed => self,
        }
    }

    /// Nothing is known of it any more: the memory behind it was replaced, or it was made to fail no
    /// longer.
    #[must_use]
    pub const fn forgotten(self) -> PageRecord {
        PageRecord::Absent
    }

    /// What a successor's machine takes it for. Of what a page failed is not written down, only that it
    /// did: I/O, after no attempt of the successor's own.
    pub const fn recorded(self) -> RecordedPage {
        match self {
            PageRecord::Absent | PageRecord::Intent => RecordedPage::Absent,
            PageRecord::Present => RecordedPage::Present,
            PageRecord::Removed => RecordedPage::Removed,
            PageRecord::Failed => RecordedPage::Failed(Failure {
                cause: Cause {
                    kind: CauseKind::Io,
                    id: CauseId::new(0),
                },
                attempts: 0,
            }),
        }
    }

    /// Whether it may be there without anybody's knowing: a successor prefetches it, and hears of it
    /// from the kernel.
    pub const fn is_in_doubt(self) -> bool {
        matches!(self, PageRecord::Intent)
    }
}
