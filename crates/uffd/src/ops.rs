//! Installs, poison, wake-ups, write protection: what ends a fault.
//!
//! Safe, because of what [`register`](crate::Userfaultfd::register) promises: they change absent
//! pages of registered ranges and no others. The kernel refuses a range that is not registered
//! (`ENOENT`, `validate_dst_vma`) and a page that is present (`EEXIST`, `mfill_atomic_install_pte`).

use linux_raw_sys::general as raw;
use rustix::io::Errno;
use std::os::fd::AsFd as _;

use crate::abi::{self, Continue, Copy, Poison, Request, WakeRange, WriteProtect, Zeropage};
use crate::handle::raw_range;
use crate::{OperationError, OperationName, PageRange, Userfaultfd};

/// What came of an operation on a range: done, or refused in one of the ways that are normal.
#[must_use = "a refused install leaves its toucher blocked"]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// The whole range.
    Done,
    /// The first `bytes` bytes (whole pages, more than none, less than all), whose touchers are
    /// awake. The kernel does not say what stopped it: asking again for the rest
    /// ([`PageRange::after`]) does.
    Partial {
        /// Bytes done.
        bytes: u64,
    },
    /// Nothing was done: the first page is present already (`EEXIST`). Nobody was woken: a toucher
    /// that blocked before it was installed elsewhere needs a [`wake`](Userfaultfd::wake).
    AlreadyThere,
    /// Nothing was done: the process's mappings are changing, and the event that tells of it must be
    /// read first (`EAGAIN`, `mmap_changing`).
    Again,
    /// Nothing was done, and nothing can be: the process has no memory any more (`ESRCH`).
    Gone,
    /// Nothing was done: the range is not (all) registered, or no longer mapped (`ENOENT`).
    NoRegion,
}

/// Whether an install wakes those who wait for its pages.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Wake {
    /// It does.
    Now,
    /// It does not: [`Userfaultfd::wake`] follows.
    Later,
}

/// What [`Userfaultfd::write_protect`] does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Protect {
    /// Writes fault from now on.
    On,
    /// Writes go through again; blocked writers are woken or not.
    Off(Wake),
}

impl Userfaultfd {
    /// Fills absent pages of `range` with the bytes of `source`, atomically page by page.
    /// (`UFFDIO_COPY`)
    ///
    /// A poisoned page counts as absent: this is how one is healed.
    ///
    /// # Errors
    /// When `source` is not as long as `range`, or for a reason that is not one of [`Outcome`]'s.
    pub fn copy(
        &self,
        range: PageRange,
        source: &[u8],
        wake: Wake,
    ) -> Result<Outcome, OperationError> {
        if source.len() as u64 != range.len() {
            return Err(OperationError::SourceLength {
                source_len: source.len(),
                range,
            });
        }
        let mut request = Copy(raw::uffdio_copy {
            dst: range.start().get(),
            src: source.as_ptr().expose_provenance() as u64,
            len: range.len(),
            mode: dont_wake(wake, raw::UFFDIO_COPY_MODE_DONTWAKE),
            copy: 0,
        });
        self.install(OperationName::Copy, range, &mut request, |r| r.0.copy)
    }

    /// Fills absent pages of `range` with zeros. (`UFFDIO_ZEROPAGE`; not on hugetlbfs)
    ///
    /// A poisoned page counts as absent in shared memory, and as present (`AlreadyThere`) in
    /// anonymous memory (measured on 6.18): heal it with [`copy`](Self::copy).
    ///
    /// # Errors
    /// For a reason that is not one of [`Outcome`]'s.
    pub fn zeropage(&self, range: PageRange, wake: Wake) -> Result<Outcome, OperationError> {
        let mut request = Zeropage(raw::uffdio_zeropage {
            range: raw_range(range),
            mode: dont_wake(wake, raw::UFFDIO_ZEROPAGE_MODE_DONTWAKE),
            zeropage: 0,
        });
        self.install(OperationName::Zeropage, range, &mut request, |r| {
            r.0.zeropage
        })
    }

    /// Maps pages of `range` that the page cache already has: the answer to a minor fault.
    /// (`UFFDIO_CONTINUE`)
    ///
    /// # Errors
    /// For a reason that is not one of [`Outcome`]'s; `EFAULT` when the page cache has no such page.
    pub fn continue_pages(&self, range: PageRange, wake: Wake) -> Result<Outcome, OperationError> {
        let mut request = Continue(raw::uffdio_continue {
            range: raw_range(range),
            mode: dont_wake(wake, CONTINUE_MODE_DONTWAKE),
            mapped: 0,
        });
        self.install(OperationName::Continue, range, &mut request, |r| r.0.mapped)
    }

    /// Marks absent pages of `range` as poisoned: touching one is SIGBUS (`BUS_MCEERR_AR`) in user
    /// mode and in a vCPU thread, `EFAULT` in a system call. (`UFFDIO_POISON`, Linux 6.6)
    ///
    /// A page that is poisoned already counts as present ([`Outcome::AlreadyThere`]). Poison lives in
    /// the mapping, not in the file: `MADV_DONTNEED` clears it, a hole punched into the file
    /// (`MADV_REMOVE`) leaves it (measured on 6.18), [`copy`](Self::copy) overwrites it.
    ///
    /// # Errors
    /// For a reason that is not one of [`Outcome`]'s; `EINVAL` before Linux 6.6.
    pub fn poison(&self, range: PageRange, wake: Wake) -> Result<Outcome, OperationError> {
        let mut request = Poison(raw::uffdio_poison {
            range: raw_range(range),
            mode: dont_wake(wake, POISON_MODE_DONTWAKE),
            updated: 0,
        });
        self.install(OperationName::Poison, range, &mut request, |r| r.0.updated)
    }

    /// Protects pages of `range` from writes, or ends that. (`UFFDIO_WRITEPROTECT`)
    ///
    /// Never [`Outcome::Partial`] nor [`Outcome::AlreadyThere`].
    ///
    /// # Errors
    /// For a reason that is not one of [`Outcome`]'s.
    pub fn write_protect(
        &self,
        range: PageRange,
        protect: Protect,
    ) -> Result<Outcome, OperationError> {
        let mut request = WriteProtect(raw::uffdio_writeprotect {
            range: raw_range(range),
            mode: match protect {
                Protect::On => WRITEPROTECT_MODE_WP,
                Protect::Off(wake) => dont_wake(wake, WRITEPROTECT_MODE_DONTWAKE),
            },
        });
        self.install(OperationName::WriteProtect, range, &mut request, |_| 0)
    }

    /// Wakes whoever is blocked in `range`, and makes them touch their page again. (`UFFDIO_WAKE`)
    ///
    /// Needs no registration, and succeeds when nobody is blocked, or the process is gone.
    ///
    /// # Errors
    /// [`OperationError::Refused`] for a range outside of the process's address space.
    pub fn wake(&self, range: PageRange) -> Result<(), OperationError> {
        abi::call(self.as_fd(), &mut WakeRange(raw_range(range))).map_err(|errno| {
            OperationError::Refused {
                operation: OperationName::Wake,
                range,
                errno,
            }
        })
    }

    fn install<R: Request>(
        &self,
        operation: OperationName,
        range: PageRange,
        request: &mut R,
        progress: impl FnOnce(&R) -> i64,
    ) -> Result<Outcome, OperationError> {
        let answer = abi::call(self.as_fd(), request);
        decode(answer, progress(request)).map_err(|errno| OperationError::Refused {
            operation,
            range,
            errno,
        })
    }
}

// Not in linux-raw-sys: <linux/userfaultfd.h>.
const CONTINUE_MODE_DONTWAKE: u32 = 1 << 0;
const POISON_MODE_DONTWAKE: u32 = 1 << 0;
const WRITEPROTECT_MODE_WP: u64 = 1 << 0;
const WRITEPROTECT_MODE_DONTWAKE: u32 = 1 << 1;

fn dont_wake(wake: Wake, flag: u32) -> u64 {
    match wake {
        Wake::Now => 0,
        Wake::Later => u64::from(flag),
    }
}

/// What the ioctl's answer and the progress that it wrote say together.
///
/// The progress field is *signed*: bytes done, or a negative errno, or what it was (0) when the
/// kernel gave up before it came to writing it. Less than all is `EAGAIN` with the bytes done, and
/// so is a change of mappings, with none done.
fn decode(answer: Result<(), Errno>, progress: i64) -> Result<Outcome, Errno> {
    match answer {
        Ok(()) => Ok(Outcome::Done),
        Err(Errno::AGAIN) => match u64::try_from(progress) {
            Ok(0) | Err(_) => Ok(Outcome::Again),
            Ok(bytes) => Ok(Outcome::Partial { bytes }),
        },
        Err(Errno::EXIST) => Ok(Outcome::AlreadyThere),
        Err(Errno::SRCH) => Ok(Outcome::Gone),
        Err(Errno::NOENT) => Ok(Outcome::NoRegion),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_signed() {
        let again = Err(Errno::AGAIN);
        let minus_eagain = -i64::from(Errno::AGAIN.raw_os_error());
        assert_eq!(decode(again, minus_eagain), Ok(Outcome::Again));
        assert_eq!(decode(again, 0), Ok(Outcome::Again));
        assert_eq!(decode(again, 8192), Ok(Outcome::Partial { bytes: 8192 }));
        assert_eq!(decode(Ok(()), 4096), Ok(Outcome::Done));
        assert_eq!(decode(Err(Errno::INVAL), 0), Err(Errno::INVAL));
    }
}
