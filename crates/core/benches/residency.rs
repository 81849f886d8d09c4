//! What one fault costs in the residency machine: demand, fetch, install, settled.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use surefault_core::residency::{
    Admission, Effect, FetchRange, InstallResult, Residency, ResidencyConfig,
};
use surefault_core::{PageCount, PageId, PageIndex, RegionId};

const PAGES: u32 = 1 << 20;

fn page(n: u32) -> PageId {
    PageId::new(RegionId::new(0), PageIndex::new(n % PAGES))
}

fn serve_one(machine: &mut Residency, n: u32) {
    let page = page(n);
    assert_eq!(machine.handle_demand(page), Ok(Admission::Taken));
    while machine.poll_timer().is_some() {}
    while let Some(effect) = machine.poll_effect() {
        match effect {
            Effect::Fetch(FetchRange { generation, .. }) => {
                machine.handle_fetched(generation, Ok(()));
            }
            Effect::Install {
                generation,
                first,
                count,
            } => {
                let count = machine.may_apply(generation, first, count);
                machine.handle_installed(generation, first, count, InstallResult::Done);
            }
            other => {
                black_box(other);
            }
        }
    }
    machine.handle_cancelled(page, 1).expect("the page exists");
}

fn residency(c: &mut Criterion) {
    let config = ResidencyConfig::default();
    let mut machine =
        Residency::new(config.clone(), &[PageCount::new(PAGES.into())]).expect("the limits fit");
    let mut n = 0u32;
    c.bench_function("residency/fault", |b| {
        b.iter(|| {
            n = n.wrapping_add(7919);
            serve_one(&mut machine, n);
        });
    });

    // The same with 63 other pages waiting for a source that does not answer.
    let mut busy = Residency::new(config, &[PageCount::new(PAGES.into())]).expect("the limits fit");
    for n in 0..63 {
        assert_eq!(busy.handle_demand(page(n * 4099)), Ok(Admission::Taken));
        assert!(matches!(busy.poll_effect(), Some(Effect::Fetch(_))));
    }
    c.bench_function("residency/fault beside 63 stalled", |b| {
        b.iter(|| {
            n = n.wrapping_add(2);
            serve_one(&mut busy, n | 1);
        });
    });
}

criterion_group!(benches, residency);
criterion_main!(benches);
