//! What the VMM is told about a fault that failed.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::{Failure, Gfn, Gpa, Gva, SlotId, VcpuId};

/// What an instruction wanted to do with a page.
///
/// It comes from decoding the instruction at RIP, never from a kernel event's flags: those are a
/// worker's, and say "write" for a read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// It only reads the page.
    Read,
    /// It writes the page, or reads and writes it.
    Write,
    /// It lies in the page.
    Fetch,
    /// The instruction could not be read or decoded.
    Unknown,
}

impl Access {
    /// The word for this access, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Access::Read => "read",
            Access::Write => "write",
            Access::Fetch => "fetch",
            Access::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The report of a failed fault: the vCPU stands at the faulting instruction with the faulting
/// task's registers, and this says which page it wanted and why it cannot have it.
///
/// It is the same whichever path the fault took (synchronous or asynchronous; a signal, an error
/// code, an MMIO exit): times and paths are statistics, and no token appears in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FaultReport {
    /// The vCPU that stopped.
    pub vcpu: VcpuId,
    /// The memory slot the page is in.
    pub memslot: SlotId,
    /// The page's guest frame.
    pub gfn: Gfn,
    /// The guest-physical address of the page's first byte.
    pub gpa: Gpa,
    /// The address of the faulting instruction.
    pub rip: Gva,
    /// What the instruction wanted to do.
    pub access: Access,
    /// Why the page could not be provided, after how many attempts.
    pub failure: Failure,
}
