//! Memory of the process, mapped as a test needs it.

use std::fs::File;
use std::os::fd::AsFd;
use std::ptr;

use rustix::mm::{Advice, MapFlags, ProtFlags};

/// A mapping that lasts until the process ends.
pub(crate) struct Mapping {
    start: *mut u8,
    len: usize,
}

// SAFETY: an address range that is never unmapped; what races on its contents is the test's own.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub(crate) fn anonymous(len: usize) -> Mapping {
        Mapping::flags(len, MapFlags::PRIVATE | MapFlags::NORESERVE)
    }

    /// Anonymous memory with these flags.
    pub(crate) fn flags(len: usize, flags: MapFlags) -> Mapping {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let start = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), len, prot, flags) };
        Mapping {
            start: start.expect("map").cast(),
            len,
        }
    }

    /// The first `len` bytes of `file`, which may be shorter.
    pub(crate) fn file(file: &File, len: usize) -> Mapping {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let start = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                len,
                prot,
                MapFlags::SHARED,
                file.as_fd(),
                0,
            )
        };
        Mapping {
            start: start.expect("map").cast(),
            len,
        }
    }

    pub(crate) fn address(&self) -> u64 {
        self.start as u64
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) {
        assert!(offset as usize + bytes.len() <= self.len);
        // SAFETY: within the mapping, checked above.
        let to = unsafe { self.start.add(offset as usize) };
        // SAFETY: the mapping is writable and nobody else's.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    /// Reads one byte, and waits for its page if need be.
    pub(crate) fn touch(&self, offset: usize) -> u8 {
        assert!(offset < self.len);
        // SAFETY: within the mapping, checked above.
        let from = unsafe { self.start.add(offset) };
        // SAFETY: readable; a page that cannot be had ends the test's process.
        unsafe { ptr::read_volatile(from) }
    }

    /// Drops what is in the mapping.
    pub(crate) fn discard(&self) {
        // SAFETY: nothing relies on the contents.
        let discarded =
            unsafe { rustix::mm::madvise(self.start.cast(), self.len, Advice::LinuxDontNeed) };
        discarded.expect("discard");
    }
}
