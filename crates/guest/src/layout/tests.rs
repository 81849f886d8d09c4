use surefault_core::PageCount;

use super::*;
use crate::view::{TaskProgress, VcpuView};

fn spec(workload: &Workload, vcpus: u16) -> GuestSpec<'_> {
    GuestSpec {
        vcpus,
        workload,
        page_size: PageSize::KIB_4,
        yield_every: NonZeroU32::MIN,
        idle: Idle::Count,
        apf: GuestApf::Off,
        interrupts: true,
        apic: Apic::X2apic,
    }
}

/// Walks the guest's page tables: where `gva` is, and whether ring 3 may go there.
fn translate(bytes: &[u8], cr3: u64, gva: u64) -> Option<(u64, bool)> {
    let entry = |table: u64, index: u64| {
        let at = (table + (index % 512) * 8) as usize;
        let entry = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        (entry & 1 != 0).then_some(entry)
    };
    let base = |entry: u64| entry & 0x000f_ffff_ffff_f000;
    let pml4e = entry(cr3, gva >> 39)?;
    let pdpte = entry(base(pml4e), gva >> 30)?;
    let pde = entry(base(pdpte), gva >> 21)?;
    assert_ne!(pde & 0x80, 0, "a large page");
    let user = pml4e & pdpte & pde & 4 != 0;
    Some((base(pde) + gva % LARGE_PAGE, user))
}

#[test]
fn every_address_is_mapped_to_itself_for_the_right_ring() {
    let workload = Workload::partition(PageCount::new(300_000), 3, 1);
    let (layout, bytes) = Layout::new(&spec(&workload, 2)).unwrap();
    let at = |gva: u64| translate(&bytes, layout.cr3, gva);
    let record = |n| layout.record(TaskId::new(n)).unwrap().get();
    let area = layout.area(VcpuId::new(1)).unwrap().get();
    let data_last = DATA_BASE + 300_000 * 4096 - 1;
    assert_eq!(at(layout.entry.get()), Some((layout.entry.get(), false)));
    assert_eq!(at(area), Some((area, false)));
    assert_eq!(at(record(2)), Some((record(2), true)));
    assert_eq!(at(DATA_BASE), Some((DATA_BASE, true)));
    assert_eq!(at(data_last), Some((data_last, true)));
    assert_eq!(at(DATA_BASE - 1), None);
    assert_eq!(at(data_last + LARGE_PAGE), None);
}

#[test]
fn tasks_are_dealt_round_robin_and_start_with_nothing_done() {
    let workload = Workload::partition(PageCount::new(8), 5, 1);
    let (layout, bytes) = Layout::new(&spec(&workload, 2)).unwrap();
    let view = |vcpu| {
        let at = layout.area(VcpuId::new(vcpu)).unwrap().get() as usize;
        VcpuView::parse(bytes[at..at + VcpuView::LEN].try_into().unwrap())
    };
    assert_eq!((view(0).live, view(1).live), (3, 2));
    assert_eq!(layout.running(&view(0)), None);
    assert_eq!(layout.area(VcpuId::new(2)), None);
    for task in 0..5 {
        let at = layout.record(TaskId::new(task)).unwrap().get() as usize;
        let progress = TaskProgress::parse(bytes[at..at + TaskProgress::LEN].try_into().unwrap());
        assert_eq!((progress.done, progress.sum), (0, SUM_START));
    }
    assert_eq!(layout.record(TaskId::new(5)), None);
}

#[test]
fn what_does_not_fit_is_said() {
    let workload = Workload::new(PageCount::new(1 << 31), Vec::new()).unwrap();
    assert!(matches!(
        Layout::new(&spec(&workload, 1)),
        Err(LayoutError::DataTooLarge { .. })
    ));
    let workload = Workload::partition(PageCount::new(1), 1, 1);
    assert_eq!(
        Layout::new(&spec(&workload, 0)).err(),
        Some(LayoutError::NoVcpus)
    );
}
