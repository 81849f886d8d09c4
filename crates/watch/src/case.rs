//! Machines that were found stuck or frozen, and everything that is known of them.

use core::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};
use surefault_core::{Gfn, Gva, Hva, VcpuId};

use crate::cause::Cause;
use crate::diagnose::Holder;
use crate::ids::{Pid, Tid};
use crate::proc::thread::Wait;

/// A vCPU that asks for one page again and again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Stuck {
    /// The VM's process.
    pub pid: Pid,
    /// The vCPU's thread.
    pub tid: Tid,
    /// The thread's name.
    pub comm: String,
    /// KVM's id of the vCPU.
    pub vcpu: Option<VcpuId>,
    /// The page.
    pub gfn: Gfn,
    /// The fault's address: guest-virtual, or guest-physical under two-dimensional paging.
    #[serde(serialize_with = "hex")]
    pub gva: Gva,
    /// The page's address in the process.
    #[serde(serialize_with = "hex_or_null")]
    pub hva: Option<Hva>,
    /// The file behind it.
    pub path: Option<String>,
    /// Where in the file the page starts, in bytes.
    pub offset: Option<u64>,
    /// Why the page does not come.
    pub cause: Cause,
    /// How often it was asked for again after "ready".
    pub retries: u32,
    /// For how long.
    #[serde(rename = "since_ns", serialize_with = "nanos")]
    pub since: Duration,
    /// Page faults that KVM takes for the VM, per second; `null` when KVM's statistics cannot be
    /// read, or were read only once.
    pub faults_per_second: Option<u64>,
}

/// A thread that waits for one page for ever.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Frozen {
    /// The process.
    pub pid: Pid,
    /// The thread.
    pub tid: Tid,
    /// Its name.
    pub comm: String,
    /// KVM's id of the vCPU, when it is one and that can be told.
    pub vcpu: Option<VcpuId>,
    /// What it waits for.
    pub wait: Wait,
    /// The kernel's function in which it waits.
    pub function: String,
    /// The page, when it was asked for while we watched.
    pub gfn: Option<Gfn>,
    /// The fault's address, when the page is known.
    #[serde(serialize_with = "hex_or_null")]
    pub gva: Option<Gva>,
    /// The file that is waited for, when there is only one that it can be.
    pub path: Option<String>,
    /// Who holds the userfaultfd whose answer is waited for.
    pub holders: Vec<Holder>,
    /// Why the page does not come.
    pub cause: Cause,
    /// For how long, at least.
    #[serde(rename = "since_ns", serialize_with = "nanos")]
    pub since: Duration,
}

/// A machine in trouble.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Case {
    /// It asks for one page again and again.
    Stuck(Stuck),
    /// It waits for one page for ever.
    Frozen(Frozen),
}

impl Case {
    /// The VM's process.
    pub fn pid(&self) -> Pid {
        match self {
            Case::Stuck(stuck) => stuck.pid,
            Case::Frozen(frozen) => frozen.pid,
        }
    }

    /// The thread.
    pub fn tid(&self) -> Tid {
        match self {
            Case::Stuck(stuck) => stuck.tid,
            Case::Frozen(frozen) => frozen.tid,
        }
    }

    /// The thread's name.
    pub fn comm(&self) -> &str {
        match self {
            Case::Stuck(stuck) => &stuck.comm,
            Case::Frozen(frozen) => &frozen.comm,
        }
    }

    /// KVM's id of the vCPU.
    pub fn vcpu(&self) -> Option<VcpuId> {
        match self {
            Case::Stuck(stuck) => stuck.vcpu,
            Case::Frozen(frozen) => frozen.vcpu,
        }
    }

    /// Why the page does not come.
    pub fn cause(&self) -> &Cause {
        match self {
            Case::Stuck(stuck) => &stuck.cause,
            Case::Frozen(frozen) => &frozen.cause,
        }
    }

    /// For how long.
    pub fn since(&self) -> Duration {
        match self {
            Case::Stuck(stuck) => stuck.since,
            Case::Frozen(frozen) => frozen.since,
        }
    }

    /// `stuck` or `frozen`.
    pub fn word(&self) -> &'static str {
        match self {
            Case::Stuck(_) => "stuck",
            Case::Frozen(_) => "frozen",
        }
    }
}

fn hex<A: fmt::Display, S: Serializer>(address: &A, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(address)
}

fn hex_or_null<A: fmt::Display, S: Serializer>(
    address: &Option<A>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match address {
        Some(address) => serializer.collect_str(address),
        None => serializer.serialize_none(),
    }
}

fn nanos<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(duration.as_nanos().try_into().unwrap_or(u64::MAX))
}

#[cfg(test)]
pub(crate) mod samples {
    use super::*;
    use crate::cause::CauseKind;

    pub(crate) fn stuck() -> Stuck {
        Stuck {
            pid: Pid::new(10),
            tid: Tid::new(11),
            comm: "CPU 3/KVM".into(),
            vcpu: Some(VcpuId::new(3)),
            gfn: Gfn::new(0x203),
            gva: Gva::new(0x20_3000),
            hva: Some(Hva::new(0x7f12_0000_3000)),
            path: Some("/dev/shm/guest".into()),
            offset: Some(0x3000),
            cause: Cause::new(
                CauseKind::Truncated,
                "the file has 12288 bytes",
                "extend it",
            ),
            retries: 2900,
            since: Duration::from_millis(100),
            faults_per_second: Some(29_000),
        }
    }

    pub(crate) fn frozen() -> Frozen {
        Frozen {
            pid: Pid::new(10),
            tid: Tid::new(12),
            comm: "fc_vcpu 0".into(),
            vcpu: None,
            wait: Wait::Userfault,
            function: "handle_userfault".into(),
            gfn: None,
            gva: None,
            path: None,
            holders: vec![Holder {
                pid: Pid::new(10),
                comm: "firecracker".into(),
                state: 'S',
                fd: 7,
            }],
            cause: Cause::new(CauseKind::HandlerGone, "nobody answers", "restart it"),
            since: Duration::from_millis(7500),
        }
    }
}
