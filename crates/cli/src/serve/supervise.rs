//! The supervisor: the process that a user starts. It serves nothing.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use surefault_serve::{Supervisor, SupervisorConfig};
use vmm_sys_util::signal::register_signal_handler;

use super::args::Settings;
use crate::exit::{Exit, Failure};

/// A worker that shows no sign of life for this long is killed.
const SILENCE: Duration = Duration::from_secs(10);

/// Where the numbers of signals go.
static SIGNALS: OnceLock<OwnedFd> = OnceLock::new();

extern "C" fn pass_on(signal: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    if let (Some(pipe), Ok(number)) = (SIGNALS.get(), u8::try_from(signal)) {
        // A full pipe has more signals than anybody sends.
        let _ = rustix::io::write(pipe, &[number]);
    }
}

/// The flag of a process that stands by.
const STAND_BY: &str = "--stand-by";

/// Starts workers, one after the other, until one says that everything is over. If it stands by, it
/// waits for another supervisor's death before.
pub(super) fn supervise(settings: &Settings, stands_by: bool) -> Result<Exit, Failure> {
    let unexpected = |error: std::io::Error| Failure::new(Exit::Unexpected, error);
    let own = std::env::args_os().skip(1);
    let own: Vec<OsString> = own.filter(|argument| argument != STAND_BY).collect();
    let with = |role: &str| [&own[..], &[role.into()]].concat();
    let config = SupervisorConfig {
        binary: std::env::current_exe().map_err(unexpected)?,
        arguments: with("--supervised"),
        standby_arguments: Some(with(STAND_BY)),
        deadline: settings.config().pager.residency.deadline,
        silence: settings.worker_silence.unwrap_or(SILENCE),
    };
    let log = |line: &str| eprintln!("surefault: supervisor: {line}");
    let supervisor = match stands_by {
        false => Supervisor::new(config, log),
        true => match Supervisor::stand_by(config, log).map_err(unexpected)? {
            Some(supervisor) => supervisor,
            None => return Ok(Exit::Ran),
        },
    };
    let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
    let (reader, writer) = pipe_with(flags).map_err(|errno| unexpected(errno.into()))?;
    if SIGNALS.set(writer).is_err() {
        unreachable!("one supervisor in a process");
    }
    for signal in [libc::SIGINT, libc::SIGTERM] {
        register_signal_handler(signal, pass_on).map_err(|error| {
            let error = anyhow::anyhow!("handle signal {signal}: {error}");
            Failure::new(Exit::Unexpected, error)
        })?;
    }
    let code = supervisor.run(&reader).map_err(unexpected)?;
    Ok(Exit::from_code(code))
}
