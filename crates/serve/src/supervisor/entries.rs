//! What is kept for the next worker: descriptors, and what they belong to.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use surefault_core::{Hva, PageCount, PageSize};
use surefault_pager::{FailedPage, ServedRegion};

/// What descriptors belong to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(crate) enum Record {
    /// A socket that VMs connect to. One descriptor.
    Listener {
        /// Its name.
        socket: PathBuf,
        /// What its VMs are served from, in the words of the control socket.
        store: String,
    },
    /// The control socket. One descriptor.
    Control {
        /// Its name.
        socket: PathBuf,
    },
    /// A connection whose handshake is not over. One descriptor.
    Connection {
        /// The socket that it came from.
        socket: PathBuf,
        /// What it is served from.
        store: String,
        /// The number of the VM that it may become.
        id: u64,
        /// What becomes of it when nobody serves it.
        rule: LastRule,
    },
    /// A VM. Its userfaultfd, its connection, its records, and its pidfd if there is one.
    Vm(VmEntry),
}

/// A VM, as its next worker must know it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct VmEntry {
    pub(crate) id: u64,
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    pub(crate) socket: PathBuf,
    pub(crate) store: String,
    pub(crate) rule: LastRule,
    pub(crate) regions: Vec<RegionEntry>,
    /// When it shook hands, since the epoch.
    pub(crate) started_ns: u64,
}

/// What becomes of a page that nobody can provide.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LastRule {
    Poison,
    Kill,
    Wait,
}

impl From<FailedPage> for LastRule {
    fn from(failed_page: FailedPage) -> LastRule {
        match failed_page {
            // Where the kernel has no poison, its refusal makes it a kill.
            FailedPage::Auto | FailedPage::Poison | FailedPage::Protect => LastRule::Poison,
            FailedPage::Kill => LastRule::Kill,
            FailedPage::Wait => LastRule::Wait,
        }
    }
}

/// A region, in numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct RegionEntry {
    start: u64,
    pages: u64,
    page_size: u64,
    offset: u64,
}

impl From<&ServedRegion> for RegionEntry {
    fn from(region: &ServedRegion) -> RegionEntry {
        RegionEntry {
            start: region.start.get(),
            pages: region.pages.get(),
            page_size: region.page_size.bytes(),
            offset: region.store_offset,
        }
    }
}

impl Record {
    /// By what name it is kept. A VM takes the place of the connection that it came by.
    pub(crate) fn key(&self) -> String {
        match self {
            Record::Listener { socket, .. } => listener_key(socket),
            Record::Control { .. } => "control".to_owned(),
            Record::Connection { id, .. } | Record::Vm(VmEntry { id, .. }) => vm_key(*id),
        }
    }
}

/// By what name a socket that VMs connect to is kept.
pub(crate) fn listener_key(socket: &Path) -> String {
    format!("listener {}", socket.display())
}

/// By what name a VM is kept.
pub(crate) fn vm_key(id: u64) -> String {
    format!("vm {id}")
}

impl VmEntry {
    /// Its regions; `None` when they are none.
    pub(crate) fn served_regions(&self) -> Option<Vec<ServedRegion>> {
        let region = |entry: &RegionEntry| {
            Some(ServedRegion {
                start: Hva::new(entry.start),
                pages: PageCount::new(entry.pages),
                page_size: PageSize::new(entry.page_size)?,
                store_offset: entry.offset,
            })
        };
        self.regions.iter().map(region).collect()
    }

    /// When it shook hands, by the clock of this process.
    pub(crate) fn started(&self) -> Instant {
        let age = now_ns().saturating_sub(self.started_ns);
        let now = Instant::now();
        now.checked_sub(Duration::from_nanos(age)).unwrap_or(now)
    }
}

/// Nanoseconds since the epoch.
pub(crate) fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}

/// Descriptors that are kept, and what they belong to.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) record: Record,
    pub(crate) fds: Vec<OwnedFd>,
}

impl Entry {
    /// Its descriptors, to be sent.
    pub(crate) fn borrowed(&self) -> Vec<BorrowedFd<'_>> {
        self.fds.iter().map(|fd| fd.as_fd()).collect()
    }
}

/// All that is kept, by name.
#[derive(Default, Debug)]
pub(crate) struct Entries(BTreeMap<String, Entry>);

impl Entries {
    pub(crate) fn insert(&mut self, key: String, entry: Entry) {
        self.0.insert(key, entry);
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        self.0.get(key)
    }

    pub(crate) fn remove(&mut self, key: &str) -> bool {
        self.0.remove(key).is_some()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Entry)> {
        self.0.iter()
    }

    /// Connections whose handshakes are not over, and what becomes of them when nobody serves them.
    pub(crate) fn connections(&self) -> impl Iterator<Item = (u64, LastRule, &OwnedFd)> {
        self.0.values().filter_map(|entry| match entry.record {
            Record::Connection { id, rule, .. } => Some((id, rule, entry.fds.first()?)),
            Record::Vm(_) | Record::Listener { .. } | Record::Control { .. } => None,
        })
    }

    /// VMs that are kept.
    pub(crate) fn vms(&self) -> impl Iterator<Item = (&VmEntry, &Entry)> {
        self.0.values().filter_map(|entry| match &entry.record {
            Record::Vm(vm) => Some((vm, entry)),
            Record::Listener { .. } | Record::Control { .. } | Record::Connection { .. } => None,
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
