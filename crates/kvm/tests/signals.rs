//! A SIGBUS that is not about a guest's page goes to whoever was there first. In a process of its
//! own, since handlers are the process's.
#![expect(unsafe_code, reason = "installs and raises signals")]

use core::ffi::c_int;
use core::sync::atomic::{AtomicU32, Ordering};

use surefault_kvm::signals;

static SEEN: AtomicU32 = AtomicU32::new(0);

extern "C" fn on_sigbus(_: c_int) {
    SEEN.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn a_foreign_sigbus_is_passed_on_and_a_foreign_kick_ignored() {
    let handler = on_sigbus as *const () as usize;
    // SAFETY: the handler only counts.
    unsafe { libc::signal(libc::SIGBUS, handler) };
    signals::install().unwrap();
    // A second call must not take our own handler for the previous one.
    signals::install().unwrap();
    // SAFETY: raising a signal that has a handler.
    unsafe { libc::raise(libc::SIGBUS) };
    assert_eq!(SEEN.load(Ordering::Relaxed), 1);
    // SAFETY: as above.
    unsafe { libc::raise(libc::SIGRTMIN() + 2) };
    assert_eq!(SEEN.load(Ordering::Relaxed), 1);
}
