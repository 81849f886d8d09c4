//! What can be watched on this host, with these privileges.

use std::fs;

use surefault_trace::{Session, SessionOptions, TraceError};

use crate::error::{Lack, WatchError, chain};
use crate::events::EVENTS;
use crate::ids::Pid;
use crate::rates::Rates;

/// The inode of the initial pid namespace (`PROC_PID_INIT_INO`).
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

const AS_ROOT: &str = "run as root, or with CAP_SYS_ADMIN";

/// Opens the trace, as far as it can be had.
pub(crate) fn trace(buffer_kib: u32) -> Result<Session, Lack> {
    let lack = |reason: String, remedy| Lack {
        part: "finding stuck VMs (tracing)",
        reason,
        remedy,
    };
    if !in_initial_pid_namespace() {
        return Err(lack(
            "the trace names threads as the host does, and this is a pid namespace of its own"
                .to_owned(),
            "run on the host, or in a container with the host's pid namespace",
        ));
    }
    Session::open(&EVENTS, SessionOptions { buffer_kib }).map_err(|error| {
        let remedy = match &error {
            _ if error.is_permission() => AS_ROOT,
            TraceError::NoEvent { .. } => "load the kvm module",
            TraceError::Mount { .. } => "use a kernel with CONFIG_FTRACE",
            _ => "look at tracefs by hand",
        };
        lack(chain(&error), remedy)
    })
}

/// Whether our pids are those of the trace; assumed when it cannot be told.
fn in_initial_pid_namespace() -> bool {
    match fs::read_link("/proc/self/ns/pid") {
        Ok(namespace) => namespace.as_os_str() == INITIAL_PID_NAMESPACE,
        Err(_) => true,
    }
}

/// What lacks for looking at processes: all of them, or one.
pub(crate) fn processes(pid: Option<Pid>) -> Result<Option<Lack>, WatchError> {
    let part = "finding frozen VMs (/proc)";
    let lack = |reason: &str| {
        Some(Lack {
            part,
            reason: reason.to_owned(),
            remedy: AS_ROOT,
        })
    };
    if let Some(pid) = pid {
        if fs::metadata(format!("/proc/{pid}")).is_err() {
            return Err(WatchError::NoProcess { pid });
        }
        return Ok(match fs::read_dir(format!("/proc/{pid}/fd")) {
            Ok(_) => None,
            Err(_) => lack("that process may not be looked at"),
        });
    }
    Ok(
        match (
            rustix::process::geteuid().is_root(),
            fs::read_dir("/proc/1/fd"),
        ) {
            (true, _) | (_, Ok(_)) => None,
            (false, Err(_)) => lack("only processes of this user may be looked at"),
        },
    )
}

/// What lacks for KVM's own rates.
pub(crate) fn rates(rates: &Rates) -> Option<Lack> {
    rates.missing().map(|reason| Lack {
        part: "KVM's fault rates (debugfs)",
        reason,
        remedy: AS_ROOT,
    })
}
