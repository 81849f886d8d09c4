//! A way to get a thread out of `poll`, and the time that it may stay there.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, Timespec, eventfd};

/// An eventfd: readable once it was woken, until it is cleared.
#[derive(Debug)]
pub(crate) struct Wakeup(OwnedFd);

impl Wakeup {
    /// One that was not woken yet.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub(crate) fn new() -> io::Result<Wakeup> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Wakeup(eventfd(0, flags)?))
    }

    /// Wakes who polls it, now or later. To be called in signal handlers, too.
    pub(crate) fn wake(&self) {
        // It can only fail when the counter is at its limit, and then it is readable.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Makes it unreadable; says whether it had been woken.
    pub(crate) fn clear(&self) -> bool {
        rustix::io::read(&self.0, &mut [0; 8]).is_ok()
    }
}

impl AsFd for Wakeup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// So long, in the words of `poll`.
pub(crate) fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: duration.as_secs() as i64,
        tv_nsec: duration.subsec_nanos().into(),
    }
}
