//! Why a pager did not start, or could not do as told.

use surefault_core::residency::{ConfigError, RestoreError};
use surefault_core::{Hva, PageId};
use surefault_uffd::{CreateError, MapError, OperationError, RangeError};
use thiserror::Error;

use crate::FailedPage;

/// Why a pager did not start. Nothing is registered then.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// There is no userfaultfd to be had.
    #[error("memory cannot be served on demand here")]
    Userfaultfd(#[from] CreateError),
    /// A region is not whole pages.
    #[error("the region at {start} cannot be served")]
    Region {
        /// Where it begins.
        start: Hva,
        /// What is wrong with it.
        source: RangeError,
    },
    /// A region's pages are not in the store.
    #[error(
        "the region at {start} needs the source's bytes up to {needed}, but {store} ends at {size}"
    )]
    StoreTooShort {
        /// Where the region begins.
        start: Hva,
        /// The end of the region in the source, in bytes.
        needed: u64,
        /// The source's size in bytes.
        size: u64,
        /// The source in words.
        store: String,
    },
    /// The kernel does not let a region be registered.
    #[error("the region at {start} cannot be registered")]
    Register {
        /// Where it begins.
        start: Hva,
        /// What the kernel said.
        source: OperationError,
    },
    /// The kernel does not have first accesses refused.
    #[error("the region at {start} cannot be poisoned")]
    Refuse {
        /// Where it begins.
        start: Hva,
        /// What the kernel said.
        source: OperationError,
    },
    /// Poison was asked for, and the kernel has none.
    #[error("this kernel cannot poison pages (UFFDIO_POISON came with Linux 6.6)")]
    NoPoison,
    /// Failed pages cannot be treated so in this memory: some ways are for that of this process,
    /// others for that of another.
    #[error("{0:?} is no way to treat the failed pages of this memory")]
    FailedPage(FailedPage),
    /// A limit makes no sense.
    #[error("the pager's limits make no sense")]
    Config(#[from] ConfigError),
    /// The records that a predecessor has left make no sense.
    #[error("the records of the memory cannot be read")]
    Records(#[source] MapError),
    /// The records are of another memory.
    #[error("the records do not fit the memory")]
    Restore(#[source] RestoreError),
    /// No thread or event descriptor.
    #[error("{what} cannot be had")]
    Resource {
        /// What is missing.
        what: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// Why pages were not thrown away.
#[derive(Debug, Error)]
#[error("{count} pages from {first} on cannot be thrown away")]
pub struct DiscardError {
    /// The first of them.
    pub first: PageId,
    /// How many there are.
    pub count: u32,
    /// What the kernel said.
    pub source: std::io::Error,
}
