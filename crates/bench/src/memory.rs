//! The memory of the VMM that is played, and the touching of it.
#![expect(
    unsafe_code,
    reason = "memory is mapped, registered, and touched like a guest does"
)]

use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags};
use surefault_uffd::{Address, Features, Options, PageRange, RegisterMode, Userfaultfd};

use crate::BenchError;

/// The size of a page.
pub(crate) fn page_size() -> usize {
    usize::try_from(surefault_uffd::host_page_size()).expect("a page fits the address space")
}

/// Private anonymous memory whose absent pages depend on a userfaultfd, as Firecracker's do. Nobody
/// looks at it through a reference.
#[derive(Debug)]
pub(crate) struct Memory {
    start: NonNull<u8>,
    pages: u32,
}

// SAFETY: the mapping belongs to the process, not to a thread.
unsafe impl Send for Memory {}
// SAFETY: all accesses are volatile reads, or made by the kernel.
unsafe impl Sync for Memory {}

impl Memory {
    /// `pages` absent pages, and the userfaultfd that they depend on.
    pub(crate) fn new(pages: u32) -> Result<(Memory, Userfaultfd), BenchError> {
        let failed = |source| BenchError::Memory { pages, source };
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        let len = pages as usize * page_size();
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, prot, flags) };
        let start = NonNull::new(start.map_err(failed)?.cast()).expect("not at 0");
        let memory = Memory { start, pages };
        let uffd = Userfaultfd::create(Options {
            wanted: Features::EVENT_REMOVE,
            ..Options::default()
        })?;
        // SAFETY: the mapping is this value's own, and nobody relies on what absent pages contain.
        let registered = unsafe { uffd.register(memory.range(), RegisterMode::MISSING) };
        registered.map_err(BenchError::Register)?;
        Ok((memory, uffd))
    }

    /// Where it begins.
    pub(crate) fn start(&self) -> u64 {
        self.start.addr().get() as u64
    }

    /// Its length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.pages as usize * page_size()
    }

    fn range(&self) -> PageRange {
        let (len, size) = (self.len() as u64, page_size() as u64);
        PageRange::new(Address::new(self.start()), len, size).expect("whole pages")
    }

    /// Reads the first word of `page`, as a guest would: blocks while it is absent.
    pub(crate) fn word(&self, page: u32) -> u64 {
        assert!(page < self.pages);
        let word = self
            .start
            .as_ptr()
            .wrapping_add(page as usize * page_size());
        // SAFETY: inside of the mapping, and aligned.
        unsafe { word.cast::<u64>().read_volatile() }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nobody has a reference into it.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len()) };
    }
}
