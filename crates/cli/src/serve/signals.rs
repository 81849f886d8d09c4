//! SIGTERM and SIGINT: the first drains, the second stops.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use surefault_serve::Daemon;

use crate::exit::Failure;
use crate::signals::handle_ends;

static DAEMON: OnceLock<Daemon> = OnceLock::new();
static SIGNALS: AtomicU32 = AtomicU32::new(0);

extern "C" fn on_signal(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // Both only store and write to an eventfd.
    match (DAEMON.get(), SIGNALS.fetch_add(1, Ordering::Relaxed)) {
        (Some(daemon), 0) => daemon.drain(),
        (Some(daemon), _) => daemon.stop(),
        (None, _) => {}
    }
}

/// From now on those signals end the daemon in good order.
pub(super) fn handle(daemon: &Daemon) -> Result<(), Failure> {
    DAEMON.get_or_init(|| daemon.clone());
    handle_ends(on_signal)
}

/// Whether there were so many that the daemon did not wait for its VMs.
pub(super) fn stopped() -> bool {
    SIGNALS.load(Ordering::Relaxed) > 1
}
