//! KVM's own counters of a machine, from debugfs (`kvm/PID-FD/…`).

use std::collections::HashMap;

use surefault_trace::{KernelFs, KernelFsKind, TraceError};

use crate::ids::{Moment, Pid};

/// Reads how many page faults KVM takes, and makes rates of it.
#[derive(Debug)]
pub(crate) struct Rates {
    debugfs: Result<KernelFs, TraceError>,
    seen: HashMap<Pid, (u64, Moment)>,
}

impl Rates {
    pub(crate) fn open() -> Rates {
        Rates {
            debugfs: KernelFs::open(KernelFsKind::Debugfs),
            seen: HashMap::new(),
        }
    }

    /// Why there are no rates.
    pub(crate) fn missing(&self) -> Option<String> {
        let fs = match &self.debugfs {
            Ok(fs) => fs,
            Err(error) => return Some(crate::error::chain(error)),
        };
        fs.list("kvm")
            .err()
            .map(|error| crate::error::chain(&error))
    }

    /// Faults per second since the last call for the same process; `None` at the first.
    pub(crate) fn faults_per_second(&mut self, pid: Pid, now: Moment) -> Option<u64> {
        let taken = self.pf_taken(pid)?;
        let before = self.seen.insert(pid, (taken, now));
        let (before, then) = before?;
        let nanos = now.since(then).as_nanos();
        let faults = u128::from(taken.saturating_sub(before));
        (faults * 1_000_000_000)
            .checked_div(nanos)
            .map(|rate| rate.try_into().unwrap_or(u64::MAX))
    }

    pub(crate) fn forget(&mut self, pid: Pid) {
        self.seen.remove(&pid);
    }

    /// The sum over the process's machines.
    fn pf_taken(&self, pid: Pid) -> Option<u64> {
        let fs = self.debugfs.as_ref().ok()?;
        let prefix = format!("{pid}-");
        let mut taken = None;
        for machine in fs.list("kvm").ok()? {
            if machine.starts_with(&prefix)
                && let Ok(count) = fs.read(&format!("kvm/{machine}/pf_taken"))
                && let Ok(count) = count.trim().parse::<u64>()
            {
                taken = Some(taken.unwrap_or(0) + count);
            }
        }
        taken
    }
}
