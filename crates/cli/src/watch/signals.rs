//! SIGINT and SIGTERM end the watch in good order: the trace is removed.

use std::sync::atomic::{AtomicBool, Ordering};

use vmm_sys_util::signal::register_signal_handler;

use crate::exit::{Exit, Failure};

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn stop(_signal: libc::c_int, _info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    STOP.store(true, Ordering::Relaxed);
}

/// From now on those signals do not end the process; the answer says whether one has come.
pub(super) fn stop_on_signals() -> Result<impl Fn() -> bool, Failure> {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        register_signal_handler(signal, stop).map_err(|error| {
            let error = anyhow::anyhow!("handle signal {signal}: {error}");
            Failure::new(Exit::Unexpected, error)
        })?;
    }
    Ok(|| STOP.load(Ordering::Relaxed))
}
