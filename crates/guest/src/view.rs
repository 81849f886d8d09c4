//! Reads what a guest has written: how far its tasks are, what a vCPU runs, what went wrong in it.

use core::fmt;
use core::mem::{offset_of, size_of};

use surefault_core::Gpa;

use crate::abi::{FREE, Record, Task, TaskState, Trap, VcpuArea, Waiter};

/// How far a task is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TaskProgress {
    /// Touches done.
    pub done: u64,
    /// The running sum, after `done` touches, or one more if the task was stopped between the two.
    pub sum: u64,
}

impl TaskProgress {
    /// Bytes of a task's record.
    pub const LEN: usize = size_of::<Record>();

    /// How far the task is whose record holds `bytes`.
    pub fn parse(bytes: &[u8; Self::LEN]) -> TaskProgress {
        TaskProgress {
            done: get_u64(bytes, offset_of!(Record, done)),
            sum: get_u64(bytes, offset_of!(Record, sum)),
        }
    }
}

/// What a vCPU says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VcpuView {
    /// What names the running task ([`Layout::running`](crate::Layout::running)).
    pub(crate) frame_end: Gpa,
    /// Workers that are not done.
    pub live: u32,
    /// Bytes of the map from tokens to waiting tasks, which follows the area.
    pub waiters_len: usize,
    /// The unexplained exception, where the vCPU has announced one.
    pub trap: GuestTrap,
}

/// An exception that the guest could not explain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestTrap {
    /// The exception's vector.
    pub vector: u64,
    /// Its error code, 0 where it has none.
    pub error: u64,
    /// The instruction.
    pub rip: u64,
    /// The instruction's privilege level.
    pub ring: u8,
    /// CR2: the address, if it was a page fault.
    pub cr2: u64,
}

impl VcpuView {
    /// Bytes of a vCPU's area.
    pub const LEN: usize = size_of::<VcpuArea>();

    /// What the vCPU says whose area holds `bytes`.
    pub fn parse(bytes: &[u8; Self::LEN]) -> VcpuView {
        let trap = |field| get_u64(bytes, offset_of!(VcpuArea, trap) + field);
        VcpuView {
            frame_end: Gpa::new(get_u64(
                bytes,
                offset_of!(VcpuArea, tss) + offset_of!(TaskState, rsp0),
            )),
            live: get_u32(bytes, offset_of!(VcpuArea, live)),
            waiters_len: get_u32(bytes, offset_of!(VcpuArea, waiters_mask)) as usize
                + size_of::<Waiter>(),
            trap: GuestTrap {
                vector: trap(offset_of!(Trap, vector)),
                error: trap(offset_of!(Trap, error)),
                rip: trap(offset_of!(Trap, rip)),
                ring: (trap(offset_of!(Trap, cs)) & 3) as u8,
                cr2: trap(offset_of!(Trap, cr2)),
            },
        }
    }
}

/// Bytes of what ring 0 keeps about a task.
pub const TASK_LEN: usize = size_of::<Task>();

/// Whether the task was killed of which ring 0 keeps `bytes`.
pub fn is_killed(bytes: &[u8; TASK_LEN]) -> bool {
    get_u32(bytes, offset_of!(Task, killed)) != 0
}

/// The tokens in a vCPU's map of waiters, whose bytes are `map`: of tasks that wait for a page, and
/// of pages that were ready before anybody waited.
pub fn tokens(map: &[u8]) -> usize {
    let entries = map.chunks_exact(size_of::<Waiter>());
    let token = |entry| get_u64(entry, offset_of!(Waiter, token));
    entries.filter(|&entry| token(entry) != FREE).count()
}

impl fmt::Display for GuestTrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "exception {} (error code {:#x}) in ring {} at rip {:#x}",
            self.vector, self.error, self.ring, self.rip
        )?;
        match self.vector {
            14 => write!(f, ", address {:#x}", self.cr2),
            _ => Ok(()),
        }
    }
}

fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
