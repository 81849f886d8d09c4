//! Guest memory as the VMM maps it.
//!
//! The VMM follows no pointer into it: it reads and writes through the kernel, so that a page that
//! fails is an error here and not a signal, and no Rust reference points to memory that the guest
//! changes. The exception are single words of memory that the host always has, which are atomic:
//! they are read and written at every asynchronous fault, and a system call takes 3 to 5 µs.
#![expect(
    unsafe_code,
    reason = "maps and unmaps memory, and names addresses to the kernel"
)]

use core::ffi::c_void;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU32;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use surefault_core::Hva;
use thiserror::Error;

/// Private memory, mapped for as long as this lives.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<c_void>,
    len: usize,
    /// The host provides its pages by itself, whatever happens.
    always_there: bool,
}

// SAFETY: the mapping is only an address range here; every access goes through the kernel, or is atomic.
unsafe impl Send for Mapping {}
// SAFETY: as above; the kernel serializes nothing, and promises nothing, about bytes that race.
unsafe impl Sync for Mapping {}

/// Memory that cannot be mapped, read or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The host would not map it.
    #[error("mapping {len} bytes of guest memory")]
    Map {
        /// How much was asked for.
        len: usize,
        /// Why not.
        source: rustix::io::Errno,
    },
    /// The range is not within the mapping.
    #[error("{len} bytes at offset {offset:#x} are not within a mapping of {size} bytes")]
    OutOfRange {
        /// The range's start.
        offset: u64,
        /// Its length.
        len: usize,
        /// The mapping's size.
        size: usize,
    },
    /// A page of the range cannot be had.
    #[error("{doing} {len} bytes of guest memory at offset {offset:#x}")]
    Access {
        /// "reading" or "writing".
        doing: &'static str,
        /// The range's start.
        offset: u64,
        /// Its length.
        len: usize,
        /// What the kernel said: EFAULT for a page that failed.
        source: io::Error,
    },
}

impl Mapping {
    /// Maps `len` zero bytes that the host provides when they are touched.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn on_demand(len: usize) -> Result<Mapping, MemoryError> {
        Mapping::new(len, MapFlags::PRIVATE | MapFlags::NORESERVE, false)
    }

    /// Maps `len` zero bytes and has the host provide them at once.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn present(len: usize) -> Result<Mapping, MemoryError> {
        Mapping::new(len, MapFlags::PRIVATE | MapFlags::POPULATE, true)
    }

    /// Maps the first `len` bytes of `file`, privately: what is written stays in this memory.
    /// Touching a page beyond the file's end fails.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn of_file(file: BorrowedFd<'_>, len: usize) -> Result<Mapping, MemoryError> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: without MAP_FIXED, a new mapping takes the place of nothing.
        let base = unsafe { mmap(core::ptr::null_mut(), len, prot, MapFlags::PRIVATE, file, 0) }
            .map_err(|source| MemoryError::Map { len, source })?;
        let base = NonNull::new(base).expect("mmap never maps address 0 without MAP_FIXED");
        Ok(Mapping {
            base,
            len,
            always_there: false,
        })
    }

    /// Maps `len` bytes of `file` from `file_offset` on in the place of those at `offset`, whose
    /// contents are thrown away. Not for memory that a pager serves.
    ///
    /// # Errors
    /// When the host refuses, or the range is not in the mapping.
    pub(crate) fn replace(
        &self,
        offset: u64,
        len: usize,
        file: BorrowedFd<'_>,
        file_offset: u64,
    ) -> Result<(), MemoryError> {
        let at = self.at(offset, len)?;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::FIXED;
        // SAFETY: what is replaced lies in this mapping, to which no Rust reference points; a VM
        // that has it in a slot is told by the kernel.
        unsafe { mmap(at, len, prot, flags, file, file_offset) }
            .map_err(|source| MemoryError::Map { len, source })?;
        Ok(())
    }

    fn new(len: usize, flags: MapFlags, always_there: bool) -> Result<Mapping, MemoryError> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: without MAP_FIXED, a new mapping takes the place of nothing.
        let base = unsafe { mmap_anonymous(core::ptr::null_mut(), len, prot, flags) }
            .map_err(|source| MemoryError::Map { len, source })?;
        let base = NonNull::new(base).expect("mmap never maps address 0 without MAP_FIXED");
        Ok(Mapping {
            base,
            len,
            always_there,
        })
    }

    /// The first byte's address.
    pub fn hva(&self) -> Hva {
        Hva::new(self.base.as_ptr().addr() as u64)
    }

    /// The first byte, for a system call that is given memory.
    pub fn as_ptr(&self) -> NonNull<c_void> {
        self.base
    }

    /// The size in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for a mapping of nothing, which the kernel refuses to make.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills `buffer` with the bytes at `offset`. Waits for pages that are being provided.
    ///
    /// # Errors
    /// When the range is not in the mapping, or one of its pages cannot be had.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let len = buffer.len();
        let local = iovec(buffer.as_mut_ptr().cast(), len);
        let remote = iovec(self.at(offset, len)?, len);
        // SAFETY: the local range is `buffer`; the remote one is checked by the kernel.
        let done = unsafe { libc::process_vm_readv(own_pid(), &local, 1, &remote, 1, 0) };
        access("reading", offset, len, done)
    }

    /// Writes `bytes` at `offset`. Waits for pages that are being provided.
    ///
    /// # Errors
    /// When the range is not in the mapping, or one of its pages cannot be had.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        let len = bytes.len();
        let local = iovec(bytes.as_ptr().cast_mut().cast(), len);
        let remote = iovec(self.at(offset, len)?, len);
        // SAFETY: the remote range lies in this mapping, to which no Rust reference points; the
        // local one is `bytes`, which is only read.
        let done = unsafe { libc::process_vm_writev(own_pid(), &local, 1, &remote, 1, 0) };
        access("writing", offset, len, done)
    }

    /// The aligned word at `offset`, to be used without the kernel's help; `None` unless the mapping
    /// was made [`present`](Self::present).
    pub(crate) fn word(&self, offset: u64) -> Option<&AtomicU32> {
        let at = self.at(offset, size_of::<AtomicU32>()).ok()?;
        let word = at.cast::<AtomicU32>();
        if !self.always_there || !word.is_aligned() {
            return None;
        }
        // SAFETY: aligned, in this mapping for as long as `self` is borrowed, and private anonymous
        // memory, which the kernel provides by itself. Whoever else accesses it is the guest, or the
        // kernel, neither of which the language knows anything of, or is atomic, too.
        Some(unsafe { &*word })
    }

    fn at(&self, offset: u64, len: usize) -> Result<*mut c_void, MemoryError> {
        usize::try_from(offset)
            .ok()
            .filter(|start| start.checked_add(len).is_some_and(|end| end <= self.len))
            .map(|start| self.base.as_ptr().wrapping_byte_add(start))
            .ok_or(MemoryError::OutOfRange {
                offset,
                len,
                size: self.len,
            })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped when this was made and nobody has unmapped it; a VM that had it in a
        // slot keeps the mapping alive.
        let unmapped = unsafe { munmap(self.base.as_ptr(), self.len) };
        debug_assert!(unmapped.is_ok(), "unmapping what was mapped: {unmapped:?}");
    }
}

fn iovec(base: *mut c_void, len: usize) -> libc::iovec {
    libc::iovec {
        iov_base: base,
        iov_len: len,
    }
}

fn own_pid() -> libc::pid_t {
    rustix::process::getpid().as_raw_nonzero().get()
}

fn access(doing: &'static str, offset: u64, len: usize, done: isize) -> Result<(), MemoryError> {
    if done == len as isize {
        return Ok(());
    }
    // A transfer that stops short stops at a page that cannot be had.
    let source = match done {
        -1 => io::Error::last_os_error(),
        _ => io::Error::from_raw_os_error(libc::EFAULT),
    };
    Err(MemoryError::Access {
        doing,
        offset,
        len,
        source,
    })
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn what_is_written_is_read_back_within_bounds() {
        let mapping = Mapping::on_demand(8192).unwrap();
        mapping.write(4090, b"across two pages").unwrap();
        let mut read = [0; 16];
        mapping.read(4090, &mut read).unwrap();
        assert_eq!(&read, b"across two pages");
        for offset in [8192 - 15, 8192, u64::MAX] {
            assert!(matches!(
                mapping.read(offset, &mut read),
                Err(MemoryError::OutOfRange { .. })
            ));
        }
    }

    #[test]
    fn words_are_those_of_memory_that_is_always_there() {
        let mapping = Mapping::present(4096).unwrap();
        let word = mapping.word(64).unwrap();
        mapping.write(64, &7u32.to_le_bytes()).unwrap();
        assert_eq!(word.swap(8, Ordering::SeqCst), 7);
        let mut read = [0; 4];
        mapping.read(64, &mut read).unwrap();
        assert_eq!(u32::from_le_bytes(read), 8);
        assert!(mapping.word(66).is_none());
        assert!(mapping.word(4096).is_none());
        assert!(Mapping::on_demand(4096).unwrap().word(64).is_none());
    }
}
