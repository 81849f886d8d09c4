//! Memory that outlives the process that writes it: a sealed memfd, mapped.
//!
//! Whoever holds the descriptor can map it again after the writer's death. The seals keep its size
//! what it is, so that no holder can turn an access into SIGBUS; everything else about its contents
//! is for the mapper to doubt.
#![expect(
    unsafe_code,
    reason = "memory is mapped, and looked at through atomics only"
)]

use core::ffi::c_void;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU64};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

use crate::MapError;

/// What keeps the size of the file as it is, and itself.
const SIZE_SEALS: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::SEAL);

#[derive(Debug)]
pub(crate) struct SharedMemory {
    start: NonNull<c_void>,
    len: usize,
    fd: OwnedFd,
}

// SAFETY: the mapping belongs to the process, not to a thread.
unsafe impl Send for SharedMemory {}
// SAFETY: shared references lead to atomics only; `read_into` asks its caller for exclusiveness.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// New memory of `len` bytes, all zeros.
    pub(crate) fn create(len: usize) -> Result<SharedMemory, MapError> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("surefault-page-map", flags).map_err(MapError::Create)?;
        rustix::fs::ftruncate(&fd, len as u64).map_err(MapError::Create)?;
        rustix::fs::fcntl_add_seals(&fd, SIZE_SEALS).map_err(MapError::Create)?;
        SharedMemory::map(fd, len)
    }

    /// The memory behind a descriptor that another process has made.
    pub(crate) fn open(fd: OwnedFd) -> Result<SharedMemory, MapError> {
        // Anything but a memfd knows no seals.
        let seals = rustix::fs::fcntl_get_seals(&fd).map_err(MapError::NotSealed)?;
        if !seals.contains(SealFlags::SHRINK | SealFlags::GROW) {
            return Err(MapError::NotSealed(Errno::PERM));
        }
        let size = rustix::fs::fstat(&fd).map_err(MapError::Map)?.st_size;
        let len = usize::try_from(size).map_err(|_| MapError::Map(Errno::OVERFLOW))?;
        SharedMemory::map(fd, len)
    }

    fn map(fd: OwnedFd, len: usize) -> Result<SharedMemory, MapError> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let null = core::ptr::null_mut();
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { rustix::mm::mmap(null, len, prot, MapFlags::SHARED, &fd, 0) }
            .map_err(MapError::Map)?;
        let start = NonNull::new(start).ok_or(MapError::Map(Errno::FAULT))?;
        Ok(SharedMemory { start, len, fd })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The `len` bytes from `offset` on.
    ///
    /// # Panics
    /// When they are not all in the memory.
    pub(crate) fn bytes(&self, offset: usize, len: usize) -> &[AtomicU8] {
        let first = self.at(offset, len).cast::<AtomicU8>();
        // SAFETY: `at` has checked the bounds; the mapping lives as long as `self`, its size is
        // sealed, and every bit pattern is an `AtomicU8`.
        unsafe { core::slice::from_raw_parts(first, len) }
    }

    /// The `count` words from `offset` on.
    ///
    /// # Panics
    /// When they are not all in the memory, or not aligned.
    pub(crate) fn words(&self, offset: usize, count: usize) -> &[AtomicU64] {
        assert!(offset.is_multiple_of(align_of::<AtomicU64>()), "aligned");
        let len = count
            .checked_mul(size_of::<AtomicU64>())
            .expect("a length in memory");
        let first = self.at(offset, len).cast::<AtomicU64>();
        // SAFETY: as in `bytes`; a mapping begins at a page, so an aligned offset is an aligned
        // address.
        unsafe { core::slice::from_raw_parts(first, count) }
    }

    /// Has pages behind the `len` bytes from `offset` on, and keeps them where the kernel can write
    /// without a fault. False when the kernel will not lock them (`RLIMIT_MEMLOCK`): they are there
    /// all the same.
    pub(crate) fn keep_in_place(&self, offset: usize, len: usize) -> bool {
        // Written, not read: a page that was only read is the shared page of zeros of the file, and
        // a write to it faults.
        for byte in self.bytes(offset, len) {
            byte.fetch_or(0, core::sync::atomic::Ordering::Relaxed);
        }
        let first = self.at(offset, len);
        // SAFETY: inside of the mapping; locking changes no contents.
        unsafe { rustix::mm::mlock(first, len) }.is_ok()
    }

    /// Has the kernel read from `fd` straight into the `len` bytes from `offset` on.
    ///
    /// # Safety
    /// Nothing in this process holds a reference to these bytes.
    pub(crate) unsafe fn read_into(
        &self,
        fd: BorrowedFd<'_>,
        offset: usize,
        len: usize,
    ) -> Result<usize, Errno> {
        let first = self.at(offset, len).cast::<u8>();
        // SAFETY: in bounds; by the caller's promise the only reference in this process. Another
        // process that maps the memory can only change bytes that nothing here relies on.
        let bytes = unsafe { core::slice::from_raw_parts_mut(first, len) };
        rustix::io::read(fd, bytes)
    }

    fn at(&self, offset: usize, len: usize) -> *mut c_void {
        let end = offset.checked_add(len).expect("an end in memory");
        assert!(end <= self.len, "inside of the mapping");
        self.start.as_ptr().wrapping_byte_add(offset)
    }
}

impl AsFd for SharedMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: all references borrow from `self`.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr(), self.len) };
    }
}
