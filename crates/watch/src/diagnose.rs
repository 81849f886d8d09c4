//! From a page's address in a process to the reason why the page does not come.
//!
//! Everything is looked up from outside: the process is not stopped, traced or written to. A read
//! of the page's file is the strongest thing that is done, through a descriptor of our own, and it
//! is given up when it takes too long.

mod file;
mod userfault;

use std::time::Duration;

use surefault_core::Hva;

use crate::cause::{Cause, CauseKind};
use crate::ids::Pid;
use crate::proc::maps::{self, Mapping};
use crate::proc::pagemap::{self, Entry};

pub use userfault::{Handler, Holder, handler};

/// How long a read of the page's file may take.
const PROBE: Duration = Duration::from_millis(500);

/// What was found out about a page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnosis {
    /// The page's address in the process.
    pub hva: Option<Hva>,
    /// The memory it lies in.
    pub mapping: Option<Mapping>,
    /// The file behind that, by a path that can be opened.
    pub path: Option<String>,
    /// Where in the file the page starts, in bytes.
    pub offset: Option<u64>,
    /// Why it does not come.
    pub cause: Cause,
}

/// Finds out why the page does not come that lies at the first of `candidates` that the process
/// has mapped.
pub fn diagnose(pid: Pid, candidates: &[Hva]) -> Diagnosis {
    let mut mapped = candidates.iter().map(|hva| (*hva, maps::find(pid, *hva)));
    let found = mapped.find_map(|(hva, found)| match found {
        Ok(Some(mapping)) => Some(Ok((hva, mapping))),
        Ok(None) => None,
        Err(error) => Some(Err(error)),
    });
    let (hva, mapping) = match found {
        Some(Ok(found)) => found,
        Some(Err(error)) => return without_mapping(candidates, &error.to_string()),
        None => return not_mapped(candidates),
    };
    let path = mapping.has_file().then(|| maps::nameable(pid, &mapping));
    let path = path.flatten().map(|path| path.display().to_string());
    Diagnosis {
        hva: Some(hva),
        offset: mapping.has_file().then(|| mapping.file_offset(hva)),
        cause: cause(pid, hva, &mapping, path.as_deref()),
        path: path.or_else(|| mapping.has_file().then(|| mapping.path.clone())),
        mapping: Some(mapping),
    }
}

fn without_mapping(candidates: &[Hva], error: &str) -> Diagnosis {
    let text = format!("the process's memory may not be looked at: {error}");
    Diagnosis {
        hva: candidates.first().copied(),
        mapping: None,
        path: None,
        offset: None,
        cause: Cause::new(CauseKind::Unknown, text, "run the watcher as root"),
    }
}

fn not_mapped(candidates: &[Hva]) -> Diagnosis {
    let (kind, text) = match candidates.first() {
        Some(hva) => (
            CauseKind::NotMapped,
            format!("there is no memory at {hva} in the process"),
        ),
        None => (
            CauseKind::Unknown,
            "no attempt to get the page was seen, so its address is not known".to_owned(),
        ),
    };
    Diagnosis {
        hva: candidates.first().copied(),
        mapping: None,
        path: None,
        offset: None,
        cause: Cause::new(kind, text, "stop the VM"),
    }
}

fn cause(pid: Pid, hva: Hva, mapping: &Mapping, path: Option<&str>) -> Cause {
    let entry = pagemap::entry(pid, hva);
    match entry {
        Ok(Entry::PoisonMarker) => return poison_marker(),
        Ok(Entry::HardwarePoison) => return hardware_poison(),
        Ok(Entry::Empty | Entry::Page | Entry::Swapped | Entry::Other) | Err(_) => {}
    }
    if mapping.has_file()
        && let Some(cause) = file::cause(pid, hva, mapping, path, PROBE)
    {
        return cause;
    }
    if let Some(cause) = userfault::cause_of_loop(pid, hva) {
        return cause;
    }
    match entry {
        Ok(Entry::Swapped) => Cause::new(
            CauseKind::Swap,
            "the page is in swap, and does not come back",
            "look for errors of the swap device (dmesg), then stop the VM or swapoff the device",
        ),
        Ok(Entry::Page) => Cause::new(
            CauseKind::Access,
            format!(
                "a page is there, but not as the access needs it ({} memory; a write to it fails?)",
                mapping.permissions
            ),
            "look at what the memory can be written from: copy-on-write needs memory of its own",
        ),
        Ok(_) | Err(_) => Cause::new(
            CauseKind::Unknown,
            "the host gives no page, and nothing that can be seen from outside says why (a limit \
             of the memory cgroup?)",
            "look into dmesg and the memory cgroup of the process; stop the VM",
        ),
    }
}

fn poison_marker() -> Cause {
    Cause::new(
        CauseKind::Poisoned,
        "the page was declared lost by UFFDIO_POISON",
        "put the page back through its userfaultfd (UFFDIO_COPY), or stop the VM",
    )
}

fn hardware_poison() -> Cause {
    Cause::new(
        CauseKind::Poisoned,
        "the hardware has lost the page (memory failure)",
        "stop the VM; replace the memory",
    )
}
