//! Descriptors: which processes are virtual machines, and who holds a userfaultfd.

use std::fs;
use std::path::Path;

use crate::ids::Pid;

/// What of a process's descriptors is of interest.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Descriptors {
    /// Descriptors of virtual machines.
    pub machines: u32,
    /// Descriptors of vCPUs.
    pub vcpus: u32,
    /// Userfaultfds.
    pub userfaultfds: Vec<u32>,
}

impl Descriptors {
    /// Whether the process can have page faults that matter here.
    pub fn is_of_interest(&self) -> bool {
        self.machines > 0 || !self.userfaultfds.is_empty()
    }
}

/// The descriptors of a process; `None` when it is gone or may not be looked at.
pub fn descriptors(pid: Pid) -> Option<Descriptors> {
    let mut found = Descriptors::default();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).ok()? {
        let Ok(entry) = entry else { continue };
        let Ok(target) = fs::read_link(entry.path()) else {
            continue;
        };
        match kind(&target) {
            Some(Kind::Machine) => found.machines += 1,
            Some(Kind::Vcpu) => found.vcpus += 1,
            Some(Kind::Userfaultfd) => {
                let number: Option<u32> = entry.file_name().to_str().and_then(|n| n.parse().ok());
                found.userfaultfds.extend(number);
            }
            None => {}
        }
    }
    Some(found)
}

enum Kind {
    Machine,
    Vcpu,
    Userfaultfd,
}

fn kind(target: &Path) -> Option<Kind> {
    let name = target.to_str()?.strip_prefix("anon_inode:")?;
    match name {
        "[userfaultfd]" => Some(Kind::Userfaultfd),
        "kvm-vm" => Some(Kind::Machine),
        _ if name.starts_with("kvm-vcpu") => Some(Kind::Vcpu),
        _ => None,
    }
}

/// What `/proc/PID/fdinfo/N` says of a userfaultfd.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UserfaultfdInfo {
    /// Tells userfaultfds apart, whoever holds them (Linux 5.14); `None` before that.
    pub inode: Option<u64>,
    /// Faults that nobody has read yet.
    pub pending: u64,
    /// Threads that wait, whether their fault was read or not.
    pub total: u64,
    /// Whether faults fail instead of waiting (`UFFD_FEATURE_SIGBUS`).
    pub fails: bool,
}

/// What is known of the userfaultfd that is `pid`'s descriptor `fd`; `None` when it is gone.
pub fn userfaultfd(pid: Pid, fd: u32) -> Option<UserfaultfdInfo> {
    parse(&fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).ok()?)
}

/// `UFFD_FEATURE_SIGBUS`.
const FEATURE_SIGBUS: u64 = 1 << 7;

fn parse(info: &str) -> Option<UserfaultfdInfo> {
    let number = |key: &str| -> Option<u64> {
        let value = info.lines().find_map(|line| line.strip_prefix(key))?;
        value.trim().parse().ok()
    };
    // `API: version:features:ioctls`, in hexadecimal.
    let api = info.lines().find_map(|line| line.strip_prefix("API:"));
    let features = api.and_then(|api| api.trim().split(':').nth(1));
    let features = features.and_then(|word| u64::from_str_radix(word, 16).ok());
    Some(UserfaultfdInfo {
        fails: features.is_some_and(|features| features & FEATURE_SIGBUS != 0),
        inode: number("ino:"),
        pending: number("pending:")?,
        total: number("total:")?,
    })
}

/// A descriptor of a userfaultfd, and who holds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holding {
    /// The process.
    pub pid: Pid,
    /// Its descriptor.
    pub fd: u32,
    /// What the kernel says of the userfaultfd.
    pub info: UserfaultfdInfo,
}

/// Everybody's userfaultfds, as far as we may look.
pub fn userfaultfds() -> Vec<Holding> {
    let mut holdings = Vec::new();
    for pid in super::processes().unwrap_or_default() {
        let Some(descriptors) = descriptors(pid) else {
            continue;
        };
        holdings.extend(descriptors.userfaultfds.iter().filter_map(|fd| {
            let info = userfaultfd(pid, *fd)?;
            Some(Holding { pid, fd: *fd, info })
        }));
    }
    holdings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fdinfo_is_understood() {
        let info = "pos:\t0\nflags:\t02004002\nmnt_id:\t15\nino:\t4711\n\
                    pending:\t1\ntotal:\t3\nAPI:\taa:80000080:80000000000001ff\n";
        let expected = UserfaultfdInfo {
            inode: Some(4711),
            pending: 1,
            total: 3,
            fails: true,
        };
        assert_eq!(parse(info), Some(expected));
        assert_eq!(parse("pos:\t0\n"), None);
    }

    #[test]
    fn descriptors_are_known_by_what_they_lead_to() {
        let is = |target: &str| kind(Path::new(target)).is_some();
        assert!(is("anon_inode:kvm-vm") && is("anon_inode:kvm-vcpu:0"));
        assert!(is("anon_inode:[userfaultfd]"));
        assert!(!is("anon_inode:[eventfd]") && !is("/dev/kvm") && !is("socket:[12]"));
    }
}
