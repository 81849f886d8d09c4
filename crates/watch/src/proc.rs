//! What `/proc` says of processes: read only, as little as needed, and nothing of it is trusted to
//! be there a moment later.

pub mod fds;
pub mod maps;
pub mod pagemap;
pub mod thread;

use std::fs;
use std::io;

use crate::ids::{Pid, Tid};

/// All processes there are, in no order.
///
/// # Errors
/// When `/proc` cannot be listed.
pub fn processes() -> io::Result<Vec<Pid>> {
    numbers("/proc").map(|numbers| numbers.into_iter().map(Pid::new).collect())
}

/// The threads of a process; none when it is gone.
pub fn threads(pid: Pid) -> Vec<Tid> {
    let threads = numbers(&format!("/proc/{pid}/task")).unwrap_or_default();
    threads.into_iter().map(Tid::new).collect()
}

/// The process that a thread belongs to; `None` when it is gone.
pub fn process_of(tid: Tid) -> Option<Pid> {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    let tgid = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    tgid.trim().parse().ok().map(Pid::new)
}

/// A thread's or process's name; empty when it is gone.
pub fn comm(pid: Pid, tid: Tid) -> String {
    let comm = fs::read_to_string(format!("/proc/{pid}/task/{tid}/comm"));
    comm.unwrap_or_default().trim_end().to_owned()
}

/// Whether the thread is still there.
pub fn is_alive(pid: Pid, tid: Tid) -> bool {
    thread::stat(pid, tid).is_some_and(|stat| !matches!(stat.state, 'Z' | 'X'))
}

fn numbers(directory: &str) -> io::Result<Vec<u32>> {
    let entries = fs::read_dir(directory)?;
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect())
}
