//! Lays a guest out in memory.
//!
//! ```text
//! gpa 0      kernel half, ring 0 only: tables, code, vCPU areas, tasks' frames, waiters
//! n × 2 MiB  user half: the tasks' code, their records, their access lists
//!            ── end of the system slot: present, always ──
//! 4 GiB      the data region, demand-paged, in a slot of its own
//! ```
//!
//! Virtual addresses are physical addresses throughout.

use core::mem::{offset_of, size_of};
use core::num::NonZeroU32;

use surefault_core::run::TaskId;
use surefault_core::workload::{FirstTouch, STAMP_KEY, SUM_FACTOR, SUM_START, Touch, Workload};
use surefault_core::{Gpa, Gva, PageSize, VcpuId};
use thiserror::Error;

use crate::abi::{self, DATA_BASE, Record, Task, VcpuArea};
use crate::image::{Entry, Image};
use crate::memory::Memory;
use crate::tables::{self, DIRECTORY_SPAN, DescriptorTable, LARGE_PAGE, PageTables};
use crate::view::VcpuView;

#[cfg(test)]
mod tests;
mod vcpu;

use vcpu::{NewTask, Vcpu};

/// Where the kernel half begins: the page below catches null pointers of hosts' debuggers and ours.
const KERNEL_START: u64 = 0x1000;

/// What to lay out.
#[derive(Clone, Copy, Debug)]
pub struct GuestSpec<'a> {
    /// vCPUs, at least 1. Task `n` runs on vCPU `n` modulo this.
    pub vcpus: u16,
    /// What the tasks touch.
    pub workload: &'a Workload,
    /// The size of a page of the data region.
    pub page_size: PageSize,
    /// Touches after which a task lets others run.
    pub yield_every: NonZeroU32,
    /// What a vCPU does when no task can run.
    pub idle: Idle,
    /// Whether the guest takes async page faults.
    pub apf: GuestApf,
    /// Whether ring 3 runs with interrupts on. Off, KVM cannot fault asynchronously, and "page
    /// ready" cannot be delivered.
    pub interrupts: bool,
    /// What interrupts come from.
    pub apic: Apic,
}

/// What interrupts come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Apic {
    /// A local APIC in x2APIC mode.
    X2apic,
    /// Whoever emulates the machine raises vectors, and is not told when they have been served.
    None,
}

/// What a vCPU does when no task can run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Idle {
    /// It counts, in ring 3: the count is the progress that the guest makes beside its faults.
    Count,
    /// It halts.
    Halt,
}

/// Whether the guest takes async page faults.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GuestApf {
    /// It never asks for them.
    Off,
    /// It enables them, delivered as page faults, ready by interrupt.
    On,
    /// The same, and it asks to be told of pages that failed: it kills the task.
    WithErrors,
}

/// A guest that cannot be laid out.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// There is no vCPU to run on.
    #[error("a guest needs a vCPU")]
    NoVcpus,
    /// The data region is beyond what the guest's page tables can map, or an access list can name.
    #[error("a data region of {pages} pages of {page_size} is too large for the built-in guest")]
    DataTooLarge {
        /// Pages of the region.
        pages: u64,
        /// Their size.
        page_size: PageSize,
    },
    /// The kernel, its tasks and their lists do not fit below the machine's devices.
    #[error("the guest's own memory, {bytes} bytes, is too large")]
    SystemTooLarge {
        /// Its size.
        bytes: u64,
    },
}

/// A guest, laid out.
#[derive(Clone, Debug)]
pub struct Layout {
    cr3: u64,
    gdt: DescriptorTable,
    idt: DescriptorTable,
    entry: Gva,
    areas: Vec<Gpa>,
    records: Vec<Gpa>,
    tasks: Vec<Gpa>,
    counters: Vec<Gpa>,
}

/// How a vCPU starts: in long mode, interrupts off, with these registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VcpuStart {
    /// The first instruction.
    pub rip: Gva,
    /// For rsp: the end of a stack that it has to itself.
    pub rsp: Gva,
    /// For r15: the vCPU's area.
    pub r15: Gva,
    /// The page tables' root.
    pub cr3: u64,
    /// The segment descriptors.
    pub gdt: DescriptorTable,
    /// The interrupt descriptors.
    pub idt: DescriptorTable,
    /// The task state segment's base.
    pub tss: Gva,
    /// Its size in bytes, less one.
    pub tss_limit: u32,
}

impl Layout {
    /// Lays `spec` out: the contents of the system slot, which starts at gpa 0, and the places in
    /// it. The contents' length is a multiple of 4 KiB.
    ///
    /// # Errors
    /// When the guest is too large, or has no vCPU.
    pub fn new(spec: &GuestSpec<'_>) -> Result<(Layout, Vec<u8>), LayoutError> {
        if spec.vcpus == 0 {
            return Err(LayoutError::NoVcpus);
        }
        let data_end = data_end(spec)?;
        let image = Image::get();
        let memory = &mut Memory::starting_at(KERNEL_START);

        let page_tables = PageTables::reserve(memory, DATA_BASE..data_end);
        let gdt = tables::write_gdt(memory);
        let kernel = memory.append(image.kernel(), 4096);
        let idt = tables::write_idt(memory, image, kernel, spec.apic);
        let vcpus: Vec<_> = (0..spec.vcpus)
            .map(|vcpu| Vcpu::reserve(memory, tasks_of(spec, vcpu).count()))
            .collect();
        let user = memory.align(LARGE_PAGE);

        let user_code = memory.append(image.user(), 4096);
        let counters: Vec<_> = vcpus.iter().map(|_| reserve_record(memory)).collect();
        let records: Vec<_> = (spec.workload.tasks().iter())
            .map(|touches| write_record(memory, spec, touches))
            .collect();
        let end = memory.align(4096);
        if end > DIRECTORY_SPAN {
            return Err(LayoutError::SystemTooLarge { bytes: end });
        }

        let rflags = if spec.interrupts { 0x202 } else { 0x002 };
        let start = |entry: Entry, record: u64| NewTask {
            rip: user_code + image.entry(entry),
            record,
            rflags,
        };
        for (n, vcpu) in (0..).zip(&vcpus) {
            let workers = tasks_of(spec, n)
                .map(|task| start(Entry::Worker, records[task]))
                .collect();
            let last = match spec.idle {
                Idle::Count => Entry::Count,
                Idle::Halt => Entry::Idle,
            };
            let last = start(last, counters[usize::from(n)]);
            vcpu.write(memory, spec, workers, last);
        }
        page_tables.map(memory, 0..user, false);
        page_tables.map(memory, user..end, true);
        page_tables.map(memory, DATA_BASE..data_end, true);

        // Task n is the next one of vCPU n modulo their number.
        let tasks = (0..spec.workload.tasks().len())
            .map(|n| vcpus[n % vcpus.len()].workers[n / vcpus.len()])
            .collect();
        let gpas = |addresses: Vec<u64>| addresses.into_iter().map(Gpa::new).collect();
        let layout = Layout {
            cr3: page_tables.root(),
            gdt,
            idt,
            entry: Gva::new(kernel + image.entry(Entry::Boot)),
            areas: gpas(vcpus.iter().map(|vcpu| vcpu.area).collect()),
            records: gpas(records),
            tasks: gpas(tasks),
            counters: gpas(counters),
        };
        let memory = core::mem::replace(memory, Memory::starting_at(0));
        Ok((layout, memory.into_bytes()))
    }

    /// How `vcpu` starts; `None` if the guest has no such vCPU.
    pub fn start(&self, vcpu: VcpuId) -> Option<VcpuStart> {
        let area = self.area(vcpu)?.get();
        Some(VcpuStart {
            rip: self.entry,
            rsp: Gva::new(area + abi::IDLE_STACK_END as u64),
            r15: Gva::new(area),
            cr3: self.cr3,
            gdt: self.gdt,
            idt: self.idt,
            tss: Gva::new(area + offset_of!(VcpuArea, tss) as u64),
            tss_limit: size_of::<abi::TaskState>() as u32 - 1,
        })
    }

    /// Where the [`VcpuArea`] of `vcpu` is.
    pub fn area(&self, vcpu: VcpuId) -> Option<Gpa> {
        self.areas.get(vcpu.get() as usize).copied()
    }

    /// Where the [`Record`] of `task` is.
    pub fn record(&self, task: TaskId) -> Option<Gpa> {
        self.records.get(usize::from(task.get())).copied()
    }

    /// Where ring 0's [`Task`] of `task` is.
    pub fn task(&self, task: TaskId) -> Option<Gpa> {
        self.tasks.get(usize::from(task.get())).copied()
    }

    /// The worker that the vCPU says it runs; `None` while another task runs, or nobody.
    pub fn running(&self, view: &VcpuView) -> Option<TaskId> {
        let end = Task::FRAME_END as u64;
        let mut tasks = self.tasks.iter();
        let n = tasks.position(|task| view.frame_end.checked_offset_from(*task) == Some(end))?;
        u16::try_from(n).ok().map(TaskId::new)
    }

    /// Where the map from tokens to waiting tasks is that `vcpu` keeps.
    pub fn waiters(&self, vcpu: VcpuId) -> Option<Gpa> {
        self.area(vcpu)?.checked_add(size_of::<VcpuArea>() as u64)
    }

    /// Where the [`Record`]s of the counting tasks are, by vCPU.
    pub fn counters(&self) -> &[Gpa] {
        &self.counters
    }
}

/// The end of the data region, if it can be mapped and numbered.
fn data_end(spec: &GuestSpec<'_>) -> Result<u64, LayoutError> {
    let pages = spec.workload.pages();
    pages
        .bytes(spec.page_size)
        .and_then(|bytes| DATA_BASE.checked_add(bytes))
        .filter(|&end| end <= 512 * DIRECTORY_SPAN)
        .filter(|_| pages.get() <= u64::from(abi::LIST_PAGE) + 1)
        .ok_or(LayoutError::DataTooLarge {
            pages: pages.get(),
            page_size: spec.page_size,
        })
}

/// The tasks of `vcpu`, by number.
fn tasks_of(spec: &GuestSpec<'_>, vcpu: u16) -> impl Iterator<Item = usize> {
    (usize::from(vcpu)..spec.workload.tasks().len()).step_by(usize::from(spec.vcpus))
}

fn reserve_record(memory: &mut Memory) -> u64 {
    memory.reserve(size_of::<Record>(), 64)
}

fn write_record(memory: &mut Memory, spec: &GuestSpec<'_>, touches: &[Touch]) -> u64 {
    let list: Vec<u8> = touches
        .iter()
        .flat_map(|touch| {
            let flags = match touch.first {
                FirstTouch::Read => 0,
                FirstTouch::Write => abi::LIST_WRITE,
                FirstTouch::Call => abi::LIST_CALL,
            };
            (touch.page.get() | flags).to_le_bytes()
        })
        .collect();
    let list = memory.append(&list, 64);
    let at = reserve_record(memory);
    memory.put_u64(at, offset_of!(Record, list), list);
    memory.put_u64(at, offset_of!(Record, count), touches.len() as u64);
    memory.put_u64(at, offset_of!(Record, data), DATA_BASE);
    let page_bytes = spec.page_size.bytes();
    memory.put_u64(at, offset_of!(Record, page_bytes), page_bytes);
    let every = spec.yield_every.get();
    memory.put_u32(at, offset_of!(Record, yield_every), every);
    memory.put_u32(at, offset_of!(Record, until_yield), every);
    memory.put_u64(at, offset_of!(Record, sum), SUM_START);
    memory.put_u64(at, offset_of!(Record, sum_factor), SUM_FACTOR);
    memory.put_u64(at, offset_of!(Record, stamp_key), STAMP_KEY);
    at
}
