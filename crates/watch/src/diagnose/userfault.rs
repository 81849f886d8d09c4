//! Userfaultfds: whose answer is waited for.
//!
//! What can be established from outside: who holds which userfaultfd (descriptors lead to inodes
//! of their own since Linux 5.14), how many faults of it were not read, or read and not answered.
//! What cannot: whose memory it watches. So a process that still holds its own, as Firecracker and
//! every in-process handler do, is told exactly; for one that has handed it away, all those with
//! unanswered faults are named.

use serde::Serialize;
use surefault_core::Hva;

use crate::cause::{Cause, CauseKind};
use crate::ids::{Pid, Tid};
use crate::proc::fds::{self, Holding};
use crate::proc::{maps, thread};

/// A process that holds a userfaultfd.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Holder {
    /// The process.
    pub pid: Pid,
    /// Its name.
    pub comm: String,
    /// Its state, as in `/proc/PID/stat`: `S` asleep, `T` stopped, …
    pub state: char,
    /// Its descriptor.
    pub fd: u32,
}

/// Who could answer a process's userfaults, and why nobody does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Handler {
    /// Who holds the userfaultfd, the process itself included.
    pub holders: Vec<Holder>,
    /// Why no answer comes.
    pub cause: Cause,
}

/// Who could answer the userfaults of `pid`, whose threads wait for an answer.
pub fn handler(pid: Pid) -> Handler {
    let holdings = fds::userfaultfds();
    let waited_for = |holding: &&Holding| holding.info.total > 0;
    let own: Vec<Option<u64>> = holdings
        .iter()
        .filter(|holding| holding.pid == pid)
        .filter(waited_for)
        .map(|holding| holding.info.inode)
        .collect();
    let relevant: Vec<&Holding> = match own.is_empty() {
        false => holdings
            .iter()
            .filter(|holding| match holding.info.inode {
                Some(inode) => own.contains(&Some(inode)),
                None => holding.pid == pid,
            })
            .collect(),
        true => holdings.iter().filter(waited_for).collect(),
    };
    let holders: Vec<Holder> = relevant.iter().copied().filter_map(holder).collect();
    let total = relevant.iter().map(|h| h.info.total).max().unwrap_or(0);
    let pending = relevant.iter().map(|h| h.info.pending).max().unwrap_or(0);
    let cause = explain(
        pid,
        &holders,
        !own.is_empty(),
        Unanswered { total, pending },
    );
    Handler { holders, cause }
}

#[derive(Clone, Copy)]
struct Unanswered {
    total: u64,
    pending: u64,
}

fn explain(pid: Pid, holders: &[Holder], holds_own: bool, faults: Unanswered) -> Cause {
    let others = names(holders.iter().filter(|holder| holder.pid != pid));
    let faults = format!(
        "faults that wait for an answer: {}, of which never read: {}",
        faults.total, faults.pending
    );
    if others.is_empty() && holds_own {
        return Cause::new(
            CauseKind::HandlerGone,
            format!(
                "the userfaultfd is held by nobody but process {pid} itself: its handler is gone, \
                 or is a thread of its own that does not answer ({faults})"
            ),
            "restart the handler if it can take over the userfaultfd; else stop the VM",
        );
    }
    if holds_own {
        return Cause::new(
            CauseKind::HandlerSilent,
            format!("the userfaultfd is held by {others}, without an answer ({faults})"),
            format!("look at what it is doing, or restart it: {others}; else stop the VM"),
        );
    }
    match others.is_empty() {
        true => Cause::new(
            CauseKind::Unknown,
            "the process waits for a userfaultfd, and no holder of one can be seen",
            "run the watcher as root, in the host's pid namespace",
        ),
        false => Cause::new(
            CauseKind::HandlerSilent,
            format!(
                "the process waits for a userfaultfd that it has handed away; those with unanswered \
                 faults are held by {others} ({faults})"
            ),
            format!("look at what it is doing, or restart it: {others}; else stop the VM"),
        ),
    }
}

impl Holder {
    fn describe(&self) -> String {
        let state = match self.state {
            'T' | 't' => ", stopped",
            'Z' => ", dead",
            'D' => ", blocked itself",
            _ => "",
        };
        format!("process {} ({}{state})", self.pid, self.comm)
    }
}

fn holder(holding: &Holding) -> Option<Holder> {
    let stat = thread::stat(holding.pid, Tid::new(holding.pid.get()))?;
    Some(Holder {
        pid: holding.pid,
        comm: stat.comm,
        state: stat.state,
        fd: holding.fd,
    })
}

/// Why a page is asked for for ever although a userfaultfd watches it; `None` when none does.
pub(super) fn cause_of_loop(pid: Pid, hva: Hva) -> Option<Cause> {
    // Cheap first: where nobody has a userfaultfd, nothing is watched.
    let holdings = fds::userfaultfds();
    if holdings.is_empty() {
        return None;
    }
    let watched = maps::watched_by_userfaultfd(pid).ok()?;
    watched.iter().find(|mapping| mapping.contains(hva))?;
    let own: Vec<&Holding> = holdings.iter().filter(|h| h.pid == pid).collect();
    let relevant = match own.is_empty() {
        true => holdings.iter().collect(),
        false => own,
    };
    let fails = relevant.iter().any(|holding| holding.info.fails);
    let holders = names(
        relevant
            .into_iter()
            .filter_map(holder)
            .collect::<Vec<_>>()
            .iter(),
    );
    Some(match fails {
        true => Cause::new(
            CauseKind::Userfaultfd,
            format!(
                "the page is missing, and the userfaultfd that watches it lets the access fail \
                 instead of waiting (UFFD_FEATURE_SIGBUS); it is held by {holders}"
            ),
            "provide the page through the userfaultfd, or stop the VM",
        ),
        false => Cause::new(
            CauseKind::Unknown,
            format!(
                "the page is missing although a userfaultfd watches it: its handler wakes without \
                 a page, or the page is dropped as soon as it is there; userfaultfds are held by \
                 {holders}"
            ),
            "look at what the handler does with this page; stop the VM",
        ),
    })
}

/// Each process once.
fn names<'a>(holders: impl Iterator<Item = &'a Holder>) -> String {
    let mut names: Vec<String> = Vec::new();
    for name in holders.map(Holder::describe) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(pid: u32, state: char) -> Holder {
        Holder {
            pid: Pid::new(pid),
            comm: "pager".into(),
            state,
            fd: 3,
        }
    }

    const FAULTS: Unanswered = Unanswered {
        total: 2,
        pending: 1,
    };

    #[test]
    fn a_handler_that_is_gone_is_told_from_one_that_is_silent() {
        let vm = Pid::new(10);
        let gone = explain(vm, &[holder(10, 'S')], true, FAULTS);
        assert_eq!(gone.kind, CauseKind::HandlerGone);
        let silent = explain(vm, &[holder(10, 'S'), holder(11, 'T')], true, FAULTS);
        assert_eq!(silent.kind, CauseKind::HandlerSilent);
        assert!(
            silent.text.contains("process 11 (pager, stopped)"),
            "{}",
            silent.text
        );
        let away = explain(vm, &[holder(11, 'S')], false, FAULTS);
        assert_eq!(away.kind, CauseKind::HandlerSilent);
        assert!(away.text.contains("handed away"), "{}", away.text);
        let hidden = explain(vm, &[], false, FAULTS);
        assert_eq!(hidden.kind, CauseKind::Unknown);
    }
}
