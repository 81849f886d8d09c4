//! The tables that the CPU reads: page tables, segment and interrupt descriptors.

use crate::abi::{READY_VECTOR, selector};
use crate::image::{Entry, Image};
use crate::layout::Apic;
use crate::memory::Memory;

pub(crate) const LARGE_PAGE: u64 = 2 << 20;
pub(crate) const TABLE: u64 = 4096;
const ENTRIES: u64 = 512;
/// What one page directory maps.
pub(crate) const DIRECTORY_SPAN: u64 = ENTRIES * LARGE_PAGE;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
/// Set beforehand, so that nobody has to write to a page table while the guest runs.
const ACCESSED_DIRTY: u64 = 0b11 << 5;
const LARGE: u64 = 1 << 7;
const TABLE_ENTRY: u64 = PRESENT | WRITABLE | USER | ACCESSED_DIRTY;
const KERNEL_LEAF: u64 = PRESENT | WRITABLE | ACCESSED_DIRTY | LARGE;
const USER_LEAF: u64 = KERNEL_LEAF | USER;

/// Identity-mapping page tables of large pages, reserved but not yet filled.
pub(crate) struct PageTables {
    root: u64,
    /// By GiB of the address space, those there are.
    directories: Vec<(u64, u64)>,
}

impl PageTables {
    /// Reserves tables for the GiB at 0 and for `data`, which starts at a GiB.
    pub(crate) fn reserve(memory: &mut Memory, data: core::ops::Range<u64>) -> PageTables {
        let root = memory.reserve(TABLE as usize, TABLE);
        let pointers = memory.reserve(TABLE as usize, TABLE);
        memory.put_u64(root, 0, pointers | TABLE_ENTRY);
        let data = data.start / DIRECTORY_SPAN..data.end.div_ceil(DIRECTORY_SPAN);
        let directories = core::iter::once(0)
            .chain(data)
            .map(|gib| {
                let directory = memory.reserve(TABLE as usize, TABLE);
                memory.put_u64(pointers, gib as usize * 8, directory | TABLE_ENTRY);
                (gib, directory)
            })
            .collect();
        PageTables { root, directories }
    }

    /// Maps the large pages that `range` touches, for ring 0 alone or for ring 3 as well.
    pub(crate) fn map(&self, memory: &mut Memory, range: core::ops::Range<u64>, user: bool) {
        let leaf = if user { USER_LEAF } else { KERNEL_LEAF };
        for page in range.start / LARGE_PAGE..range.end.div_ceil(LARGE_PAGE) {
            let gib = page / ENTRIES;
            let (_, directory) = self.directories[self
                .directories
                .binary_search_by_key(&gib, |&(gib, _)| gib)
                .expect("the directories were reserved for this range")];
            let entry = (page % ENTRIES) as usize * 8;
            memory.put_u64(directory, entry, (page * LARGE_PAGE) | leaf);
        }
    }

    /// For CR3.
    pub(crate) fn root(&self) -> u64 {
        self.root
    }
}

/// A descriptor table's place, for GDTR or IDTR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DescriptorTable {
    /// Address of the first descriptor.
    pub base: u64,
    /// The table's size in bytes, less one.
    pub limit: u16,
}

/// Writes the segment descriptors: flat code and data for both rings.
pub(crate) fn write_gdt(memory: &mut Memory) -> DescriptorTable {
    let descriptors = [
        (selector::KERNEL_CODE, 0x00af_9b00_0000_ffff_u64),
        (selector::KERNEL_DATA, 0x00cf_9300_0000_ffff),
        (selector::USER_DATA, 0x00cf_f300_0000_ffff),
        (selector::USER_CODE, 0x00af_fb00_0000_ffff),
    ];
    let len = usize::from(selector::USER_CODE & !7) + 8;
    let base = memory.reserve(len, 16);
    for (selector, descriptor) in descriptors {
        memory.put_u64(base, usize::from(selector & !7), descriptor);
    }
    DescriptorTable {
        base,
        limit: len as u16 - 1,
    }
}

/// Writes the interrupt descriptors of an image that is loaded at `kernel`.
pub(crate) fn write_idt(
    memory: &mut Memory,
    image: Image,
    kernel: u64,
    apic: Apic,
) -> DescriptorTable {
    const GATES: usize = 256;
    const GATE: usize = 16;
    let base = memory.reserve(GATES * GATE, 16);
    let mut set = |vector: u8, handler: u64, from_ring_3: bool| {
        let address = kernel + handler;
        let present_interrupt_gate = 0x8e00 | if from_ring_3 { 0x6000 } else { 0 };
        let low = (address & 0xffff)
            | u64::from(selector::KERNEL_CODE) << 16
            | present_interrupt_gate << 32
            | (address >> 16 & 0xffff) << 48;
        memory.put_u64(base, usize::from(vector) * GATE, low);
        memory.put_u64(base, usize::from(vector) * GATE + 8, address >> 32);
    };
    for vector in 0..32 {
        set(vector, image.unexpected(vector), false);
    }
    set(3, image.entry(Entry::Breakpoint), true);
    set(14, image.entry(Entry::PageFault), false);
    set(18, image.entry(Entry::MachineCheck), false);
    let ready = match apic {
        Apic::X2apic => Entry::ReadyX2apic,
        Apic::None => Entry::Ready,
    };
    set(READY_VECTOR, image.entry(ready), false);
    DescriptorTable {
        base,
        limit: (GATES * GATE - 1) as u16,
    }
}
