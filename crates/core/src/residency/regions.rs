//! Regions, and the position of a page in the map of all pages.

use thiserror::Error;

use super::ConfigError;
use crate::{PageCount, PageId};

/// A page that no region has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("there is no {0}")]
pub struct UnknownPage(pub PageId);

/// Where each region's pages begin in the map of settled pages.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(super) struct Regions {
    /// Position of each region's first page, and at the end the total.
    starts: Vec<u64>,
}

crate::clone_in_place! { Regions {
    starts,
} }

impl Regions {
    pub(super) fn new(regions: &[PageCount]) -> Result<Regions, ConfigError> {
        if regions.len() > 1 << 16 {
            return Err(ConfigError::TooManyRegions(regions.len()));
        }
        let mut starts = vec![0];
        let mut total = 0;
        for (region, pages) in regions.iter().enumerate() {
            let (pages, max) = (pages.get(), 1 << 32);
            if pages > max {
                return Err(ConfigError::RegionTooLarge { region, pages, max });
            }
            // At most 2^16 regions of 2^32 pages.
            total += pages;
            starts.push(total);
        }
        Ok(Regions { starts })
    }

    pub(super) fn total(&self) -> u64 {
        *self.starts.last().expect("the total is always there")
    }

    /// The position of `page` among all pages.
    pub(super) fn position(&self, page: PageId) -> Result<u64, UnknownPage> {
        self.bounds(page)
            .and_then(|(start, end)| {
                let position = start + u64::from(page.index().get());
                (position < end).then_some(position)
            })
            .ok_or(UnknownPage(page))
    }

    /// The positions of the `count` pages from `first` on; as many as the region has.
    pub(super) fn positions(
        &self,
        first: PageId,
        count: u32,
    ) -> Result<core::ops::Range<u64>, UnknownPage> {
        let from = self.position(first)?;
        let (_, end) = self.bounds(first).ok_or(UnknownPage(first))?;
        Ok(from..end.min(from + u64::from(count)))
    }

    fn bounds(&self, page: PageId) -> Option<(u64, u64)> {
        let region = usize::from(page.region().get());
        Some((*self.starts.get(region)?, *self.starts.get(region + 1)?))
    }

    /// Every page with its position, in order.
    pub(super) fn pages(&self) -> impl Iterator<Item = (u64, PageId)> + '_ {
        self.starts
            .windows(2)
            .enumerate()
            .flat_map(|(region, bounds)| {
                let region = crate::RegionId::new(region as u16);
                (bounds[0]..bounds[1])
                    .enumerate()
                    .map(move |(index, position)| {
                        (
                            position,
                            PageId::new(region, crate::PageIndex::new(index as u32)),
                        )
                    })
            })
    }
}
