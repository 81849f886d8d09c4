//! Where pages come from: files, patterns, and the fault plan around them.

use surefault_core::{CauseKind, Persistence};

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

    /// As [`read`](Self::read) where that needs no waiting; `None` when it would block.
    fn read_now(&self, request: ReadRequest, buf: &mut [u8]) -> Option<Result<(), StoreError>>;

    /// Asks reads that are blocked to give up where the source allows it. Called once, at the end.
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

/// Why a read failed. (To become an enum with a variant per failure.)
#[derive(Debug)]
pub struct StoreError;

impl StoreError {
    /// The kind of cause this is.
    pub fn kind(&self) -> CauseKind {
        CauseKind::Io
    }

    /// Whether trying again makes sense.
    pub fn persistence(&self) -> Persistence {
        Persistence::Permanent
    }
}
