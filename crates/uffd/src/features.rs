//! What a kernel's userfaultfd can do.

use core::fmt;

use bitflags::bitflags;
use linux_raw_sys::general as raw;

bitflags! {
    /// Features that `UFFDIO_API` negotiates.
    ///
    /// Bits that a newer kernel has and this list has not are kept.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Features: u64 {
        /// Faults of write protection are reported ([`FaultFlags::WP`](crate::FaultFlags::WP)).
        const PAGEFAULT_FLAG_WP = raw::UFFD_FEATURE_PAGEFAULT_FLAG_WP as u64;
        /// [`Event::Fork`](crate::Event::Fork); needs `CAP_SYS_PTRACE`.
        const EVENT_FORK = raw::UFFD_FEATURE_EVENT_FORK as u64;
        /// [`Event::Remap`](crate::Event::Remap).
        const EVENT_REMAP = raw::UFFD_FEATURE_EVENT_REMAP as u64;
        /// [`Event::Remove`](crate::Event::Remove).
        const EVENT_REMOVE = raw::UFFD_FEATURE_EVENT_REMOVE as u64;
        /// Missing pages of hugetlbfs.
        const MISSING_HUGETLBFS = raw::UFFD_FEATURE_MISSING_HUGETLBFS as u64;
        /// Missing pages of shared memory (memfd, tmpfs).
        const MISSING_SHMEM = raw::UFFD_FEATURE_MISSING_SHMEM as u64;
        /// [`Event::Unmap`](crate::Event::Unmap).
        const EVENT_UNMAP = raw::UFFD_FEATURE_EVENT_UNMAP as u64;
        /// No events for faults: the toucher gets SIGBUS at once.
        const SIGBUS = raw::UFFD_FEATURE_SIGBUS as u64;
        /// Faults name the thread ([`Pagefault::thread`](crate::Pagefault::thread)).
        const THREAD_ID = raw::UFFD_FEATURE_THREAD_ID as u64;
        /// Minor faults of hugetlbfs.
        const MINOR_HUGETLBFS = raw::UFFD_FEATURE_MINOR_HUGETLBFS as u64;
        /// Minor faults of shared memory.
        const MINOR_SHMEM = raw::UFFD_FEATURE_MINOR_SHMEM as u64;
        /// Faults name the byte that was touched, not its page.
        const EXACT_ADDRESS = raw::UFFD_FEATURE_EXACT_ADDRESS as u64;
        /// Write protection on hugetlbfs and shared memory.
        const WP_HUGETLBFS_SHMEM = raw::UFFD_FEATURE_WP_HUGETLBFS_SHMEM as u64;
        /// Write protection of absent pages, too, on anonymous memory.
        const WP_UNPOPULATED = raw::UFFD_FEATURE_WP_UNPOPULATED as u64;
        /// [`Userfaultfd::poison`](crate::Userfaultfd::poison), since 6.6. On 6.18 it works without
        /// being negotiated.
        const POISON = raw::UFFD_FEATURE_POISON as u64;
        /// Write protection without events: the kernel itself ends it at the first write.
        const WP_ASYNC = raw::UFFD_FEATURE_WP_ASYNC as u64;
        /// `UFFDIO_MOVE`, since 6.8.
        const MOVE = raw::UFFD_FEATURE_MOVE as u64;

        const _ = !0;
    }
}

bitflags! {
    /// Operations that a registered range supports, one bit for each ioctl.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Ioctls: u64 {
        /// [`Userfaultfd::wake`](crate::Userfaultfd::wake).
        const WAKE = 1 << raw::_UFFDIO_WAKE;
        /// [`Userfaultfd::copy`](crate::Userfaultfd::copy).
        const COPY = 1 << raw::_UFFDIO_COPY;
        /// [`Userfaultfd::zeropage`](crate::Userfaultfd::zeropage).
        const ZEROPAGE = 1 << raw::_UFFDIO_ZEROPAGE;
        /// `UFFDIO_MOVE`.
        const MOVE = 1 << raw::_UFFDIO_MOVE;
        /// [`Userfaultfd::write_protect`](crate::Userfaultfd::write_protect).
        const WRITEPROTECT = 1 << raw::_UFFDIO_WRITEPROTECT;
        /// [`Userfaultfd::continue_pages`](crate::Userfaultfd::continue_pages).
        const CONTINUE = 1 << raw::_UFFDIO_CONTINUE;
        /// [`Userfaultfd::poison`](crate::Userfaultfd::poison).
        const POISON = 1 << raw::_UFFDIO_POISON;

        const _ = !0;
    }
}

macro_rules! display_names {
    ($($name:ident)*) => {
        $(
            impl fmt::Display for $name {
                /// The names, as in `THREAD_ID | POISON`, and the unknown rest in hexadecimal.
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    if self.is_empty() {
                        return f.write_str("none");
                    }
                    bitflags::parser::to_writer(self, f)
                }
            }
        )*
    };
}

display_names! { Features Ioctls }

#[cfg(test)]
mod tests {
    use bitflags::Flags as _;

    use super::*;

    #[test]
    fn names_are_printed_and_unknown_bits_kept() {
        let features = Features::THREAD_ID | Features::from_bits_retain(1 << 18);
        assert_eq!(features.to_string(), "THREAD_ID | 0x40000");
        assert_eq!(Features::empty().to_string(), "none");
    }

    #[test]
    fn a_6_18_kernel_has_everything_named_here() {
        let named = Features::FLAGS
            .iter()
            .filter(|flag| flag.is_named())
            .fold(0, |bits, flag| bits | flag.value().bits());
        assert_eq!(named, 0x1_ffff);
    }
}
