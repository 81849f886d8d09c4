//! From the JSON of a handshake to regions that can be served.

use surefault_core::{Hva, PageCount, PageSize};
use surefault_pager::ServedRegion;
use thiserror::Error;

use super::{HandshakeLimits, WireRegion};

/// Why the JSON of a handshake was not accepted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ParseError {
    /// It is no array of regions.
    #[error("it is not a JSON array of regions")]
    Json(#[source] serde_json::Error),
    /// There is nothing to serve.
    #[error("it has no regions")]
    NoRegions,
    /// More than is served.
    #[error("it has {count} regions, and {max} are allowed")]
    TooManyRegions {
        /// How many it has.
        count: usize,
        /// How many are allowed.
        max: usize,
    },
    /// A region makes no sense.
    #[error("region {index}")]
    Region {
        /// Its place in the array, counted from 0.
        index: usize,
        /// What is wrong with it.
        source: RegionError,
    },
    /// Two regions share addresses.
    #[error("regions {first} and {second} overlap")]
    Overlap {
        /// One of them.
        first: usize,
        /// The other.
        second: usize,
    },
    /// More memory than is served.
    #[error("its regions have {bytes} bytes, and {max} are allowed")]
    TooMuchMemory {
        /// Their sum, or as much of it as fits.
        bytes: u64,
        /// How many are allowed.
        max: u64,
    },
}

/// What is wrong with a region.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum RegionError {
    /// It has no page size under either name.
    #[error("page_size is missing")]
    NoPageSize,
    /// Both names, and they say different things.
    #[error("page_size is {page_size} and page_size_kib {page_size_kib}: both are bytes")]
    TwoPageSizes {
        /// One.
        page_size: u64,
        /// The other.
        page_size_kib: u64,
    },
    /// Not one of the host's.
    #[error("pages of {0} bytes are not served here")]
    PageSize(u64),
    /// It begins inside a page.
    #[error("{start} is not the beginning of a page of {page_size}")]
    Start {
        /// Where it begins.
        start: Hva,
        /// Its page size.
        page_size: PageSize,
    },
    /// It ends inside a page, or has none.
    #[error("{size} bytes are not one or more pages of {page_size}")]
    Size {
        /// Its size in bytes.
        size: u64,
        /// Its page size.
        page_size: PageSize,
    },
    /// It has more pages than can be numbered.
    #[error("{0} pages are more than can be numbered")]
    TooManyPages(u64),
    /// It goes past the end of the address space.
    #[error("{size} bytes from {start} on go past the end of the address space")]
    AddressOverflow {
        /// Where it begins.
        start: Hva,
        /// Its size in bytes.
        size: u64,
    },
    /// It ends beyond any source.
    #[error("{size} bytes from offset {offset} of the source on are beyond any source")]
    OffsetOverflow {
        /// Where it begins in the source.
        offset: u64,
        /// Its size in bytes.
        size: u64,
    },
}

/// The regions that `json` describes, in its order.
///
/// # Errors
/// When it is no array of regions, or these cannot be served within `limits`.
pub fn parse(json: &[u8], limits: &HandshakeLimits) -> Result<Vec<ServedRegion>, ParseError> {
    let wire: Vec<WireRegion> = serde_json::from_slice(json).map_err(ParseError::Json)?;
    if wire.is_empty() {
        return Err(ParseError::NoRegions);
    }
    if wire.len() > limits.regions {
        let (count, max) = (wire.len(), limits.regions);
        return Err(ParseError::TooManyRegions { count, max });
    }
    let mut regions = Vec::with_capacity(wire.len());
    let mut bytes = 0_u64;
    for (index, wire) in wire.iter().enumerate() {
        let region = region(wire, limits).map_err(|source| ParseError::Region { index, source })?;
        regions.push(region);
        bytes = bytes.saturating_add(wire.size);
    }
    if bytes > limits.memory {
        let max = limits.memory;
        return Err(ParseError::TooMuchMemory { bytes, max });
    }
    disjoint(&wire)?;
    Ok(regions)
}

fn region(wire: &WireRegion, limits: &HandshakeLimits) -> Result<ServedRegion, RegionError> {
    let bytes = match (wire.page_size, wire.page_size_kib) {
        (Some(page_size), Some(page_size_kib)) if page_size != page_size_kib => {
            return Err(RegionError::TwoPageSizes {
                page_size,
                page_size_kib,
            });
        }
        (Some(bytes), _) | (None, Some(bytes)) => bytes,
        (None, None) => return Err(RegionError::NoPageSize),
    };
    let page_size = PageSize::new(bytes)
        .filter(|size| limits.page_sizes.contains(size))
        .ok_or(RegionError::PageSize(bytes))?;
    let start = Hva::new(wire.base_host_virt_addr);
    let WireRegion { size, offset, .. } = *wire;
    if !start.get().is_multiple_of(bytes) {
        return Err(RegionError::Start { start, page_size });
    }
    if size == 0 || !size.is_multiple_of(bytes) {
        return Err(RegionError::Size { size, page_size });
    }
    if start.checked_add(size).is_none() {
        return Err(RegionError::AddressOverflow { start, size });
    }
    if offset.checked_add(size).is_none() {
        return Err(RegionError::OffsetOverflow { offset, size });
    }
    let pages = size >> page_size.shift();
    if u32::try_from(pages).is_err() {
        return Err(RegionError::TooManyPages(pages));
    }
    Ok(ServedRegion {
        start,
        pages: PageCount::new(pages),
        page_size,
        store_offset: offset,
    })
}

fn disjoint(regions: &[WireRegion]) -> Result<(), ParseError> {
    let mut order: Vec<usize> = (0..regions.len()).collect();
    order.sort_by_key(|&n| regions[n].base_host_virt_addr);
    for pair in order.windows(2) {
        let (first, second) = (pair[0], pair[1]);
        let end = regions[first].base_host_virt_addr + regions[first].size;
        if end > regions[second].base_host_virt_addr {
            let (first, second) = (first.min(second), first.max(second));
            return Err(ParseError::Overlap { first, second });
        }
    }
    Ok(())
}
