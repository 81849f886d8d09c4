//! What is mapped for the guest.

use std::collections::BTreeSet;

use surefault_core::faults::{Paging, Root};
use surefault_core::{PageCount, PageIndex};

use super::bits::Bits;

/// The pages that the guest reaches without a fault.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(crate) enum Mapped {
    /// Under two-dimensional paging what is mapped is mapped for all.
    ForAll(Bits),
    /// Under shadow paging each address space has its own.
    BySpace(BTreeSet<(Root, PageIndex)>),
}

impl Clone for Mapped {
    fn clone(&self) -> Mapped {
        match self {
            Mapped::ForAll(bits) => Mapped::ForAll(bits.clone()),
            Mapped::BySpace(pages) => Mapped::BySpace(pages.clone()),
        }
    }

    fn clone_from(&mut self, source: &Mapped) {
        match (self, source) {
            (Mapped::ForAll(bits), Mapped::ForAll(source)) => bits.clone_from(source),
            (mapped, source) => *mapped = source.clone(),
        }
    }
}

impl Mapped {
    pub(crate) fn new(paging: Paging, pages: PageCount) -> Mapped {
        match paging {
            Paging::TwoDimensional => Mapped::ForAll(Bits::new(pages.get() as usize)),
            Paging::Shadow => Mapped::BySpace(BTreeSet::new()),
        }
    }

    pub(crate) fn contains(&self, root: Root, page: PageIndex) -> bool {
        match self {
            Mapped::ForAll(pages) => pages.contains(page.get() as usize),
            Mapped::BySpace(pages) => pages.contains(&(root, page)),
        }
    }

    pub(crate) fn insert(&mut self, root: Root, page: PageIndex) {
        match self {
            Mapped::ForAll(pages) => pages.insert(page.get() as usize),
            Mapped::BySpace(pages) => drop(pages.insert((root, page))),
        }
    }

    pub(crate) fn remove(&mut self, page: PageIndex) {
        match self {
            Mapped::ForAll(pages) => pages.remove(page.get() as usize),
            Mapped::BySpace(pages) => pages.retain(|&(_, mapped)| mapped != page),
        }
    }
}
