//! What a thread is doing: its state, and where in the kernel it waits.

use std::fs;

use serde::Serialize;

use crate::ids::{Pid, Tid};

/// A line of `/proc/PID/task/TID/stat`, as far as it matters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stat {
    /// The thread's name.
    pub comm: String,
    /// `R`, `S`, `D`, …
    pub state: char,
    /// Whether it is one of the kernel's own threads.
    pub is_kernel: bool,
}

/// `PF_KTHREAD`.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// What a thread waits for, when that is a page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wait {
    /// The answer of a userfaultfd's handler.
    Userfault,
    /// A page that is being read.
    PageIo,
}

/// A thread that waits for a page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Blocked {
    /// For what.
    pub wait: Wait,
    /// The kernel's function in which it waits; empty when that may not be seen.
    pub function: String,
    /// How often it has gone to sleep in its life: the same number is the same sleep.
    pub switches: u64,
}

/// State and name of a thread; `None` when it is gone.
pub fn stat(pid: Pid, tid: Tid) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).ok()?)
}

fn parse_stat(line: &str) -> Option<Stat> {
    // The name, in parentheses, may contain anything, parentheses too.
    let (head, tail) = line.rsplit_once(')')?;
    let (_, comm) = head.split_once('(')?;
    let mut fields = tail.split_whitespace();
    let state = fields.next()?.chars().next()?;
    // The flags are the 9th field, six after the state.
    let flags: u64 = fields.nth(5)?.parse().ok()?;
    Some(Stat {
        comm: comm.to_owned(),
        state,
        is_kernel: flags & KERNEL_THREAD != 0,
    })
}

/// Whether, and how, a thread that is in `state` waits for a page.
pub fn blocked(pid: Pid, tid: Tid, state: char) -> Option<Blocked> {
    if !matches!(state, 'S' | 'D') {
        return None;
    }
    let task = format!("/proc/{pid}/task/{tid}");
    let function = fs::read_to_string(format!("{task}/wchan")).unwrap_or_default();
    let function = match function.as_str() {
        "0" => String::new(),
        name => name.to_owned(),
    };
    // Of the sleeping, only those in a userfault can be of interest; of those that cannot be
    // interrupted, each.
    if state == 'S' && function != USERFAULT {
        return None;
    }
    let stack = match function.as_str() {
        USERFAULT => String::new(),
        _ => fs::read_to_string(format!("{task}/stack")).unwrap_or_default(),
    };
    let wait = wait(&function, &stack)?;
    let status = fs::read_to_string(format!("{task}/status")).ok()?;
    Some(Blocked {
        wait,
        function,
        switches: switches(&status)?,
    })
}

/// Whether a kernel thread is one that gets a page for KVM.
pub fn works_for_kvm(pid: Pid, tid: Tid) -> bool {
    let stack = fs::read_to_string(format!("/proc/{pid}/task/{tid}/stack"));
    stack.is_ok_and(|stack| stack.contains("async_pf_execute"))
}

const USERFAULT: &str = "handle_userfault";

/// Functions that are in the stack of a page fault and of nothing else that waits.
const FAULTS: [&str; 7] = [
    "handle_mm_fault",
    "filemap_fault",
    "do_swap_page",
    "faultin_page",
    "hva_to_pfn",
    "exc_page_fault",
    "do_user_addr_fault",
];

fn wait(function: &str, stack: &str) -> Option<Wait> {
    if function == USERFAULT || stack.contains(USERFAULT) {
        return Some(Wait::Userfault);
    }
    let in_fault = FAULTS.iter().any(|name| stack.contains(name));
    // Without the stack (it takes CAP_SYS_ADMIN) the place alone must do: one that is only waited
    // in for a page to be read.
    let waits_for_page = stack.is_empty() && function.starts_with("folio_wait_bit");
    (in_fault || waits_for_page).then_some(Wait::PageIo)
}

fn switches(status: &str) -> Option<u64> {
    let line = |key: &str| status.lines().find_map(|line| line.strip_prefix(key));
    line("voluntary_ctxt_switches:")?.trim().parse().ok()
}

/// The vCPU's number in a thread's name, by the habits of the VMMs: `CPU 3/KVM` (QEMU),
/// `fc_vcpu 3` (Firecracker), `vcpu3` (Cloud Hypervisor), `crosvm_vcpu3`.
pub fn vcpu_of_name(comm: &str) -> Option<u32> {
    let digits = match comm.strip_prefix("CPU ") {
        Some(rest) => rest.strip_suffix("/KVM")?,
        None => {
            let (_, rest) = comm.rsplit_once("vcpu")?;
            rest.trim_start_matches([' ', '_', '-', ':'])
        }
    };
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_understood_whatever_the_name_is() {
        let line = "12 (a) (b c)) D 1 12 12 0 -1 4194304 80 0 0";
        let stat = parse_stat(line).expect("a line");
        assert_eq!((stat.comm.as_str(), stat.state), ("a) (b c)", 'D'));
        assert!(!stat.is_kernel);
        let kernel = "9 (kworker/0:1) I 2 0 0 0 -1 69238880 0 0";
        assert!(parse_stat(kernel).expect("a line").is_kernel);
        assert_eq!(parse_stat("12 (a"), None);
    }

    #[test]
    fn waiting_for_a_page_is_told_from_other_waits() {
        assert_eq!(wait("handle_userfault", ""), Some(Wait::Userfault));
        let nested = "[<0>] schedule\n[<0>] handle_userfault+0x1/0x2\n";
        assert_eq!(wait("", nested), Some(Wait::Userfault));
        let fault = "[<0>] folio_wait_bit_common+0x1\n[<0>] filemap_fault+0x2\n";
        assert_eq!(wait("folio_wait_bit_common", fault), Some(Wait::PageIo));
        assert_eq!(wait("folio_wait_bit_common", ""), Some(Wait::PageIo));
        let sync = "[<0>] folio_wait_bit_common+0x1\n[<0>] ksys_fsync+0x2\n";
        assert_eq!(wait("folio_wait_bit_common", sync), None);
        assert_eq!(wait("jbd2_log_wait_commit", ""), None);
    }

    #[test]
    fn vcpus_are_known_by_name() {
        assert_eq!(vcpu_of_name("CPU 3/KVM"), Some(3));
        assert_eq!(vcpu_of_name("fc_vcpu 12"), Some(12));
        assert_eq!(vcpu_of_name("vcpu0"), Some(0));
        assert_eq!(vcpu_of_name("crosvm_vcpu1"), Some(1));
        for other in ["qemu-system-x86", "CPU 3/TCG", "vcpu", "cpuhp/1"] {
            assert_eq!(vcpu_of_name(other), None, "{other}");
        }
    }
}
