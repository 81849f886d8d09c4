//! Whole pages of the served process's address space.

use core::fmt;

use thiserror::Error;

/// An address in the memory of the process that a userfaultfd serves, in bytes.
///
/// Not a pointer: that process may be another one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(u64);

impl Address {
    /// The address with this value.
    pub const fn new(raw: u64) -> Address {
        Address(raw)
    }

    /// The address of a pointer of this process.
    pub fn of_pointer<T>(pointer: *const T) -> Address {
        Address(pointer.addr() as u64)
    }

    /// The address as an integer, for an ABI or for printing.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({:#x})", self.0)
    }
}

/// One or more whole pages: aligned, not empty, not wrapping.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PageRange {
    start: u64,
    len: u64,
    page_size: u64,
}

/// Why bytes are not a range of whole pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum RangeError {
    /// Not a power of two.
    #[error("a page size of {0} bytes is not a power of two")]
    PageSize(u64),
    /// The range begins inside a page.
    #[error("{start} is not the beginning of a page of {page_size} bytes")]
    Start {
        /// Where the range was to begin.
        start: Address,
        /// Bytes in a page.
        page_size: u64,
    },
    /// The range is empty, or ends inside a page.
    #[error("{len} bytes are not one or more pages of {page_size} bytes")]
    Length {
        /// Bytes in the range.
        len: u64,
        /// Bytes in a page.
        page_size: u64,
    },
    /// The range goes past the end of the address space.
    #[error("{len} bytes from {start} on go past the end of the address space")]
    Wraps {
        /// Where the range was to begin.
        start: Address,
        /// Bytes in the range.
        len: u64,
    },
}

/// The size in bytes of a base page of this host, as the kernel says.
///
/// Ranges of hugetlbfs have larger pages.
pub fn host_page_size() -> u64 {
    rustix::param::page_size() as u64
}

impl PageRange {
    /// The `len` bytes from `start` on, in pages of `page_size` bytes: the page size of the mapping
    /// they lie in ([`host_page_size`], or that of hugetlbfs).
    ///
    /// # Errors
    /// When these are not whole pages, or none.
    pub fn new(start: Address, len: u64, page_size: u64) -> Result<PageRange, RangeError> {
        if !page_size.is_power_of_two() {
            return Err(RangeError::PageSize(page_size));
        }
        if !start.get().is_multiple_of(page_size) {
            return Err(RangeError::Start { start, page_size });
        }
        if len == 0 || !len.is_multiple_of(page_size) {
            return Err(RangeError::Length { len, page_size });
        }
        if start.get().checked_add(len).is_none() {
            return Err(RangeError::Wraps { start, len });
        }
        Ok(PageRange {
            start: start.get(),
            len,
            page_size,
        })
    }

    /// The first byte.
    pub const fn start(self) -> Address {
        Address(self.start)
    }

    /// The first byte after the range.
    pub const fn end(self) -> Address {
        Address(self.start + self.len)
    }

    /// Bytes in the range; never 0.
    #[expect(clippy::len_without_is_empty, reason = "a range is never empty")]
    pub const fn len(self) -> u64 {
        self.len
    }

    /// Bytes in a page.
    pub const fn page_size(self) -> u64 {
        self.page_size
    }

    /// Pages in the range.
    pub const fn pages(self) -> u64 {
        self.len / self.page_size
    }

    /// What is left after the first `bytes` bytes (rounded down to whole pages); `None` when nothing
    /// is. What an [`Outcome::Partial`](crate::Outcome::Partial) leaves to do.
    pub fn after(self, bytes: u64) -> Option<PageRange> {
        let done = bytes - bytes % self.page_size;
        let len = self.len.checked_sub(done).filter(|&len| len > 0)?;
        Some(PageRange {
            start: self.start + done,
            len,
            page_size: self.page_size,
        })
    }

    /// The first page alone.
    pub const fn first_page(self) -> PageRange {
        PageRange {
            len: self.page_size,
            ..self
        }
    }
}

impl fmt::Display for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.start(), self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    #[test]
    fn only_whole_pages_are_ranges() {
        let at = Address::new;
        assert!(PageRange::new(at(PAGE), PAGE, PAGE).is_ok());
        assert_eq!(PageRange::new(at(0), PAGE, 3), Err(RangeError::PageSize(3)));
        assert_eq!(PageRange::new(at(0), PAGE, 0), Err(RangeError::PageSize(0)));
        assert!(matches!(
            PageRange::new(at(1), PAGE, PAGE),
            Err(RangeError::Start { .. })
        ));
        for len in [0, 1, PAGE + 1] {
            assert!(matches!(
                PageRange::new(at(0), len, PAGE),
                Err(RangeError::Length { .. })
            ));
        }
        assert!(matches!(
            PageRange::new(at(u64::MAX - PAGE + 1), PAGE, PAGE),
            Err(RangeError::Wraps { .. })
        ));
        assert!(matches!(
            PageRange::new(at(PAGE), u64::MAX - PAGE + 1, PAGE),
            Err(RangeError::Wraps { .. })
        ));
    }

    #[test]
    fn the_rest_of_a_range_is_a_range() -> Result<(), RangeError> {
        let range = PageRange::new(Address::new(PAGE), 3 * PAGE, PAGE)?;
        let rest = range.after(PAGE + 5);
        assert_eq!(
            rest,
            Some(PageRange::new(Address::new(2 * PAGE), 2 * PAGE, PAGE)?)
        );
        assert_eq!(range.after(3 * PAGE), None);
        assert_eq!(range.after(u64::MAX), None);
        assert_eq!(range.first_page().pages(), 1);
        Ok(())
    }
}
