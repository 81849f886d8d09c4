//! The descriptor, and which ranges depend on it.
#![expect(
    unsafe_code,
    reason = "registering makes absent pages of a range depend on the holder of the descriptor"
)]

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use bitflags::bitflags;
use linux_raw_sys::general as raw;
use rustix::fs::OFlags;

use crate::abi::{self, Register, Unregister};
use crate::{Features, FromFdError, Ioctls, OperationError, OperationName, PageRange};

/// A userfaultfd: page faults of one process, and the means to end them.
///
/// All operations take `&self`: the kernel serializes what must be, and threads may install, wake
/// and read at the same time.
///
/// # Closing
/// When the last duplicate of the descriptor is closed, the kernel unregisters all ranges and wakes
/// whoever is blocked: absent pages then **read as zeros**, silently (`userfaultfd_release`). Keep
/// it open for as long as a page is absent that must not read as zeros.
///
/// # A process that is gone
/// Neither `poll` nor `read` tell that the served process has ended; only the operations do
/// ([`Outcome::Gone`](crate::Outcome::Gone)). Watch a pidfd or its socket.
#[derive(Debug)]
pub struct Userfaultfd {
    fd: OwnedFd,
    features: Option<Features>,
    serves_kernel_faults: Option<bool>,
}

bitflags! {
    /// Which faults of a range are reported.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct RegisterMode: u64 {
        /// Those on pages that are absent.
        const MISSING = raw::UFFDIO_REGISTER_MODE_MISSING as u64;
        /// Writes to pages that are protected by
        /// [`Userfaultfd::write_protect`](crate::Userfaultfd::write_protect).
        const WP = raw::UFFDIO_REGISTER_MODE_WP as u64;
        /// Those on pages that the page cache has, but this mapping has not.
        const MINOR = raw::UFFDIO_REGISTER_MODE_MINOR as u64;
    }
}

impl Userfaultfd {
    pub(crate) fn from_handshake(
        fd: OwnedFd,
        features: Features,
        serves_kernel_faults: bool,
    ) -> Userfaultfd {
        Userfaultfd {
            fd,
            features: Some(features),
            serves_kernel_faults: Some(serves_kernel_faults),
        }
    }

    /// Takes over a userfaultfd that somebody else has made, shaken hands with and registered ranges
    /// with: one received from another process, or brought by
    /// [`Event::Fork`](crate::Event::Fork). It is made non-blocking if it is not.
    ///
    /// # Errors
    /// When the descriptor is anything else, which `/proc/self/fd` says: an ioctl on some other
    /// device might do anything.
    pub fn from_fd(fd: OwnedFd) -> Result<Userfaultfd, FromFdError> {
        let link = rustix::fs::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new())
            .map_err(FromFdError::Proc)?;
        if link.to_bytes() != b"anon_inode:[userfaultfd]" {
            let what = link.to_string_lossy().into_owned();
            return Err(FromFdError::SomethingElse(what));
        }
        let flags = rustix::fs::fcntl_getfl(&fd).map_err(FromFdError::Flags)?;
        if !flags.contains(OFlags::NONBLOCK) {
            rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK).map_err(FromFdError::Flags)?;
        }
        Ok(Userfaultfd {
            fd,
            features: None,
            serves_kernel_faults: None,
        })
    }

    /// The features that are switched on; `None` for a descriptor made by somebody else (the kernel
    /// does not say).
    pub fn features(&self) -> Option<Features> {
        self.features
    }

    /// Whether faults of the kernel (a KVM guest's, those of system calls) are served; `None` for a
    /// descriptor made by somebody else.
    pub fn serves_kernel_faults(&self) -> Option<bool> {
        self.serves_kernel_faults
    }

    /// Registers `range`: from now on, whoever touches a page of it in a way that `mode` names
    /// blocks until an operation on this descriptor ends the fault. Gives the operations that the
    /// range supports. (`userfaultfd_register`)
    ///
    /// # Safety
    /// `range` lies in mappings of the served process that the caller controls. Until it is unmapped,
    /// no code relies on what its absent pages contain: what they turn out to contain is what is
    /// installed there through any userfaultfd of that process, zeros after the end of the
    /// registration, or SIGBUS (poison). References to the range as ordinary Rust memory keep that
    /// promise only over pages that are present and stay so.
    ///
    /// # Errors
    /// [`OperationError::Refused`]: not mapped, memory of an unsuitable kind, or registered with
    /// another userfaultfd (`EBUSY`).
    pub unsafe fn register(
        &self,
        range: PageRange,
        mode: RegisterMode,
    ) -> Result<Ioctls, OperationError> {
        let mut request = Register(raw::uffdio_register {
            range: raw_range(range),
            mode: mode.bits(),
            ioctls: 0,
        });
        match abi::call(&self.fd, &mut request) {
            Ok(()) => Ok(Ioctls::from_bits_retain(request.0.ioctls)),
            Err(errno) => Err(OperationError::Refused {
                operation: OperationName::Register,
                range,
                errno,
            }),
        }
    }

    /// Ends the registration of `range`, and wakes whoever is blocked in it. (`userfaultfd_unregister`)
    ///
    /// Its absent pages **read as zeros** (or as the file has them) from now on: a fault that failed
    /// must not be ended this way.
    ///
    /// # Errors
    /// [`OperationError::Refused`], with `EINVAL` where nothing is mapped.
    pub fn unregister(&self, range: PageRange) -> Result<(), OperationError> {
        abi::call(&self.fd, &mut Unregister(raw_range(range))).map_err(|errno| {
            OperationError::Refused {
                operation: OperationName::Unregister,
                range,
                errno,
            }
        })
    }
}

impl AsFd for Userfaultfd {
    /// For `poll`: readable when an event is queued. `POLLERR` means a blocking descriptor.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Userfaultfd> for OwnedFd {
    fn from(uffd: Userfaultfd) -> OwnedFd {
        uffd.fd
    }
}

pub(crate) fn raw_range(range: PageRange) -> raw::uffdio_range {
    raw::uffdio_range {
        start: range.start().get(),
        len: range.len(),
    }
}
