//! Pages from Linux alone: the source's file is mapped, and nobody else has a say.
//!
//! ```text
//!  page   0   1   2   3   4   5        (3 fails)
//!         └── the source's file ──┐
//!                     └ beyond the end of an empty file: Linux cannot have it either
//! ```
//!
//! A page that is to fail is really one that Linux cannot provide: its part of the mapping lies
//! beyond the end of an (empty) file, as does the last part of a source that has been cut short.
//! Linux gives no reasons and knows neither deadlines nor attempts, so nothing else can be planned.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use surefault_core::plan::{FailureMode, FaultPlan};
use surefault_core::residency::PageState;
use surefault_core::{
    Cause, CauseId, CauseKind, Failure, Hva, PageCount, PageId, PageIndex, PageSize, RegionId,
};
use surefault_store::{ReadRequest, Store, StoreError};
use thiserror::Error;

use crate::memory::{Mapping, MemoryError};
use crate::pages::PageSource;

/// The one region.
const REGION: RegionId = RegionId::new(0);

/// How much of a source that is no file is copied at a time.
const COPY_BYTES: u64 = 1 << 20;

/// Memory that Linux provides by itself. A page that cannot be had has failed, and nobody knows why.
pub struct LinuxAlone {
    mapping: Arc<Mapping>,
    page_size: PageSize,
    /// What is mapped at a page that is healed, where that is known.
    file: Option<OwnedFd>,
}

/// A source that cannot be mapped.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MapError {
    /// The plan wants of a page what Linux alone does not do.
    #[error(
        "without a pager Linux has page {page} or has it not: a page that {wish} cannot be had so"
    )]
    Unplayable {
        /// The page.
        page: PageIndex,
        /// What the plan wants of it.
        wish: &'static str,
    },
    /// The source is no file, and could not be read to make one.
    #[error("copying the source, to map it")]
    Copy(#[from] StoreError),
    /// There is no file to be had to map.
    #[error("making a file to map")]
    File(#[source] io::Error),
    /// The host would not map it.
    #[error("mapping the source")]
    Map(#[from] MemoryError),
}

impl LinuxAlone {
    /// Whatever is mapped at `mapping`.
    pub fn over(mapping: Arc<Mapping>, page_size: PageSize) -> LinuxAlone {
        LinuxAlone {
            mapping,
            page_size,
            file: None,
        }
    }

    /// Maps the first `pages` pages of `source`, of which those fail that `plan` says. A source
    /// that is no file is copied to one in memory.
    ///
    /// # Errors
    /// When the plan cannot be played this way, or the host refuses something.
    pub fn map(
        source: &dyn Store,
        plan: &FaultPlan,
        pages: PageCount,
        page_size: PageSize,
    ) -> Result<LinuxAlone, MapError> {
        let failing = failing(plan, pages)?;
        let bytes = pages.get() * page_size.bytes();
        let file = match source.file() {
            Some(file) => file.try_clone_to_owned().map_err(MapError::File)?,
            None => copy(source, bytes)?,
        };
        let len = usize::try_from(bytes).unwrap_or(usize::MAX);
        let mapping = Arc::new(Mapping::of_file(file.as_fd(), len)?);
        let alone = LinuxAlone {
            mapping,
            page_size,
            file: Some(file),
        };
        let nothing = empty_file()?;
        for page in failing {
            alone.remap(page, &nothing)?;
        }
        Ok(alone)
    }

    /// The memory.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// Maps the source at a page that failed. What was written to the page is lost.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn heal(&self, page: PageIndex) -> Result<(), MapError> {
        match &self.file {
            Some(file) => self.remap(page, file),
            None => Ok(()),
        }
    }

    /// Maps the page's part of `file` at it. Neighbours of one file are one mapping to Linux.
    fn remap(&self, page: PageIndex, file: &OwnedFd) -> Result<(), MapError> {
        let offset = u64::from(page.get()) * self.page_size.bytes();
        let len = self.page_size.buffer_len();
        Ok(self.mapping.replace(offset, len, file.as_fd(), offset)?)
    }
}

impl PageSource for LinuxAlone {
    fn page_size(&self) -> PageSize {
        self.page_size
    }

    fn page_of(&self, hva: Hva) -> Option<PageId> {
        let offset = hva.checked_offset_from(self.mapping.hva())?;
        if offset >= self.mapping.len() as u64 {
            return None;
        }
        let index = u32::try_from(offset >> self.page_size.shift()).ok()?;
        Some(PageId::new(REGION, PageIndex::new(index)))
    }

    /// Asks Linux, which is the only one to know.
    fn demand(&self, page: PageId) -> PageState {
        let offset = u64::from(page.index().get()) * self.page_size.bytes();
        if self.mapping.read(offset, &mut [0]).is_ok() {
            return PageState::Present;
        }
        PageState::Failed(Failure {
            cause: Cause {
                kind: CauseKind::BadAddress,
                id: CauseId::default(),
            },
            attempts: 1,
        })
    }

    fn cause_text(&self, _: Cause) -> String {
        "the host's kernel could not provide the page, and does not say why".to_owned()
    }
}

/// The pages that `plan` fails, if it wants nothing else of any page.
fn failing(plan: &FaultPlan, pages: PageCount) -> Result<Vec<PageIndex>, MapError> {
    if plan.is_transparent() {
        return Ok(Vec::new());
    }
    let last = u32::try_from(pages.get()).unwrap_or(u32::MAX);
    let mut failing = Vec::new();
    for page in (0..last).map(PageIndex::new) {
        let unplayable = |wish| Err(MapError::Unplayable { page, wish });
        match plan.mode_of(page) {
            FailureMode::Healthy => {}
            FailureMode::Permanent | FailureMode::Truncate => failing.push(page),
            FailureMode::Temporary { .. } => return unplayable("fails for a while"),
            FailureMode::Stall => return unplayable("never answers"),
        }
        if plan.decide(page, 1).latency != Duration::ZERO {
            return unplayable("takes its time");
        }
    }
    Ok(failing)
}

fn empty_file() -> Result<OwnedFd, MapError> {
    memfd_create("surefault", MemfdFlags::CLOEXEC).map_err(|errno| MapError::File(errno.into()))
}

/// The first `bytes` bytes of `source`, in a file.
fn copy(source: &dyn Store, bytes: u64) -> Result<OwnedFd, MapError> {
    let file = File::from(empty_file()?);
    let mut buffer = vec![0; bytes.min(COPY_BYTES) as usize];
    for offset in (0..bytes).step_by(COPY_BYTES as usize) {
        let len = (bytes - offset).min(COPY_BYTES) as usize;
        source.read(ReadRequest::first(offset), &mut buffer[..len])?;
        file.write_all_at(&buffer[..len], offset)
            .map_err(MapError::File)?;
    }
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use surefault_core::plan::Latency;
    use surefault_store::PatternStore;

    use super::*;

    const PAGES: PageCount = PageCount::new(4);
    const PAGE: u64 = PageSize::KIB_4.bytes();

    fn map(fail: &str) -> Result<LinuxAlone, MapError> {
        let mut plan = FaultPlan::new(0, Latency::default());
        plan.push(fail.parse().unwrap());
        let source = PatternStore::new(7, PAGES.get() * PAGE);
        LinuxAlone::map(&source, &plan, PAGES, PageSize::KIB_4)
    }

    #[test]
    fn a_page_fails_alone_and_can_be_healed() {
        let alone = map("2").unwrap();
        let page = |index| PageId::new(REGION, PageIndex::new(index));
        for index in [0, 1, 3] {
            assert_eq!(alone.demand(page(index)), PageState::Present);
        }
        assert!(matches!(alone.demand(page(2)), PageState::Failed(_)));
        alone.heal(PageIndex::new(2)).unwrap();
        assert_eq!(alone.demand(page(2)), PageState::Present);
        let mut word = [0; 8];
        alone.mapping().read(2 * PAGE, &mut word).unwrap();
        assert_eq!(u64::from_le_bytes(word), PatternStore::word(7, 2 * PAGE));
        let start = alone.mapping().hva();
        assert_eq!(alone.page_of(start), Some(page(0)));
        assert_eq!(alone.page_of(start.checked_add(4 * PAGE).unwrap()), None);
    }

    #[test]
    fn what_linux_does_not_do_is_refused() {
        for fail in ["1:stall", "0-2:temporary=1"] {
            assert!(
                matches!(map(fail), Err(MapError::Unplayable { .. })),
                "{fail}"
            );
        }
    }
}
