//! The kernel's numbers and layouts (`include/uapi/linux/userfaultfd.h`), checked at compile time,
//! and the only place in this crate that calls `ioctl`.
#![expect(
    unsafe_code,
    reason = "ioctl: each request type carries the number that belongs to its layout"
)]

use core::mem::{offset_of, size_of};
use std::os::fd::{AsFd, FromRawFd as _, OwnedFd, RawFd};

use linux_raw_sys::general as raw;
use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};

/// The ioctl group of userfaultfd, `UFFDIO`.
const GROUP: u8 = raw::UFFDIO as u8;

/// A structure that one ioctl of a userfaultfd takes, and that it may write to.
///
/// # Safety
/// `OPCODE` is the userfaultfd ioctl that takes exactly this layout, and the ioctl touches no memory
/// of this process but the structure, what [`Request`]'s implementor says it reads, and absent pages
/// of registered ranges.
pub(crate) unsafe trait Request {
    /// The ioctl's number.
    const OPCODE: Opcode;
}

macro_rules! request {
    ($($(#[$doc:meta])* $name:ident($raw:ident) = $direction:ident $number:ident, $literal:literal;)*) => {
        $(
            $(#[$doc])*
            #[repr(transparent)]
            pub(crate) struct $name(pub(crate) raw::$raw);

            const _: () = assert!($name::OPCODE == $literal);

            // SAFETY: number and layout stand together in the kernel's header; the literal, from
            // the header's macros, holds both the number and the size.
            unsafe impl Request for $name {
                const OPCODE: Opcode =
                    opcode::$direction::<raw::$raw>(GROUP, raw::$number as u8);
            }
        )*
    };
}

request! {
    /// The handshake.
    Api(uffdio_api) = read_write _UFFDIO_API, 0xc018_aa3f;
    /// Makes absent pages of a range depend on the descriptor.
    Register(uffdio_register) = read_write _UFFDIO_REGISTER, 0xc020_aa00;
    /// Ends that.
    Unregister(uffdio_range) = read _UFFDIO_UNREGISTER, 0x8010_aa01;
    /// Wakes those blocked in a range.
    WakeRange(uffdio_range) = read _UFFDIO_WAKE, 0x8010_aa02;
    /// Installs copies of pages; reads `len` bytes from `src`.
    Copy(uffdio_copy) = read_write _UFFDIO_COPY, 0xc028_aa03;
    /// Installs zero pages.
    Zeropage(uffdio_zeropage) = read_write _UFFDIO_ZEROPAGE, 0xc020_aa04;
    /// Protects pages from writes, or ends that.
    WriteProtect(uffdio_writeprotect) = read_write _UFFDIO_WRITEPROTECT, 0xc018_aa06;
    /// Maps pages that the page cache already has.
    Continue(uffdio_continue) = read_write _UFFDIO_CONTINUE, 0xc020_aa07;
    /// Marks absent pages as poisoned (not in linux-raw-sys as a number).
    Poison(uffdio_poison) = read_write _UFFDIO_POISON, 0xc020_aa08;
}

// Not used, and unsafe to use (it makes *present* pages absent); here because the kernel has it.
const _: () =
    assert!(opcode::read_write::<raw::uffdio_move>(GROUP, raw::_UFFDIO_MOVE as u8) == 0xc028_aa05);

const _: () = {
    assert!(size_of::<raw::uffdio_api>() == 24);
    assert!(size_of::<raw::uffdio_range>() == 16);
    assert!(size_of::<raw::uffdio_register>() == 32);
    assert!(size_of::<raw::uffdio_copy>() == 40);
    assert!(size_of::<raw::uffdio_zeropage>() == 32);
    assert!(size_of::<raw::uffdio_writeprotect>() == 24);
    assert!(size_of::<raw::uffdio_continue>() == 32);
    assert!(size_of::<raw::uffdio_poison>() == 32);
    assert!(size_of::<raw::uffdio_move>() == 40);
    // What `event` decodes from bytes.
    assert!(size_of::<raw::uffd_msg>() == MESSAGE_LEN);
    assert!(offset_of!(raw::uffd_msg, arg) == MESSAGE_ARGUMENT);
};

/// Bytes in one message read from a userfaultfd (`struct uffd_msg`, packed in the kernel).
pub(crate) const MESSAGE_LEN: usize = 32;
/// Where the event's own part begins in a message.
pub(crate) const MESSAGE_ARGUMENT: usize = 8;

/// Calls the ioctl of `request` and leaves what the kernel wrote in it, on failure too.
pub(crate) fn call<R: Request>(fd: impl AsFd, request: &mut R) -> Result<(), Errno> {
    // Not rustix's `Updater`: it takes the number as a const parameter, which a trait's constant
    // cannot be.
    struct Call<'a, R>(&'a mut R);

    // SAFETY: `Request` vouches for number, layout and effects.
    unsafe impl<R: Request> Ioctl for Call<'_, R> {
        type Output = ();
        const IS_MUTATING: bool = true;

        fn opcode(&self) -> Opcode {
            R::OPCODE
        }

        fn as_ptr(&mut self) -> *mut core::ffi::c_void {
            core::ptr::from_mut(self.0).cast()
        }

        unsafe fn output_from_ptr(
            _: IoctlOutput,
            _: *mut core::ffi::c_void,
        ) -> rustix::io::Result<()> {
            Ok(())
        }
    }

    // SAFETY: the descriptor is a userfaultfd (`Userfaultfd` is made from nothing else), so the
    // number means what `Request` says.
    unsafe { ioctl(fd, Call(request)) }
}

/// `USERFAULTFD_IOC_NEW` on `/dev/userfaultfd`: `_IO(0xAA, 0x00)`, flags by value.
struct NewFromDevice {
    flags: u32,
}

const USERFAULTFD_IOC_NEW: Opcode = opcode::none(raw::USERFAULTFD_IOC as u8, 0);
const _: () = assert!(USERFAULTFD_IOC_NEW == 0xaa00);

// SAFETY: the ioctl takes an integer and returns a new descriptor; it touches no memory.
unsafe impl Ioctl for NewFromDevice {
    type Output = OwnedFd;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        USERFAULTFD_IOC_NEW
    }

    fn as_ptr(&mut self) -> *mut core::ffi::c_void {
        core::ptr::without_provenance_mut(self.flags as usize)
    }

    unsafe fn output_from_ptr(
        out: IoctlOutput,
        _: *mut core::ffi::c_void,
    ) -> rustix::io::Result<OwnedFd> {
        // SAFETY: the ioctl succeeded, so this is a descriptor that nobody else knows of.
        Ok(unsafe { OwnedFd::from_raw_fd(out) })
    }
}

/// A new userfaultfd from an open `/dev/userfaultfd`.
pub(crate) fn new_from_device(device: impl AsFd, flags: u32) -> Result<OwnedFd, Errno> {
    // SAFETY: on any descriptor that is not the device this number is refused (ENOTTY).
    unsafe { ioctl(device, NewFromDevice { flags }) }
}

/// A new userfaultfd from the system call.
pub(crate) fn new_from_syscall(flags: u32) -> Result<OwnedFd, Errno> {
    let flags = rustix::mm::UserfaultfdFlags::from_bits_retain(flags);
    // SAFETY: the call itself touches no memory; what the descriptor may do, `Userfaultfd` limits.
    unsafe { rustix::mm::userfaultfd(flags) }
}

/// Takes over a descriptor that a message brought.
///
/// # Safety
/// The kernel has just put `fd` into this process's table on behalf of that message, and this is
/// the only time it is taken.
pub(crate) unsafe fn take_fd(fd: RawFd) -> OwnedFd {
    // SAFETY: by the caller's promise it is open and ours.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
