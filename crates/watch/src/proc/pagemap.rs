//! `/proc/PID/pagemap`: is there a page, and if not, what is in its place?

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use surefault_core::{Hva, PageSize};

use crate::ids::Pid;
use crate::suspicion::Presence;

const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
/// Of a swapped entry: the type in bits 0–4, then the offset.
const TYPE_BITS: u32 = 5;
const OFFSET_MASK: u64 = (1 << 50) - 1;
/// The last of the types is the kernel's marker (`SWP_PTE_MARKER`).
const TYPE_MARKER: u64 = 31;
/// `PTE_MARKER_POISONED`.
const MARKER_POISONED: u64 = 1 << 1;
/// `MAX_SWAPFILES` where everything that takes a type for itself is built in; the types from there
/// on are no swap areas: memory failures, pages that move, device memory.
const FIRST_SPECIAL_TYPE: u64 = 23;
/// `KPF_HWPOISON`.
const KPF_HWPOISON: u64 = 1 << 19;

/// What is in a process's page table at an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Nothing.
    Empty,
    /// A page.
    Page,
    /// A page that is in swap.
    Swapped,
    /// The marker of `UFFDIO_POISON`, or of a page that was lost.
    PoisonMarker,
    /// A page that the hardware has lost.
    HardwarePoison,
    /// Something else of the kernel's: a page on the move, a write-protection marker.
    Other,
}

/// The entry for the page at `hva`.
///
/// # Errors
/// When the process is gone, or may not be looked at.
pub fn entry(pid: Pid, hva: Hva) -> io::Result<Entry> {
    let raw = word(
        &format!("/proc/{pid}/pagemap"),
        hva.get() / page_size().bytes(),
    )?;
    Ok(decode(raw, |pfn| {
        word("/proc/kpageflags", pfn).is_ok_and(|flags| flags & KPF_HWPOISON != 0)
    }))
}

/// One entry of a process's page table, to be looked at again and again.
#[derive(Debug)]
pub struct Lookout {
    pagemap: File,
    offset: u64,
}

impl Lookout {
    /// A lookout for the page at `hva`.
    ///
    /// # Errors
    /// When the process is gone, or may not be looked at.
    pub fn open(pid: Pid, hva: Hva) -> io::Result<Lookout> {
        Ok(Lookout {
            pagemap: File::open(format!("/proc/{pid}/pagemap"))?,
            offset: hva.get() / page_size().bytes() * 8,
        })
    }

    /// Whether a page is there now.
    pub fn presence(&self) -> Presence {
        let mut bytes = [0; 8];
        match self.pagemap.read_exact_at(&mut bytes, self.offset) {
            Ok(()) if u64::from_ne_bytes(bytes) & PRESENT != 0 => Presence::Present,
            Ok(()) => Presence::Absent,
            Err(_) => Presence::Unknown,
        }
    }
}

/// The size of this host's pages.
pub fn page_size() -> PageSize {
    let bytes = rustix::param::page_size() as u64;
    PageSize::new(bytes).expect("a page size is a power of two")
}

fn word(path: &str, index: u64) -> io::Result<u64> {
    let mut bytes = [0; 8];
    File::open(path)?.read_exact_at(&mut bytes, index * 8)?;
    Ok(u64::from_ne_bytes(bytes))
}

fn decode(raw: u64, is_hardware_poison: impl FnOnce(u64) -> bool) -> Entry {
    if raw & PRESENT != 0 {
        return Entry::Page;
    }
    if raw & SWAPPED == 0 {
        return Entry::Empty;
    }
    let kind = raw & ((1 << TYPE_BITS) - 1);
    let offset = (raw >> TYPE_BITS) & OFFSET_MASK;
    match kind {
        TYPE_MARKER if offset & MARKER_POISONED != 0 => Entry::PoisonMarker,
        TYPE_MARKER => Entry::Other,
        FIRST_SPECIAL_TYPE.. if is_hardware_poison(offset) => Entry::HardwarePoison,
        FIRST_SPECIAL_TYPE.. => Entry::Other,
        _ => Entry::Swapped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_told_apart() {
        let entry = |raw| decode(raw, |pfn| pfn == 77);
        assert_eq!(entry(0), Entry::Empty);
        assert_eq!(entry(PRESENT | 0x1234), Entry::Page);
        assert_eq!(entry(SWAPPED | 5 << TYPE_BITS), Entry::Swapped);
        let marker = SWAPPED | TYPE_MARKER;
        assert_eq!(entry(marker | 2 << TYPE_BITS), Entry::PoisonMarker);
        assert_eq!(entry(marker | 1 << TYPE_BITS), Entry::Other);
        let special = SWAPPED | FIRST_SPECIAL_TYPE;
        assert_eq!(entry(special | 77 << TYPE_BITS), Entry::HardwarePoison);
        assert_eq!(entry(special | 78 << TYPE_BITS), Entry::Other);
    }

    #[test]
    fn our_own_page_is_there() {
        let local = 1_u8;
        let hva = Hva::new(std::ptr::from_ref(&local) as u64);
        let here = Pid::new(std::process::id());
        let lookout = Lookout::open(here, hva).expect("our own");
        assert_eq!(lookout.presence(), Presence::Present);
        assert!(Lookout::open(Pid::new(u32::MAX), hva).is_err());
    }
}
