//! Mappings to be served, and the ways in which the tests touch them.
#![expect(
    unsafe_code,
    reason = "memory is mapped, and touched like a guest does"
)]

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};
use surefault_uffd::{Address, PageRange, host_page_size};

/// What backs a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backing {
    /// Private anonymous memory.
    Anonymous,
    /// Shared memory with a file.
    Memfd,
}

/// All of them.
pub const BACKINGS: [Backing; 2] = [Backing::Anonymous, Backing::Memfd];

/// A mapping of some pages, unmapped at the end. It is never looked at through a reference.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    len: NonZeroUsize,
    _file: Option<OwnedFd>,
}

// SAFETY: the mapping belongs to the process, not to a thread.
unsafe impl Send for Mapping {}
// SAFETY: all accesses are volatile or made by the kernel.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// `pages` absent pages.
    pub fn new(backing: Backing, pages: usize) -> Mapping {
        let len = NonZeroUsize::new(pages * page_size()).expect("at least one page");
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let (pointer, file) = match backing {
            Backing::Anonymous => {
                let null = std::ptr::null_mut();
                // SAFETY: a new mapping at an address of the kernel's choice.
                let pointer =
                    unsafe { rustix::mm::mmap_anonymous(null, len.get(), prot, MapFlags::PRIVATE) };
                (pointer, None)
            }
            Backing::Memfd => {
                let file = rustix::fs::memfd_create("pages", rustix::fs::MemfdFlags::CLOEXEC)
                    .expect("memfd");
                rustix::fs::ftruncate(&file, len.get() as u64).expect("ftruncate");
                let (null, flags) = (std::ptr::null_mut(), MapFlags::SHARED);
                // SAFETY: a new mapping at an address of the kernel's choice.
                let pointer = unsafe { rustix::mm::mmap(null, len.get(), prot, flags, &file, 0) };
                (pointer, Some(file))
            }
        };
        Mapping {
            start: NonNull::new(pointer.expect("mmap").cast()).expect("not at 0"),
            len,
            _file: file,
        }
    }

    /// `pages` pages from page `first` on.
    pub fn pages(&self, first: usize, pages: usize) -> PageRange {
        let start = Address::new(self.pointer(first).addr() as u64);
        PageRange::new(start, (pages * page_size()) as u64, host_page_size()).expect("whole pages")
    }

    /// Page `page`.
    pub fn page(&self, page: usize) -> PageRange {
        self.pages(page, 1)
    }

    /// All pages.
    pub fn all(&self) -> PageRange {
        self.pages(0, self.len.get() / page_size())
    }

    fn pointer(&self, page: usize) -> *mut u8 {
        assert!((page + 1) * page_size() <= self.len.get());
        self.start.as_ptr().wrapping_add(page * page_size())
    }

    /// Reads the first byte of `page`, as a guest would: blocks while it is absent, SIGBUS when it
    /// is poisoned.
    pub fn load(&self, page: usize) -> u8 {
        self.load_at(page, 0)
    }

    /// Reads byte `offset` of `page`.
    pub fn load_at(&self, page: usize, offset: usize) -> u8 {
        assert!(offset < page_size());
        let byte = self.pointer(page).wrapping_add(offset);
        // SAFETY: inside of the mapping.
        unsafe { byte.read_volatile() }
    }

    /// Writes the first byte of `page`.
    pub fn store(&self, page: usize, value: u8) {
        // SAFETY: inside of the mapping, which nobody has a reference to.
        unsafe { self.pointer(page).write_volatile(value) }
    }

    /// Lets a system call read the first byte of `page`: blocks as `load` does, but says `EFAULT`
    /// where that would be killed.
    pub fn load_by_syscall(&self, page: usize) -> Result<u8, Errno> {
        let (read_end, write_end) = rustix::pipe::pipe().expect("pipe");
        // SAFETY: inside of the mapping; only the kernel looks at the byte.
        let source = unsafe { std::slice::from_raw_parts(self.pointer(page), 1) };
        rustix::io::write(&write_end, source)?;
        let mut byte = [0];
        rustix::io::read(&read_end, &mut byte)?;
        Ok(byte[0])
    }

    /// Lets a system call read all of `page`, like [`load_by_syscall`](Self::load_by_syscall).
    pub fn page_by_syscall(&self, page: usize) -> Result<Vec<u8>, Errno> {
        let (read_end, write_end) = rustix::pipe::pipe().expect("pipe");
        // SAFETY: inside of the mapping; only the kernel looks at the bytes.
        let source = unsafe { std::slice::from_raw_parts(self.pointer(page), page_size()) };
        let written = rustix::io::write(&write_end, source)?;
        assert_eq!(written, page_size(), "a page fits a pipe");
        let mut bytes = vec![0; written];
        assert_eq!(rustix::io::read(&read_end, &mut bytes), Ok(written));
        Ok(bytes)
    }

    /// Reads word `word` (8 bytes) of `page`, as a guest would.
    pub fn word(&self, page: usize, word: usize) -> u64 {
        assert!(word < page_size() / 8);
        let pointer = self.pointer(page).cast::<u64>().wrapping_add(word);
        // SAFETY: inside of the mapping, and aligned.
        unsafe { pointer.read_volatile() }
    }

    /// Gives `page` up with `madvise`.
    pub fn give_up(&self, page: usize, advice: Advice) -> Result<(), Errno> {
        let pointer = self.pointer(page).cast();
        // SAFETY: inside of the mapping, which nobody has a reference to.
        unsafe { rustix::mm::madvise(pointer, page_size(), advice) }
    }

    /// Changes the access rights of `page`.
    pub fn protect(&self, page: usize, flags: MprotectFlags) {
        let pointer = self.pointer(page).cast();
        // SAFETY: inside of the mapping, which nobody has a reference to.
        unsafe { rustix::mm::mprotect(pointer, page_size(), flags) }.expect("mprotect");
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nobody has a reference to it.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len.get()) };
    }
}

/// The size of a page.
pub fn page_size() -> usize {
    usize::try_from(host_page_size()).expect("a page fits the address space")
}

/// `pages` pages full of `byte`.
pub fn bytes(pages: usize, byte: u8) -> Vec<u8> {
    vec![byte; pages * page_size()]
}

/// A page where nothing is mapped: too low for the kernel to choose it, unlike that of a mapping
/// that is gone, where another test's may be by now.
pub fn nowhere() -> PageRange {
    let start = Address::new(2 << 20);
    PageRange::new(start, host_page_size(), host_page_size()).expect("a page")
}
