//! SIGINT and SIGTERM end a command in good order: nothing of it is left behind.

use std::sync::atomic::{AtomicBool, Ordering};

use vmm_sys_util::signal::{SignalHandler, register_signal_handler};

use crate::exit::{Exit, Failure};

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn stop(_signal: libc::c_int, _info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    STOP.store(true, Ordering::Relaxed);
}

/// From now on those signals do not end the process; [`is_stopped`] says whether one has come.
pub(crate) fn stop_on_signals() -> Result<(), Failure> {
    handle_ends(stop)
}

/// From now on those signals come to `handler`, which may do what a signal handler may.
pub(crate) fn handle_ends(handler: SignalHandler) -> Result<(), Failure> {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        register_signal_handler(signal, handler).map_err(|error| {
            let error = anyhow::anyhow!("handle signal {signal}: {error}");
            Failure::new(Exit::Unexpected, error)
        })?;
    }
    Ok(())
}

/// Whether one of them has come.
pub(crate) fn is_stopped() -> bool {
    STOP.load(Ordering::Relaxed)
}
