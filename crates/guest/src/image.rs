//! The guest's machine code, assembled with this crate, and where things are in it.
#![expect(
    unsafe_code,
    reason = "global_asm! defines the image; its bytes are between two of its symbols"
)]

use core::arch::global_asm;
use core::mem::{offset_of, size_of};

use surefault_core::workload::{STAMP_OFFSET, SUM_START};

use crate::abi::{ApfArea, Frame, Record, Task, TaskState, Trap, VcpuArea, Waiter};

/// Distance between the entry points of two exception vectors' handlers.
const VECTOR_STRIDE: usize = 16;

global_asm!(
    include_str!("asm/boot.s"),
    include_str!("asm/sched.s"),
    include_str!("asm/traps.s"),
    include_str!("asm/task.s"),
    // The vCPU's area.
    APF_FLAGS = const offset_of!(VcpuArea, apf) + offset_of!(ApfArea, flags),
    APF_TOKEN = const offset_of!(VcpuArea, apf) + offset_of!(ApfArea, token),
    APF_ERROR = const offset_of!(VcpuArea, apf) + offset_of!(ApfArea, error),
    TSS_RSP0 = const offset_of!(VcpuArea, tss) + offset_of!(TaskState, rsp0),
    LIVE = const offset_of!(VcpuArea, live),
    LAST = const offset_of!(VcpuArea, last),
    APF_ENABLE = const offset_of!(VcpuArea, apf_enable),
    QUEUE_HEAD = const offset_of!(VcpuArea, queue_head),
    QUEUE_TAIL = const offset_of!(VcpuArea, queue_tail),
    QUEUE_WRAP = const offset_of!(VcpuArea, queue_wrap),
    WAITERS_MASK = const offset_of!(VcpuArea, waiters_mask),
    APIC = const offset_of!(VcpuArea, apic),
    TRAP_VECTOR = const offset_of!(VcpuArea, trap) + offset_of!(Trap, vector),
    TRAP_ERROR = const offset_of!(VcpuArea, trap) + offset_of!(Trap, error),
    TRAP_RIP = const offset_of!(VcpuArea, trap) + offset_of!(Trap, rip),
    TRAP_CS = const offset_of!(VcpuArea, trap) + offset_of!(Trap, cs),
    TRAP_CR2 = const offset_of!(VcpuArea, trap) + offset_of!(Trap, cr2),
    IDLE_STACK_END = const crate::abi::IDLE_STACK_END,
    // A waiter, from the area and its own offset.
    WAITER_TOKEN = const size_of::<VcpuArea>() + offset_of!(Waiter, token),
    WAITER_TASK = const size_of::<VcpuArea>() + offset_of!(Waiter, task),
    WAITER_SIZE = const size_of::<Waiter>(),
    FREE = const crate::abi::FREE,
    // A task, from the end of its frame.
    FRAME_SIZE = const size_of::<Frame>(),
    TASK_KILLED = const offset_of!(Task, killed) - Task::FRAME_END,
    // A task, as it sees itself: back from the start of its stack.
    REC_LIST = const size_of::<Record>() - offset_of!(Record, list),
    REC_COUNT = const size_of::<Record>() - offset_of!(Record, count),
    REC_DATA = const size_of::<Record>() - offset_of!(Record, data),
    REC_PAGE_BYTES = const size_of::<Record>() - offset_of!(Record, page_bytes),
    REC_YIELD_EVERY = const size_of::<Record>() - offset_of!(Record, yield_every),
    REC_UNTIL_YIELD = const size_of::<Record>() - offset_of!(Record, until_yield),
    REC_DONE = const size_of::<Record>() - offset_of!(Record, done),
    REC_SUM = const size_of::<Record>() - offset_of!(Record, sum),
    REC_TOUCH = const size_of::<Record>() - offset_of!(Record, touch),
    REC_END = const size_of::<Record>() - offset_of!(Record, page_end),
    REC_PAGE_SUM = const size_of::<Record>() - offset_of!(Record, page_sum),
    REC_SUM_FACTOR = const size_of::<Record>() - offset_of!(Record, sum_factor),
    REC_STAMP_KEY = const size_of::<Record>() - offset_of!(Record, stamp_key),
    COUNTS_PER_YIELD = const crate::abi::COUNTS_PER_YIELD,
    SYSCALL_DONE = const crate::abi::SYSCALL_DONE,
    SYSCALL_HALT = const crate::abi::SYSCALL_HALT,
    LIST_PAGE = const crate::abi::LIST_PAGE,
    LIST_WRITE = const crate::abi::LIST_WRITE,
    LIST_CALL = const crate::abi::LIST_CALL,
    // What the workload prescribes.
    STAMP_OFFSET = const STAMP_OFFSET,
    SUM_START = const SUM_START,
    // The machine.
    PORT_DONE = const crate::abi::PORT_DONE,
    PORT_TRAP = const crate::abi::PORT_TRAP,
    READY_VECTOR = const crate::abi::READY_VECTOR,
    VECTOR_STRIDE = const VECTOR_STRIDE,
    X2APIC_EOI = const 0x80b,
    X2APIC_SPURIOUS = const 0x80f,
    MSR_MC0_STATUS = const 0x401,
    MSR_MCG_STATUS = const 0x17a,
    MSR_APF_EN = const 0x4b56_4d02,
    MSR_APF_INT = const 0x4b56_4d06,
    MSR_APF_ACK = const 0x4b56_4d07,
);

unsafe extern "C" {
    safe static surefault_guest_start: u8;
    safe static surefault_guest_end: u8;
}

/// The image: position-independent machine code.
#[derive(Clone, Copy)]
pub(crate) struct Image {
    bytes: &'static [u8],
}

/// An entry of the header at the start of the image, in its order.
#[derive(Clone, Copy)]
pub(crate) enum Entry {
    /// Where a vCPU starts.
    Boot,
    /// The handlers of the 32 exceptions that nobody expects, evenly spaced.
    Vectors,
    PageFault,
    MachineCheck,
    Breakpoint,
    /// "Page ready", where a local APIC wants to be told.
    ReadyX2apic,
    Ready,
    /// Where ring 0's part ends and ring 3's begins.
    User,
    Worker,
    Count,
    Idle,
}

impl Image {
    pub(crate) fn get() -> Image {
        let start = &raw const surefault_guest_start;
        let end = &raw const surefault_guest_end;
        let len = end.addr() - start.addr();
        // SAFETY: the assembler files put both symbols into one section, the second after the
        // first, with initialized bytes between them that nothing ever writes.
        let bytes = unsafe { core::slice::from_raw_parts(start, len) };
        Image { bytes }
    }

    /// Ring 0's part.
    pub(crate) fn kernel(self) -> &'static [u8] {
        &self.bytes[..self.offset(Entry::User)]
    }

    /// Ring 3's part.
    pub(crate) fn user(self) -> &'static [u8] {
        &self.bytes[self.offset(Entry::User)..]
    }

    /// Where `entry` is, from the start of ring 0's or ring 3's part.
    pub(crate) fn entry(self, entry: Entry) -> u64 {
        let offset = self.offset(entry);
        match entry {
            Entry::User | Entry::Worker | Entry::Count | Entry::Idle => {
                (offset - self.offset(Entry::User)) as u64
            }
            Entry::Boot
            | Entry::Vectors
            | Entry::PageFault
            | Entry::MachineCheck
            | Entry::Breakpoint
            | Entry::ReadyX2apic
            | Entry::Ready => offset as u64,
        }
    }

    /// The handler of exception `vector`, from the start of ring 0's part, if nobody expects it.
    pub(crate) fn unexpected(self, vector: u8) -> u64 {
        self.entry(Entry::Vectors) + u64::from(vector) * VECTOR_STRIDE as u64
    }

    fn offset(self, entry: Entry) -> usize {
        let at = entry as usize * size_of::<u32>();
        let word = self.bytes[at..at + size_of::<u32>()].try_into();
        u32::from_le_bytes(word.expect("four bytes")) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_points_into_its_own_half() {
        let image = Image::get();
        for entry in [
            Entry::Boot,
            Entry::Vectors,
            Entry::PageFault,
            Entry::MachineCheck,
            Entry::Breakpoint,
            Entry::ReadyX2apic,
            Entry::Ready,
        ] {
            let offset = image.entry(entry) as usize;
            assert!(offset > 0 && offset < image.kernel().len());
        }
        for entry in [Entry::User, Entry::Worker, Entry::Count, Entry::Idle] {
            assert!((image.entry(entry) as usize) < image.user().len());
        }
    }

    #[test]
    fn each_vector_pushes_its_number_onto_an_error_code() {
        let image = Image::get();
        for vector in 0..32 {
            let code = &image.kernel()[image.unexpected(vector) as usize..];
            let with_error_code = [8, 10, 11, 12, 13, 14, 17, 21, 29, 30].contains(&vector);
            let push = if with_error_code { 0 } else { 2 };
            assert_eq!(code[push..push + 2], [0x6a, vector], "{vector}");
            assert_eq!(code[..push], [0x6a, 0][..push], "{vector}");
        }
    }
}
