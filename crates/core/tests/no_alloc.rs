//! In the steady state the machines allocate nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use surefault_core::faults::{
    self, Announced, Fault, Faults, FaultsConfig, GuestApf, Moment, Prefaulted, Root,
};
use surefault_core::policy::Exact;
use surefault_core::residency::{
    Admission, Effect, InstallResult, PageOutcome, PageState, Residency, ResidencyConfig,
};
use surefault_core::{
    Cause, CauseId, CauseKind, Failure, Gfn, Gva, PageCount, PageId, PageIndex, RegionId, SlotId,
    VcpuId,
};

/// Counts the allocations of this thread, so that other threads of the test harness do not count.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.with(|n| n.set(n.get() + 1));
}

#[allow(unsafe_code, reason = "an allocator that counts")]
// SAFETY: everything is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn page(n: u32) -> PageId {
    PageId::new(RegionId::new(0), PageIndex::new(n))
}

/// Eight pages are demanded and prefetched at once, fetched in ranges, and removed again.
fn turn(machine: &mut Residency, first: u32) {
    for n in [0, 5, 3] {
        assert_eq!(machine.handle_demand(page(first + n)), Ok(Admission::Taken));
    }
    machine
        .handle_prefetch(page(first), 8)
        .expect("the pages exist");
    let mut settled = 0;
    while let Some(effect) = machine.poll_effect() {
        match effect {
            Effect::Fetch(range) => machine.handle_fetched(range.generation, Ok(())),
            Effect::Install {
                generation,
                first,
                count,
            } => {
                assert_eq!(machine.may_apply(generation, first, count), count);
                machine.handle_installed(generation, first, count, InstallResult::Done);
            }
            Effect::Settled { .. } => settled += 1,
            other => panic!("unexpected: {other:?}"),
        }
    }
    assert_eq!(settled, 3);
    while machine.poll_timer().is_some() {}
    machine
        .handle_removed(page(first), 8)
        .expect("the pages exist");
    machine
        .handle_cancelled(page(first), 8)
        .expect("the pages exist");
}

#[test]
fn residency_allocates_nothing_in_the_steady_state() {
    let pages = PageCount::new(1 << 16);
    let mut machine = Residency::new(ResidencyConfig::default(), &[pages]).expect("limits fit");
    for n in 0..100 {
        turn(&mut machine, n * 64);
    }
    let before = ALLOCATIONS.get();
    for n in 0..2000 {
        turn(&mut machine, n * 32);
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
    // The counter itself works.
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(ALLOCATIONS.get() - before, 1);
}

/// As many faults as the queue holds, told to the guest, served, acknowledged; every fourth page
/// fails, and its error is owed until the page is touched again.
fn fault_turn(machine: &mut Faults<Exact>, first: u32) {
    let vcpu = VcpuId::new(0);
    let root = Root::new(1);
    let failed = Failure {
        cause: Cause {
            kind: CauseKind::Io,
            id: CauseId::default(),
        },
        attempts: 1,
    };
    let fails = |n: u32| n.is_multiple_of(4);
    machine.handle_entry(vcpu, root);
    for n in first..first + 64 {
        let fault = Fault {
            page: page(n),
            memslot: SlotId::new(0),
            gfn: Gfn::new(n.into()),
            rip: Gva::new(0x1000),
        };
        machine.handle_fault(
            vcpu,
            fault,
            &Moment::user(Gva::new(0), root),
            PageState::Absent,
        );
        while let Some(effect) = machine.poll_effect() {
            match effect {
                faults::Effect::NotPresent { item, .. } => {
                    machine.handle_announced(vcpu, item, Announced::Injected);
                }
                faults::Effect::Work { item, page, .. } => {
                    let outcome = match fails(page.index().get()) {
                        true => PageOutcome::Failed(failed),
                        false => PageOutcome::Present,
                    };
                    machine.handle_work_done(vcpu, item, outcome);
                }
                faults::Effect::Resume { .. } | faults::Effect::Kick { .. } => {
                    machine.handle_entry(vcpu, root);
                }
                faults::Effect::Prefault { item, page, .. } => {
                    let how = match fails(page.index().get()) {
                        true => Prefaulted::Error(failed),
                        false => Prefaulted::Fixed,
                    };
                    machine.handle_prefaulted(vcpu, item, how);
                }
                faults::Effect::Ready { .. } => drop(machine.handle_ack(vcpu)),
                faults::Effect::Enter { .. } | faults::Effect::Unclaimed { .. } => {}
                other => panic!("unexpected: {other:?}"),
            }
        }
        while machine.poll_timer().is_some() {}
    }
    assert_eq!(machine.queued(vcpu), 0);
}

#[test]
fn faults_allocate_nothing_in_the_steady_state() {
    let mut machine = Faults::<Exact>::new(FaultsConfig::new(1)).expect("limits fit");
    let vcpu = VcpuId::new(0);
    machine.handle_entry(vcpu, Root::new(1));
    let on = GuestApf::On {
        send_always: false,
        error_word: false,
    };
    machine.handle_guest_apf(vcpu, on);
    for n in 0..10 {
        fault_turn(&mut machine, n * 64);
    }
    let before = ALLOCATIONS.get();
    for n in 0..200 {
        fault_turn(&mut machine, n * 64);
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
}
