//! Where pages come from: files, patterns, and the fault plan around them.
//!
//! | store | its bytes |
//! |---|---|
//! | [`FileStore`] | a raw file or block device, read with `pread` |
//! | [`PatternStore`] | words that depend on a seed and their offset |
//! | [`PlannedStore`] | another store's, failing as a [`FaultPlan`](surefault_core::plan::FaultPlan) says |
//!
//! A read ends in one of three ways: the bytes, an error that is temporary or permanent
//! ([`StoreError`]), or not at all. The last is the caller's to bound (the residency machine's
//! deadline); [`Store::cancel`] releases such reads where the source allows it.

mod error;
mod file;
mod pattern;
mod plan_file;
mod planned;

use std::os::fd::BorrowedFd;
use std::sync::Arc;

pub use error::StoreError;
pub use file::{FileKind, FileStore, OpenError};
pub use pattern::PatternStore;
pub use plan_file::{PlanFile, PlanFileError, load_plan};
pub use planned::PlannedStore;

/// A source of guest memory: bytes by offset, readable from many threads at once.
///
/// Stores read with `pread`, never through a mapping: a mapped file that is cut short kills its
/// reader.
pub trait Store: Send + Sync {
    /// The source's size in bytes, as it was when it was opened.
    fn size(&self) -> u64;

    /// The source in words, for messages: a path, a URL, "seeded pattern 7".
    fn describe(&self) -> String;

    /// Fills `buf` with the bytes from `request.offset` on. May block for as long as the source
    /// takes.
    ///
    /// # Errors
    /// When any byte of the range cannot be had; `buf` is then unspecified.
    fn read(&self, request: ReadRequest, buf: &mut [u8]) -> Result<(), StoreError>;

    /// As [`read`](Self::read) where that needs no waiting; `None` when it would block, or might.
    /// `buf` is unspecified unless this gives `Some(Ok(()))`.
    fn read_now(&self, request: ReadRequest, buf: &mut [u8]) -> Option<Result<(), StoreError>>;

    /// The file whose byte `n` is the source's byte `n`, if there is one: for whoever wants to map
    /// it, and knows what becomes of a mapping whose file is cut short.
    fn file(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Asks reads that are blocked to give up where the source allows it. Called once, at the end:
    /// later reads may fail.
    fn cancel(&self) {}
}

/// One read of a [`Store`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadRequest {
    /// The first byte, counted from the start of the source.
    pub offset: u64,
    /// Which attempt at these pages it is, counted from 1.
    pub attempt: u8,
}

impl ReadRequest {
    /// The first attempt at the bytes from `offset` on.
    pub const fn first(offset: u64) -> ReadRequest {
        ReadRequest { offset, attempt: 1 }
    }

    /// The first byte after a read of `len` bytes. Saturates: no source is that long.
    fn end(self, len: usize) -> u64 {
        self.offset.saturating_add(len as u64)
    }
}

macro_rules! delegate {
    ($($pointer:ident)*) => {
        $(
            impl<S: Store + ?Sized> Store for $pointer<S> {
                fn size(&self) -> u64 {
                    (**self).size()
                }

                fn describe(&self) -> String {
                    (**self).describe()
                }

                fn read(&self, request: ReadRequest, buf: &mut [u8]) -> Result<(), StoreError> {
                    (**self).read(request, buf)
                }

                fn read_now(
                    &self,
                    request: ReadRequest,
                    buf: &mut [u8],
                ) -> Option<Result<(), StoreError>> {
                    (**self).read_now(request, buf)
                }

                fn file(&self) -> Option<BorrowedFd<'_>> {
                    (**self).file()
                }

                fn cancel(&self) {
                    (**self).cancel();
                }
            }
        )*
    };
}

// Boxes for stores chosen at run time, shared ones for whoever repairs a `PlannedStore`.
delegate! { Box Arc }
