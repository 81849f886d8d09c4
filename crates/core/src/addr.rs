//! Newtypes for addresses, page numbers and identities.
//!
//! A bare integer for an address or a page number never appears in a signature: an address is not
//! a page number, a guest's is not the host's, and arithmetic on either is checked.

use core::fmt;

use serde::{Deserialize, Serialize};

/// The size of one page in bytes: a power of two of at least 512.
///
/// Never hard-coded: 4 KiB on most hosts, 16 or 64 KiB on some aarch64 kernels, 2 MiB on hugetlbfs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PageSize(u8);

impl PageSize {
    /// 4 KiB, the x86 base page.
    pub const KIB_4: PageSize = PageSize(12);
    /// 2 MiB, the x86 huge page.
    pub const MIB_2: PageSize = PageSize(21);

    /// The page size of `bytes` bytes; `None` unless it is a power of two between 512 and 1 GiB.
    pub const fn new(bytes: u64) -> Option<PageSize> {
        if bytes.is_power_of_two() && bytes >= 512 && bytes <= 1 << 30 {
            Some(PageSize(bytes.trailing_zeros() as u8))
        } else {
            None
        }
    }

    /// Bytes in one page.
    pub const fn bytes(self) -> u64 {
        1 << self.0
    }

    /// Bytes in one page, as a length for buffers.
    pub const fn buffer_len(self) -> usize {
        1 << self.0
    }

    /// Base-2 logarithm of the size.
    pub const fn shift(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bytes() {
            b if b >= 1 << 20 => write!(f, "{} MiB", b >> 20),
            b if b >= 1 << 10 => write!(f, "{} KiB", b >> 10),
            b => write!(f, "{b} bytes"),
        }
    }
}

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(u64);

        impl $name {
            /// The address with this value.
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// The address as an integer, for an ABI or for printing.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// This address plus `bytes`; `None` when that would wrap.
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(raw) => Some(Self(raw)),
                    None => None,
                }
            }

            /// The distance in bytes from `base` up to this address; `None` when it lies below.
            pub const fn checked_offset_from(self, base: Self) -> Option<u64> {
                self.0.checked_sub(base.0)
            }

            /// The first byte of the page this address lies in.
            pub const fn page_base(self, size: PageSize) -> Self {
                Self(self.0 & !(size.bytes() - 1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:#x})", stringify!($name), self.0)
            }
        }
    };
}

address! {
    /// A guest-physical address, in bytes.
    Gpa
}
address! {
    /// A guest-virtual address, in bytes.
    Gva
}
address! {
    /// A host-virtual address, in bytes.
    Hva
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($raw:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name($raw);

        impl $name {
            /// The number `raw`.
            pub const fn new(raw: $raw) -> Self {
                Self(raw)
            }

            /// The number as an integer, for an ABI or for printing.
            pub const fn get(self) -> $raw {
                self.0
            }

            /// This number plus `n`; `None` when that would wrap.
            pub const fn checked_add(self, n: $raw) -> Option<Self> {
                match self.0.checked_add(n) {
                    Some(raw) => Some(Self(raw)),
                    None => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A guest frame number: a guest-physical address divided by the page size.
    Gfn(u64)
}
number! {
    /// A number of pages.
    PageCount(u64)
}
number! {
    /// The index of a page within its region, counted from 0.
    PageIndex(u32)
}
number! {
    /// A region of guest memory, in the order in which the regions were given.
    RegionId(u16)
}
number! {
    /// A vCPU, by KVM's own id.
    VcpuId(u32)
}
number! {
    /// A KVM memory slot.
    SlotId(u32)
}
number! {
    /// A paravirtual async page fault's token.
    Token(u32)
}

impl Gfn {
    /// The frame that `gpa` lies in.
    pub const fn of(gpa: Gpa, size: PageSize) -> Gfn {
        Gfn(gpa.get() >> size.shift())
    }

    /// The guest-physical address of the frame's first byte; `None` when it does not fit 64 bits.
    pub const fn gpa(self, size: PageSize) -> Option<Gpa> {
        match self.0.checked_mul(size.bytes()) {
            Some(raw) => Some(Gpa::new(raw)),
            None => None,
        }
    }
}

impl PageCount {
    /// Bytes in this many pages; `None` when that does not fit 64 bits.
    pub const fn bytes(self, size: PageSize) -> Option<u64> {
        self.0.checked_mul(size.bytes())
    }
}

/// A page of guest memory: a region and the page's index within it.
///
/// The key of the residency machine. Several gfns may share one (an aliased slot), so it is not a
/// gfn.
///
/// The region above the index in one word: pages are compared all the time, where they are searched
/// for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PageId(u64);

impl PageId {
    /// Page `index` of `region`.
    pub const fn new(region: RegionId, index: PageIndex) -> PageId {
        PageId((region.get() as u64) << 32 | index.get() as u64)
    }

    /// The region the page is in.
    pub const fn region(self) -> RegionId {
        RegionId::new((self.0 >> 32) as u16)
    }

    /// The page's index within its region.
    pub const fn index(self) -> PageIndex {
        PageIndex::new(self.0 as u32)
    }

    /// The page `n` further on in the same region; `None` when the index would wrap. Whether the
    /// region is that long is not checked here.
    pub const fn checked_add(self, n: u32) -> Option<PageId> {
        match self.index().checked_add(n) {
            Some(index) => Some(PageId::new(self.region(), index)),
            None => None,
        }
    }
}

impl fmt::Display for PageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {} of region {}", self.index(), self.region())
    }
}

impl fmt::Debug for PageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.region(), self.index())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_are_powers_of_two() {
        assert_eq!(PageSize::new(4096), Some(PageSize::KIB_4));
        assert_eq!(PageSize::new(2 << 20), Some(PageSize::MIB_2));
        for bad in [0, 1, 256, 4095, 4097, 1 << 31] {
            assert_eq!(PageSize::new(bad), None, "{bad}");
        }
        assert_eq!(PageSize::MIB_2.to_string(), "2 MiB");
    }

    #[test]
    fn arithmetic_is_checked() {
        assert_eq!(Gpa::new(u64::MAX).checked_add(1), None);
        assert_eq!(Hva::new(0x1000).checked_offset_from(Hva::new(0x2000)), None);
        assert_eq!(Gfn::new(u64::MAX).gpa(PageSize::KIB_4), None);
        assert_eq!(Gfn::of(Gpa::new(0x5fff), PageSize::KIB_4), Gfn::new(5));
        assert_eq!(
            Gpa::new(0x5fff).page_base(PageSize::KIB_4),
            Gpa::new(0x5000)
        );
        assert_eq!(
            PageId::new(RegionId::new(0), PageIndex::new(u32::MAX)).checked_add(1),
            None
        );
    }
}
