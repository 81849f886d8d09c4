//! Regions of memory that are served: from host addresses to pages and back.

use surefault_core::{Hva, PageCount, PageId, PageIndex, PageSize, RegionId};
use surefault_uffd::{Address, PageRange, RangeError};

/// A range of this process's memory whose pages come from the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServedRegion {
    /// Its first byte.
    pub start: Hva,
    /// Its pages.
    pub pages: PageCount,
    /// The size of its pages: the host's base page size, or that of the huge pages it consists of.
    pub page_size: PageSize,
    /// Where its first page is in the store, in bytes.
    pub store_offset: u64,
}

impl ServedRegion {
    /// The whole region.
    pub(crate) fn range(&self) -> Result<PageRange, RangeError> {
        let len = self.pages.bytes(self.page_size).unwrap_or(u64::MAX);
        PageRange::new(Address::new(self.start.get()), len, self.page_size.bytes())
    }

    /// The end of the region in the store, in bytes.
    pub(crate) fn store_end(&self) -> u64 {
        let len = self.pages.bytes(self.page_size).unwrap_or(u64::MAX);
        self.store_offset.saturating_add(len)
    }
}

/// The regions of one memory. All of them were checked, so that arithmetic on their pages holds.
#[derive(Debug)]
pub(crate) struct Regions(Vec<ServedRegion>);

impl Regions {
    pub(crate) fn new(regions: &[ServedRegion]) -> Regions {
        Regions(regions.to_vec())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (RegionId, &ServedRegion)> {
        self.0
            .iter()
            .enumerate()
            .map(|(n, region)| (RegionId::new(n as u16), region))
    }

    /// All pages, region by region.
    pub(crate) fn pages(&self) -> impl Iterator<Item = PageId> + '_ {
        self.iter().flat_map(|(id, region)| {
            let count = u32::try_from(region.pages.get()).unwrap_or(u32::MAX);
            (0..count).map(move |n| PageId::new(id, PageIndex::new(n)))
        })
    }

    /// Whole regions, in memory.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = PageRange> + '_ {
        self.iter().map(|(_, region)| {
            let range = region.range();
            range.expect("a region that was checked is whole pages")
        })
    }

    /// The page that `hva` lies in.
    pub(crate) fn page_of(&self, hva: Hva) -> Option<PageId> {
        self.iter().find_map(|(id, region)| {
            let index = hva.checked_offset_from(region.start)? >> region.page_size.shift();
            let index = u32::try_from(index)
                .ok()
                .filter(|&n| u64::from(n) < region.pages.get())?;
            Some(PageId::new(id, PageIndex::new(index)))
        })
    }

    /// The whole pages from `start` to `end`, region by region: the first, and how many there are.
    pub(crate) fn pages_between(
        &self,
        start: Hva,
        end: Hva,
    ) -> impl Iterator<Item = (PageId, u32)> + '_ {
        self.iter().filter_map(move |(id, region)| {
            let shift = region.page_size.shift();
            let offset = |hva: Hva| hva.checked_offset_from(region.start).unwrap_or(0);
            let first = offset(start).div_ceil(region.page_size.bytes());
            let beyond = (offset(end) >> shift).min(region.pages.get());
            let count = u32::try_from(beyond.checked_sub(first)?).ok()?;
            let first = PageIndex::new(u32::try_from(first).ok()?);
            (count > 0).then_some((PageId::new(id, first), count))
        })
    }

    pub(crate) fn page_size(&self, page: PageId) -> PageSize {
        self.region(page).page_size
    }

    /// How many pages its region has from `page` on.
    pub(crate) fn pages_from(&self, page: PageId) -> u64 {
        let pages = self.region(page).pages.get();
        pages.saturating_sub(page.index().get().into())
    }

    /// Where `page` is in the store, in bytes.
    pub(crate) fn store_offset(&self, page: PageId) -> u64 {
        let region = self.region(page);
        region.store_offset + (u64::from(page.index().get()) << region.page_size.shift())
    }

    /// The `count` pages from `first` on, in memory.
    pub(crate) fn range(&self, first: PageId, count: u32) -> PageRange {
        let region = self.region(first);
        let offset = u64::from(first.index().get()) << region.page_size.shift();
        let len = u64::from(count) << region.page_size.shift();
        PageRange::new(
            Address::new(region.start.get() + offset),
            len,
            region.page_size.bytes(),
        )
        .expect("pages of a region that was checked are whole pages")
    }

    fn region(&self, page: PageId) -> &ServedRegion {
        &self.0[usize::from(page.region().get())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regions() -> Regions {
        let region = |start, pages, store_offset| ServedRegion {
            start: Hva::new(start),
            pages: PageCount::new(pages),
            page_size: PageSize::KIB_4,
            store_offset,
        };
        Regions::new(&[region(0x10_0000, 4, 0), region(0x20_0000, 2, 0x4000)])
    }

    fn page(region: u16, index: u32) -> PageId {
        PageId::new(RegionId::new(region), PageIndex::new(index))
    }

    #[test]
    fn addresses_and_pages() {
        let regions = regions();
        assert_eq!(regions.page_of(Hva::new(0x10_3fff)), Some(page(0, 3)));
        assert_eq!(regions.page_of(Hva::new(0x10_4000)), None);
        assert_eq!(regions.page_of(Hva::new(0xf_ffff)), None);
        assert_eq!(regions.page_of(Hva::new(0x20_1000)), Some(page(1, 1)));
        let between = |start, end| -> Vec<_> {
            regions
                .pages_between(Hva::new(start), Hva::new(end))
                .collect()
        };
        assert_eq!(between(0x10_1000, 0x10_3000), [(page(0, 1), 2)]);
        assert_eq!(between(0x10_0001, 0x10_2fff), [(page(0, 1), 1)]);
        assert_eq!(between(0, u64::MAX), [(page(0, 0), 4), (page(1, 0), 2)]);
        assert_eq!(between(0x10_4000, 0x20_0000), []);
        assert_eq!(regions.store_offset(page(1, 1)), 0x5000);
        assert_eq!(regions.range(page(1, 0), 2).end(), Address::new(0x20_2000));
    }
}
