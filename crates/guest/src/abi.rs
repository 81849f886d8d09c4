//! What the guest and the VMM agree on: structures in the guest's always-present memory, ports,
//! vectors, selectors.
//!
//! The structures are `repr(C)`; the assembler gets each offset that it uses from here
//! (`image.rs`), so there is one definition. The assertions at the end are for the
//! few offsets that somebody else has fixed (KVM, the CPU).

use core::mem::{offset_of, size_of};

/// Where the data region starts: above everything that a PC keeps below 4 GiB.
pub const DATA_BASE: u64 = 4 << 30;

/// An `out` here says that the last worker task of this vCPU is done; the vCPU has nothing left to
/// do, and says so again whenever it is resumed.
pub const PORT_DONE: u16 = 0x5f0;

/// An `out` here says that the guest met an exception that it cannot explain; it is described in
/// [`VcpuArea::trap`].
pub const PORT_TRAP: u16 = 0x5f1;

/// The vector of "page ready" interrupts.
pub const READY_VECTOR: u8 = 0xf3;

/// [`Waiter::token`] of a waiter that is free. No token is 1: the numbers from bit 12 on start at 1.
pub const FREE: u64 = 1;

/// The counting task lets others run each time that it has counted this far: a tenth of a millisecond
/// or so. A power of two.
pub const COUNTS_PER_YIELD: u32 = 1 << 17;

/// A task's system call (`int3`), in the low byte of rdi: 0 lets others run, this says that it is
/// done.
pub const SYSCALL_DONE: u8 = 1;

/// The system call of the task that halts the vCPU.
pub const SYSCALL_HALT: u8 = 2;

/// In an entry of an access list: the task writes the page's stamp before it reads the page.
pub const LIST_WRITE: u32 = 1 << 31;

/// In an entry of an access list: the task calls the page's first byte before it reads the page.
pub const LIST_CALL: u32 = 1 << 30;

/// In an entry of an access list: the page's index.
pub const LIST_PAGE: u32 = LIST_CALL - 1;

/// Selectors of the guest's GDT, with their privilege levels.
pub mod selector {
    /// Code of ring 0.
    pub const KERNEL_CODE: u16 = 0x08;
    /// Data and stack of ring 0.
    pub const KERNEL_DATA: u16 = 0x10;
    /// The task state segment. Loaded by the VMM, never by the guest: the GDT has no entry for it.
    pub const TASK_STATE: u16 = 0x18;
    /// Data and stack of ring 3.
    pub const USER_DATA: u16 = 0x23;
    /// Code of ring 3.
    pub const USER_CODE: u16 = 0x2b;
}

/// The area that a guest shares with KVM for async page faults (`msr.rst`, MSR 0x4b564d02).
#[repr(C, align(64))]
pub struct ApfArea {
    /// 1 while a "page not present" is being delivered; the handler writes 0.
    pub flags: u32,
    /// The token of a page that is ready; the handler writes 0.
    pub token: u32,
    /// 1 when that page failed, for a guest that has asked to be told; the handler writes 0.
    pub error: u32,
    pad: [u8; 52],
}

/// The 64-bit task state segment (Intel SDM, 3A, 8.7). Only [`rsp0`](Self::rsp0) is used.
#[repr(C, packed(4))]
pub struct TaskState {
    reserved: u32,
    /// Where traps from ring 3 push: the end of the running task's [`Task::frame`]; 0 while the vCPU
    /// halts.
    pub rsp0: u64,
    rest: [u8; 92],
}

/// An exception that the guest cannot explain.
#[repr(C)]
pub struct Trap {
    /// The exception's vector.
    pub vector: u64,
    /// Its error code, 0 where it has none.
    pub error: u64,
    /// The instruction.
    pub rip: u64,
    /// Its privilege level is in the two lowest bits.
    pub cs: u64,
    /// The address, if it was a page fault.
    pub cr2: u64,
}

/// Words of [`VcpuArea::idle_stack`].
const IDLE_STACK: usize = 32;
/// Where it ends, in the area.
pub(crate) const IDLE_STACK_END: usize =
    offset_of!(VcpuArea, idle_stack) + IDLE_STACK * size_of::<u64>();

/// What ring 0 keeps about one vCPU; its address is in r15, always. The [`Waiter`]s follow it. What
/// ring 0 keeps in registers (`traps.s`) is here as it starts.
#[repr(C, align(64))]
pub struct VcpuArea {
    /// Shared with KVM.
    pub apf: ApfArea,
    /// The task state segment.
    pub tss: TaskState,
    /// Worker tasks that are not done yet.
    pub live: u32,
    /// The low bits of the MSR that enables async page faults; 0 leaves them alone.
    pub apf_enable: u32,
    /// 1 where the vCPU has a local APIC, in x2APIC mode, that wants to be enabled.
    pub apic: u32,
    /// Bytes of the waiters, a power of two, less those of one.
    pub waiters_mask: u32,
    /// The frame's end of the task that can always run: it counts, or halts the vCPU.
    pub last: u64,
    /// The run queue's next entry to leave: the address of a frame's end.
    pub queue_head: u64,
    /// The run queue's next entry to fill. The queue is empty when head and tail are equal.
    pub queue_tail: u64,
    /// What an entry's address and this have in common is an entry's address: it starts over at the
    /// end, for the queue's length is a power of two, and its alignment twice that.
    pub queue_wrap: u64,
    /// The exception reported through [`PORT_TRAP`].
    pub trap: Trap,
    /// The stack of a vCPU that starts, or halts because it has nothing to run.
    pub idle_stack: [u64; IDLE_STACK],
}

/// An entry of the map from tokens to the tasks that wait for them.
#[repr(C)]
pub struct Waiter {
    /// The token, or [`FREE`].
    pub token: u64,
    /// The frame's end of the waiting [`Task`]; 0 if the token was ready before anybody waited.
    pub task: u64,
}

/// What ring 0 keeps about one task. Its frame's end is what names it.
///
/// A trap from ring 3 pushes into the end of the frame, because that is where the task state
/// segment points while the task runs; saving a task is two pushes more.
#[repr(C, align(16))]
pub struct Task {
    /// Room for a call from a trap handler that has pushed all of the frame, and for a machine check
    /// on top of that.
    pub scratch: [u64; 13],
    /// The registers of the task while it does not run.
    pub frame: Frame,
    /// 1 when it was killed: by a machine check, or because its page was said to be lost.
    pub killed: u32,
}

impl Task {
    /// From a task's address to its frame's end.
    pub const FRAME_END: usize = offset_of!(Task, frame) + size_of::<Frame>();
}

/// All the registers that a task has. The others are ring 0's, see `traps.s`.
#[repr(C)]
#[expect(missing_docs, reason = "registers")]
pub struct Frame {
    pub rsi: u64,
    pub rdi: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// What a task knows, in memory that ring 3 may write. Its end is where the task's stack begins.
#[repr(C, align(64))]
pub struct Record {
    /// Address of the access list.
    pub list: u64,
    /// Entries of the access list.
    pub count: u64,
    /// Address of the data region.
    pub data: u64,
    /// Bytes in a page.
    pub page_bytes: u64,
    /// Touches between two yields.
    pub yield_every: u32,
    /// Touches until the next yield.
    pub until_yield: u32,
    /// Touches done; what the counting task counts. Written after [`sum`](Self::sum), so that a
    /// task that is stopped between the two has a sum that is one touch ahead.
    pub done: u64,
    /// The running sum (`surefault_core::workload`).
    pub sum: u64,
    /// The touch that is being done: its entry of the list.
    pub touch: u64,
    /// The end of its page.
    pub page_end: u64,
    /// The sum of its page so far.
    pub page_sum: u64,
    /// What each word is multiplied with (`surefault_core::workload`).
    pub sum_factor: u64,
    /// What a page's index is added to for its stamp.
    pub stamp_key: u64,
    pad: [u64; 4],
    /// The task's stack.
    pub stack: [u8; 64],
}

const _: () = {
    // KVM's.
    assert!(offset_of!(ApfArea, flags) == 0 && offset_of!(ApfArea, token) == 4);
    // Proposed to KVM in 2020, and Surefault's own.
    assert!(offset_of!(ApfArea, error) == 8);
    assert!(size_of::<ApfArea>() == 64);
    // The MSR takes the area's address and the enable bits as one sum.
    assert!(offset_of!(VcpuArea, apf) == 0);
    // The CPU's.
    assert!(offset_of!(TaskState, rsp0) == 4 && size_of::<TaskState>() == 104);
    assert!(offset_of!(Frame, ss) + 8 == size_of::<Frame>());
    // A trap aligns the stack to 16 before it pushes: the frame must end on such an address.
    assert!(Task::FRAME_END.is_multiple_of(16));
    assert!(offset_of!(Record, stack) + 64 == size_of::<Record>());
    // traps.s makes an offset of a token by shifting.
    assert!(size_of::<Waiter>() == 16);
    assert!(COUNTS_PER_YIELD.is_power_of_two() && COUNTS_PER_YIELD.is_multiple_of(0x100));
};
