//! The memory of one vCPU: its area and waiters, its run queue, its tasks.

use core::mem::{offset_of, size_of};

use super::{Apic, GuestApf, GuestSpec};
use crate::abi::{FREE, Frame, Record, Task, VcpuArea, Waiter, selector};
use crate::memory::Memory;

/// Entries of a vCPU's map of tokens at the least: KVM never has more than 64 outstanding.
const MIN_WAITERS: usize = 256;

/// A task as it is before it first runs.
pub(super) struct NewTask {
    pub(super) rip: u64,
    pub(super) record: u64,
    pub(super) rflags: u64,
}

impl NewTask {
    fn write(&self, memory: &mut Memory, at: u64) {
        let frame = at + offset_of!(Task, frame) as u64;
        // The stack is the record's end.
        let stack = self.record + size_of::<Record>() as u64;
        memory.put_u64(frame, offset_of!(Frame, rip), self.rip);
        memory.put_u64(frame, offset_of!(Frame, cs), selector::USER_CODE.into());
        memory.put_u64(frame, offset_of!(Frame, rflags), self.rflags);
        memory.put_u64(frame, offset_of!(Frame, rsp), stack);
        memory.put_u64(frame, offset_of!(Frame, ss), selector::USER_DATA.into());
    }
}

/// The memory of one vCPU.
pub(super) struct Vcpu {
    /// Followed by the waiters.
    pub(super) area: u64,
    waiters_len: usize,
    queue: u64,
    queue_len: usize,
    /// The task that can always run.
    last: u64,
    pub(super) workers: Vec<u64>,
}

impl Vcpu {
    pub(super) fn reserve(memory: &mut Memory, workers: usize) -> Vcpu {
        // A ring that is full cannot be told from an empty one: one entry more than tasks.
        let queue_len = (workers + 2).next_power_of_two();
        let queue_bytes = queue_len * size_of::<u64>();
        let waiters_len = (2 * workers).next_power_of_two().max(MIN_WAITERS);
        let waiters_bytes = waiters_len * size_of::<Waiter>();
        let task = |memory: &mut Memory| memory.reserve(size_of::<Task>(), 16);
        Vcpu {
            area: memory.reserve(size_of::<VcpuArea>() + waiters_bytes, 64),
            waiters_len,
            queue: memory.reserve(queue_bytes, 2 * queue_bytes as u64),
            queue_len,
            last: task(memory),
            workers: (0..workers).map(|_| task(memory)).collect(),
        }
    }

    pub(super) fn write(
        &self,
        memory: &mut Memory,
        spec: &GuestSpec<'_>,
        workers: Vec<NewTask>,
        last: NewTask,
    ) {
        let tasks = workers.iter().chain([&last]);
        let places = self.workers.iter().chain([&self.last]);
        for (entry, (task, &at)) in tasks.zip(places).enumerate() {
            task.write(memory, at);
            let end = at + Task::FRAME_END as u64;
            memory.put_u64(self.queue, entry * size_of::<u64>(), end);
        }
        let entries = workers.len() + 1;
        let area = self.area;
        let apf_enable = match spec.apf {
            GuestApf::Off => 0,
            // Enable, and "page ready" by interrupt.
            GuestApf::On => 0b0_1001,
            // And the error word.
            GuestApf::WithErrors => 0b1_1001,
        };
        memory.put_u32(area, offset_of!(VcpuArea, apf_enable), apf_enable);
        let apic = u32::from(spec.apic == Apic::X2apic);
        memory.put_u32(area, offset_of!(VcpuArea, apic), apic);
        let live = workers.len() as u32;
        memory.put_u32(area, offset_of!(VcpuArea, live), live);
        let last = self.last + Task::FRAME_END as u64;
        memory.put_u64(area, offset_of!(VcpuArea, last), last);
        memory.put_u64(area, offset_of!(VcpuArea, queue_head), self.queue);
        let tail = self.queue + (entries * size_of::<u64>()) as u64;
        memory.put_u64(area, offset_of!(VcpuArea, queue_tail), tail);
        let queue_bytes = (self.queue_len * size_of::<u64>()) as u64;
        memory.put_u64(area, offset_of!(VcpuArea, queue_wrap), !queue_bytes);
        let waiters_mask = (self.waiters_len - 1) * size_of::<Waiter>();
        memory.put_u32(
            area,
            offset_of!(VcpuArea, waiters_mask),
            waiters_mask as u32,
        );
        for waiter in 0..self.waiters_len {
            let at = size_of::<VcpuArea>() + waiter * size_of::<Waiter>();
            memory.put_u64(area, at + offset_of!(Waiter, token), FREE);
        }
    }
}
