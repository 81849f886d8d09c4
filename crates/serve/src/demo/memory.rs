//! The memory of a VMM that is played: mapped, registered, read as a guest reads it.
//!
//! A page that fails ends its access with SIGBUS. The handler notes the page and puts an empty one in
//! its place, so that the access goes on, and its thread can see what became of it.
#![expect(
    unsafe_code,
    reason = "memory is mapped, registered and touched like a guest does, and SIGBUS is caught"
)]

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use surefault_core::PageSize;
use surefault_uffd::{Address, PageRange, RegisterMode, Userfaultfd, host_page_size};

use super::DemoError;

/// A word, as a guest reads memory.
const WORD: usize = size_of::<u64>();

/// The memory.
pub(super) struct Memory {
    /// Boxed, because the handler has its address.
    table: Box<Table>,
}

/// What the handler knows.
struct Table {
    start: NonNull<u8>,
    page_size: PageSize,
    pages: Box<[Page]>,
}

#[derive(Default)]
struct Page {
    /// A `PageUse`.
    used: AtomicU8,
    touched: AtomicU8,
}

/// What a page is to whoever reads it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum PageUse {
    /// It has the source's contents.
    Contents = 0,
    /// It is being given back.
    Giving = 1,
    /// It was given back.
    Given = 2,
    /// It could not be read.
    Failed = 3,
}

/// A page that was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Visit {
    pub(super) before: PageUse,
    pub(super) after: PageUse,
    /// How long the first access took, if nobody had been there before.
    pub(super) first_access: Option<Duration>,
}

// SAFETY: the mapping belongs to the process, not to a thread; what describes it never changes.
unsafe impl Send for Table {}
// SAFETY: all accesses are volatile, atomic, or made by the kernel.
unsafe impl Sync for Table {}

/// The memory that is being played, for the handler.
static TABLE: AtomicPtr<Table> = AtomicPtr::new(ptr::null_mut());

impl Memory {
    /// `pages` absent pages; huge ones where `page_size` is not the host's.
    pub(super) fn map(pages: u64, page_size: PageSize) -> Result<Memory, DemoError> {
        let failed = |source| DemoError::Map {
            pages,
            page_size,
            source,
        };
        let count = usize::try_from(pages).map_err(|_| failed(rustix::io::Errno::NOMEM))?;
        let len = count.checked_mul(page_size.buffer_len());
        let len = len.ok_or_else(|| failed(rustix::io::Errno::NOMEM))?;
        let huge = if page_size.bytes() == host_page_size() {
            MapFlags::empty()
        } else {
            let size = page_size.shift() << libc::MAP_HUGE_SHIFT;
            MapFlags::HUGETLB | MapFlags::from_bits_retain(size)
        };
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | huge);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), len, prot, flags) };
        let start = NonNull::new(start.map_err(failed)?.cast()).expect("nothing is mapped at 0");
        let pages = (0..count).map(|_| Page::default()).collect();
        Ok(Memory {
            table: Box::new(Table {
                start,
                page_size,
                pages,
            }),
        })
    }

    /// Registers `count` pages from `first` on.
    pub(super) fn register(
        &self,
        uffd: &Userfaultfd,
        first: u64,
        count: u64,
    ) -> Result<PageRange, DemoError> {
        let size = self.table.page_size;
        let start = Address::of_pointer(self.table.page(first));
        let range = PageRange::new(start, count << size.shift(), size.bytes());
        let range = range.expect("pages of the mapping");
        // SAFETY: pages of this mapping, which nothing but `read` looks at, word by word.
        let registered = unsafe { uffd.register(range, RegisterMode::MISSING) };
        registered.map(|_| range).map_err(DemoError::Register)
    }

    /// From now on a SIGBUS on this memory is noted, and goes on with an empty page.
    pub(super) fn catch_sigbus(&self) -> io::Result<()> {
        TABLE.store((&raw const *self.table).cast_mut(), Ordering::Release);
        // SAFETY: zero is a valid sigaction: no flags, an empty mask.
        let mut action = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
        action.sa_sigaction = on_sigbus as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: the handler is async-signal-safe: atomics, and a system call.
        match unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Reads all of `page` into `buffer`.
    pub(super) fn read(&self, page: u64, buffer: &mut [u8]) -> Visit {
        let state = &self.table.pages[page as usize];
        let is_first = state.touched.swap(1, Ordering::AcqRel) == 0;
        let before = state.used();
        let start = self.table.page(page);
        let begun = Instant::now();
        let mut first_access = None;
        for (n, word) in buffer.chunks_exact_mut(WORD).enumerate() {
            let source = start.wrapping_add(n * WORD).cast::<u64>();
            // SAFETY: inside of the mapping, and aligned.
            let value = unsafe { source.read_volatile() };
            if n == 0 && is_first {
                first_access = Some(begun.elapsed());
            }
            word.copy_from_slice(&value.to_ne_bytes());
        }
        let after = state.used();
        Visit {
            before,
            after,
            first_access: first_access.filter(|_| after != PageUse::Failed),
        }
    }

    /// Gives `page` back, as a balloon does.
    pub(super) fn give_back(&self, page: u64) {
        let state = &self.table.pages[page as usize];
        let change = |from: PageUse, to: PageUse| {
            let (from, to) = (from as u8, to as u8);
            state
                .used
                .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
        };
        if !change(PageUse::Contents, PageUse::Giving) {
            return;
        }
        let (start, len) = (
            self.table.page(page).cast(),
            self.table.page_size.buffer_len(),
        );
        // SAFETY: a page of this mapping, which nobody has a reference to.
        let given = unsafe { madvise(start, len, Advice::LinuxDontNeed) };
        let is_given = given.is_ok() && change(PageUse::Giving, PageUse::Given);
        debug_assert!(is_given || state.used() == PageUse::Failed, "{given:?}");
    }

    /// Pages that could not be read, in order.
    pub(super) fn failed_pages(&self) -> impl Iterator<Item = u64> + '_ {
        self.used_as(PageUse::Failed)
    }

    /// Pages that were given back.
    pub(super) fn given_pages(&self) -> u64 {
        self.used_as(PageUse::Given).count() as u64
    }

    fn used_as(&self, used: PageUse) -> impl Iterator<Item = u64> + '_ {
        let pages = (0..).zip(&self.table.pages);
        pages
            .filter(move |(_, page)| page.used() == used)
            .map(|(n, _)| n)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        TABLE.store(ptr::null_mut(), Ordering::Release);
        let len = self.table.pages.len() * self.table.page_size.buffer_len();
        // SAFETY: the threads that read it have ended.
        let _ = unsafe { munmap(self.table.start.as_ptr().cast(), len) };
    }
}

impl Table {
    fn page(&self, page: u64) -> *mut u8 {
        assert!(page < self.pages.len() as u64);
        self.start
            .as_ptr()
            .wrapping_add((page << self.page_size.shift()) as usize)
    }
}

impl Page {
    fn used(&self) -> PageUse {
        match self.used.load(Ordering::Acquire) {
            0 => PageUse::Contents,
            1 => PageUse::Giving,
            2 => PageUse::Given,
            _ => PageUse::Failed,
        }
    }
}

extern "C" fn on_sigbus(signal: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel gives every SA_SIGINFO handler a valid siginfo.
    let info = unsafe { &*info };
    // SAFETY: a SIGBUS has an address.
    let address = unsafe { info.si_addr() }.addr();
    // SAFETY: null, or the table of a memory that lives.
    let table = unsafe { TABLE.load(Ordering::Acquire).as_ref() };
    let replaced = table.is_some_and(|table| table.replace(address));
    if !replaced {
        // Back to the default: the access is made again when this returns, and ends the process.
        // SAFETY: SIG_DFL is a valid disposition for SIGBUS.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

impl Table {
    /// Puts an empty page in the place of the one at `address`; false when that is none of this
    /// memory's. Async-signal-safe.
    fn replace(&self, address: usize) -> bool {
        let Some(distance) = address.checked_sub(self.start.as_ptr().addr()) else {
            return false;
        };
        let page = distance >> self.page_size.shift();
        let Some(state) = self.pages.get(page) else {
            return false;
        };
        state.used.store(PageUse::Failed as u8, Ordering::Release);
        let start = self
            .start
            .as_ptr()
            .wrapping_add(page << self.page_size.shift());
        let (len, prot) = (
            self.page_size.buffer_len(),
            ProtFlags::READ | ProtFlags::WRITE,
        );
        // SAFETY: replaces one page of this mapping, which nobody has a reference to.
        let mapped =
            unsafe { mmap_anonymous(start.cast(), len, prot, MapFlags::PRIVATE | MapFlags::FIXED) };
        mapped.is_ok()
    }
}
