//! What one asynchronous fault costs: in the machine of vCPUs alone, and through both machines.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use surefault_core::faults::{
    Announced, Effect, Fault, Faults, FaultsConfig, GuestApf, ItemId, Moment, Prefaulted, Root,
};
use surefault_core::policy::{AnyPolicy, Exact, Policy};
use surefault_core::residency::{
    self, FetchRange, InstallResult, PageOutcome, PageState, Residency, ResidencyConfig,
};
use surefault_core::{Gfn, Gva, PageCount, PageId, PageIndex, RegionId, SlotId, VcpuId};

const PAGES: u32 = 1 << 20;
const VCPU: VcpuId = VcpuId::new(0);
const ROOT: Root = Root::new(1);

/// A machine in the guest, with asynchronous faults on and the broadcast acknowledged.
fn machine<P: Policy>() -> Faults<P> {
    let mut faults = Faults::new(FaultsConfig::new(1)).expect("the limits fit");
    faults.handle_entry(VCPU, ROOT);
    let on = GuestApf::On {
        send_always: false,
        error_word: false,
    };
    faults.handle_guest_apf(VCPU, on);
    faults.handle_entry(VCPU, ROOT);
    faults.handle_ack(VCPU);
    while faults.poll_effect().is_some() {}
    faults
}

fn fault(n: u32) -> Fault {
    let n = n % PAGES;
    Fault {
        page: PageId::new(RegionId::new(0), PageIndex::new(n)),
        memslot: SlotId::new(0),
        gfn: Gfn::new(n.into()),
        rip: Gva::new(0x40_0000),
    }
}

/// From the fault to the guest's ack. `work` gets the page, and says when it is there.
fn one<P: Policy>(
    faults: &mut Faults<P>,
    n: u32,
    state: PageState,
    mut work: impl FnMut(PageId) -> PageOutcome,
) {
    faults.handle_fault(VCPU, fault(n), &Moment::user(Gva::new(0), ROOT), state);
    while let Some(effect) = faults.poll_effect() {
        match effect {
            Effect::NotPresent { item, .. } => {
                faults.handle_announced(VCPU, item, Announced::Injected);
            }
            Effect::Work { item, page, .. } => {
                faults.handle_work_done(VCPU, item, work(page));
            }
            Effect::Resume { .. } | Effect::Kick { .. } => {
                faults.handle_entry(VCPU, ROOT);
            }
            Effect::Prefault { item, .. } => {
                faults.handle_prefaulted(VCPU, item, Prefaulted::Fixed);
            }
            Effect::Ready { .. } => {
                faults.handle_ack(VCPU);
            }
            other => {
                black_box(other);
            }
        }
    }
    while faults.poll_timer().is_some() {}
}

/// Demands the page and serves it at once.
fn fetch(machine: &mut Residency, page: PageId) -> PageOutcome {
    let admitted = machine.handle_demand(page).expect("the page exists");
    assert_eq!(admitted, residency::Admission::Taken);
    while machine.poll_timer().is_some() {}
    let mut outcome = PageOutcome::Cancelled;
    while let Some(effect) = machine.poll_effect() {
        match effect {
            residency::Effect::Fetch(FetchRange { generation, .. }) => {
                machine.handle_fetched(generation, Ok(()));
            }
            residency::Effect::Install {
                generation,
                first,
                count,
            } => {
                let count = machine.may_apply(generation, first, count);
                machine.handle_installed(generation, first, count, InstallResult::Done);
            }
            residency::Effect::Settled { outcome: how, .. } => outcome = how,
            other => {
                black_box(other);
            }
        }
    }
    outcome
}

fn faults(c: &mut Criterion) {
    let mut n = 0u32;
    let mut alone = machine::<Exact>();
    c.bench_function("faults/asynchronous fault", |b| {
        b.iter(|| {
            n = n.wrapping_add(7919);
            one(&mut alone, n, PageState::Absent, |_| PageOutcome::Present);
        });
    });

    let mut chosen = machine::<AnyPolicy>();
    c.bench_function(
        "faults/asynchronous fault, policy chosen at run time",
        |b| {
            b.iter(|| {
                n = n.wrapping_add(7919);
                one(&mut chosen, n, PageState::Absent, |_| PageOutcome::Present);
            });
        },
    );

    let mut busy = machine::<Exact>();
    queue_up(&mut busy, 63);
    c.bench_function("faults/asynchronous fault beside 63 queued", |b| {
        b.iter(|| {
            n = n.wrapping_add(2);
            one(&mut busy, (1 << 19) | n | 1, PageState::Absent, |_| {
                PageOutcome::Present
            });
        });
    });

    let pages = PageCount::new(PAGES.into());
    let mut pages = Residency::new(ResidencyConfig::default(), &[pages]).expect("the limits fit");
    let mut both = machine::<Exact>();
    c.bench_function("faults/asynchronous fault through both machines", |b| {
        b.iter(|| {
            n = n.wrapping_add(7919);
            let page = fault(n).page;
            let state = pages.state(page).expect("the page exists");
            one(&mut both, n, state, |page| fetch(&mut pages, page));
            pages.handle_cancelled(page, 1).expect("the page exists");
        });
    });
}

/// Lets `count` items wait for their work.
fn queue_up(faults: &mut Faults<Exact>, count: u32) {
    for n in 0..count {
        let state = PageState::Absent;
        faults.handle_fault(VCPU, fault(n * 2), &Moment::user(Gva::new(0), ROOT), state);
        let mut announced: Option<ItemId> = None;
        while let Some(effect) = faults.poll_effect() {
            if let Effect::NotPresent { item, .. } = effect {
                announced = Some(item);
            }
        }
        let item = announced.expect("the guest is told");
        faults.handle_announced(VCPU, item, Announced::Injected);
        faults.handle_entry(VCPU, ROOT);
        while faults.poll_effect().is_some() {}
    }
}

criterion_group!(benches, faults);
criterion_main!(benches);
