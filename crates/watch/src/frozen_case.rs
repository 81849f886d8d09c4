//! A case of a frozen thread, from what is seen of it.

use std::time::Duration;

use surefault_core::VcpuId;

use crate::case::Frozen;
use crate::cause::{Cause, CauseKind};
use crate::diagnose;
use crate::frozen::Waiting;
use crate::ids::{Pid, Tid};
use crate::proc::thread::{Wait, vcpu_of_name};
use crate::proc::{self, maps};
use crate::turns::WaitedFor;

/// Smaller mappings of files are libraries and the like, not guest memory.
const GUEST_MEMORY_FROM: u64 = 1 << 20;

/// A thread that waits itself: a vCPU in a synchronous fault, or any other of a machine.
pub(crate) fn thread(waiting: &Waiting) -> Frozen {
    let (pid, tid) = waiting.key;
    frozen(pid, tid, waiting, waiting.comm.clone(), None)
}

/// A vCPU on whose behalf a kernel thread waits.
pub(crate) fn vcpu(pid: Pid, page: &WaitedFor, worker: &Waiting) -> Frozen {
    let tid = page.key.thread;
    frozen(pid, tid, worker, proc::comm(pid, tid), Some(page))
}

fn frozen(pid: Pid, tid: Tid, waiting: &Waiting, comm: String, page: Option<&WaitedFor>) -> Frozen {
    let by_name = vcpu_of_name(&comm).map(VcpuId::new);
    let (path, holders, cause) = match waiting.blocked.wait {
        Wait::Userfault => {
            let handler = diagnose::handler(pid);
            (None, handler.holders, handler.cause)
        }
        Wait::PageIo => {
            let (path, cause) = page_io(pid);
            (path, Vec::new(), cause)
        }
    };
    Frozen {
        pid,
        tid,
        comm,
        vcpu: page.and_then(|page| page.vcpu).or(by_name),
        wait: waiting.blocked.wait,
        function: waiting.blocked.function.clone(),
        gfn: page.map(|page| page.key.gfn),
        gva: page.map(|page| page.gva),
        path,
        holders,
        cause,
        since: Duration::ZERO,
    }
}

/// A kernel thread that waits for a page of a machine that we do not know.
pub(crate) fn worker(worker: &Waiting, machines: impl Iterator<Item = Pid>) -> Frozen {
    let (pid, tid) = worker.key;
    let machines: Vec<String> = machines.map(|pid| pid.to_string()).collect();
    let mut case = frozen(pid, tid, worker, worker.comm.clone(), None);
    case.cause.text = format!(
        "a kernel thread waits for a page of a VM; which VM asked was before we watched, it is one \
         of the processes {}; {}",
        machines.join(", "),
        case.cause.text
    );
    case
}

/// Which page is being read cannot be seen from outside: the files behind the process's memory.
fn page_io(pid: Pid) -> (Option<String>, Cause) {
    let mut paths: Vec<String> = maps::all(pid)
        .unwrap_or_default()
        .into_iter()
        .filter(|mapping| mapping.has_file() && mapping.len() >= GUEST_MEMORY_FROM)
        .filter(|mapping| !mapping.permissions.contains('x') && !is_library(&mapping.path))
        .map(|mapping| mapping.path)
        .collect();
    paths.sort();
    paths.dedup();
    let text = match paths.len() {
        0 => "a page is being read and does not come, from swap or a file".to_owned(),
        _ => format!(
            "a page is being read and does not come, from {}",
            paths.join(" or ")
        ),
    };
    let remedy = "look for errors of the storage below (dmesg, the file system's server)";
    let path = match paths.as_slice() {
        [path] => Some(path.clone()),
        _ => None,
    };
    (path, Cause::new(CauseKind::Io, text, remedy))
}

fn is_library(path: &str) -> bool {
    path.contains(".so") || path.starts_with("/usr/")
}
