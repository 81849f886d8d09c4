//! Hosts without poison: KVM says EFAULT and no more, and the page is found among those that the
//! instruction touches.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use surefault_core::run::{Irqchip, OnError, Outcome, RunResult};
use surefault_core::workload::Workload;
use surefault_core::{PageId, PageSize};
use surefault_kvm::machine::{Machine, MachineSpec};
use surefault_kvm::memory::Mapping;
use surefault_kvm::pages::{PageSource, Paged};
use surefault_kvm::runner::{Limits, Observer, drive};
use surefault_kvm::signals;
use surefault_kvm::vm::Faults;
use surefault_pager::{FailedPage, PagerConfig};
use surefault_store::PlannedStore;

use crate::Case;
use crate::rig::{Healer, PAGE, assert_finished, assert_sums, failing, go, pattern, spec};

pub(crate) const CASES: &[Case] = &[("without_poison_reports_are_the_same", same)];

fn protected(fail: &str, faults: Faults, observer: &mut dyn Observer) -> RunResult {
    let spec = failing(spec(32, 3, 1), fail);
    let source = pattern(&spec);
    let data = Arc::new(Mapping::on_demand((spec.pages.get() * PAGE) as usize).unwrap());
    let store = PlannedStore::new(source.clone(), spec.plan.clone(), PageSize::KIB_4);
    let store = Arc::new(store);
    let config = PagerConfig {
        failed_page: FailedPage::Protect,
        ..PagerConfig::default()
    };
    let paged = Paged::start(data.clone(), PageSize::KIB_4, store.clone(), &config, None);
    let paged = Arc::new(paged.unwrap());
    let pages: Arc<dyn PageSource> = paged.clone();
    let machine_spec = MachineSpec {
        vcpus: spec.vcpus,
        workload: Arc::new(Workload::partition(spec.pages, spec.tasks, spec.seed)),
        page_size: PageSize::KIB_4,
        yield_every: NonZeroU32::MIN,
        faults,
        irqchip: Irqchip::Kernel,
        apf: None,
        on_error: OnError::Exit,
        vendor: None,
    };
    let signals = signals::install().unwrap();
    let (machine, vcpus) = Machine::new(&machine_spec, data, &pages, signals).unwrap();
    let heal = |page: PageId| {
        store.repair(page.index()..=page.index());
        paged.pager().heal(page, 1);
        Ok(())
    };
    let limits = Limits {
        timeout: spec.timeout,
        patience: Duration::from_secs(60),
    };
    let result = drive(&machine, vcpus, &*pages, &*source, &heal, limits, observer);
    result.unwrap()
}

fn same() {
    for faults in [Faults::Synchronous, Faults::Asynchronous] {
        for fail in ["0", "9", "31"] {
            let without = protected(fail, faults, &mut ());
            let with = go(&failing(spec(32, 3, 1), fail), &mut ());
            assert_eq!(without.outcome, Outcome::Reported);
            assert_sums(&without);
            assert_eq!(without.report, with.report);
        }
        let mut healer = Healer::default();
        let result = protected("3,7-9", faults, &mut healer);
        assert_finished(&result, &spec(32, 3, 1));
        assert_eq!(healer.reports.len(), 4);
    }
}
