//! A machine put together by hand, for tests that reach into it while it runs.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use surefault_core::residency::ResidencyConfig;
use surefault_core::run::{ApfMode, OnError, RunResult, RunSpec};
use surefault_core::workload::Workload;
use surefault_core::{PageId, PageSize};
use surefault_guest::Idle;
use surefault_kvm::apf::{Apf, ApfSpec};
use surefault_kvm::machine::{Machine, MachineSpec};
use surefault_kvm::mce::Vendor;
use surefault_kvm::memory::Mapping;
use surefault_kvm::pages::{PageSource, Paged};
use surefault_kvm::runner::{Limits, Observer, drive};
use surefault_kvm::signals;
use surefault_kvm::vcpu::Vcpu;
use surefault_kvm::vm::Faults;
use surefault_pager::{FailedPage, FaultObserver, PagerConfig};
use surefault_store::{PlannedStore, Store};

use crate::rig::{PAGE, pattern};

/// The pattern, failing as planned until it is repaired.
pub(crate) type Planned = PlannedStore<Arc<dyn Store>>;

/// What a test may choose beside the run.
pub(crate) struct Choices {
    /// How a failed page is marked.
    pub(crate) failed_page: FailedPage,
    /// Whose CPUs the guest has; the host's when `None`.
    pub(crate) vendor: Option<Vendor>,
    /// What a vCPU does when no task can run.
    pub(crate) idle: Idle,
    /// Where asynchronous faults come from user space: first accesses are refused.
    pub(crate) refuse_absent: bool,
    /// How many pages may be on their way.
    pub(crate) max_pending: usize,
}

impl Default for Choices {
    fn default() -> Choices {
        Choices {
            failed_page: FailedPage::Auto,
            vendor: None,
            idle: Idle::Count,
            refuse_absent: true,
            max_pending: ResidencyConfig::default().max_pending,
        }
    }
}

/// The machine, and who provides its pages.
pub(crate) struct Stage {
    // Whoever provides the pages ends before the machine.
    pages: Arc<dyn PageSource>,
    paged: Arc<Paged>,
    pub(crate) store: Arc<Planned>,
    source: Arc<dyn Store>,
    pub(crate) machine: Machine,
    timeout: Duration,
}

impl Stage {
    /// Puts `spec` together, whose tasks touch what `workload` says.
    pub(crate) fn new(spec: &RunSpec, workload: Workload, choices: Choices) -> (Stage, Vec<Vcpu>) {
        let apf = (spec.apf == ApfMode::User).then(|| {
            let of = ApfSpec {
                refuse_absent: choices.refuse_absent,
                errors_to_guest: spec.on_error == OnError::Guest,
                ..ApfSpec::new(spec.vcpus, spec.policy)
            };
            Arc::new(Apf::new(of).unwrap())
        });
        let source = pattern(spec);
        let data = Arc::new(Mapping::on_demand((spec.pages.get() * PAGE) as usize).unwrap());
        let store = PlannedStore::new(source.clone(), spec.plan.clone(), PageSize::KIB_4);
        let store = Arc::new(store);
        let config = PagerConfig {
            residency: ResidencyConfig {
                deadline: spec.deadline,
                max_pending: choices.max_pending,
                ..ResidencyConfig::default()
            },
            failed_page: choices.failed_page,
            refuse_absent: apf.is_some() && choices.refuse_absent,
            ..PagerConfig::default()
        };
        let observer = apf.clone().map(|apf| -> Arc<dyn FaultObserver> { apf });
        let paged = Paged::start(
            data.clone(),
            PageSize::KIB_4,
            store.clone(),
            &config,
            observer,
        );
        let paged = Arc::new(paged.unwrap());
        let pages: Arc<dyn PageSource> = paged.clone();
        let machine_spec = MachineSpec {
            vcpus: spec.vcpus,
            workload: Arc::new(workload),
            page_size: PageSize::KIB_4,
            yield_every: NonZeroU32::MIN,
            idle: choices.idle,
            faults: match spec.apf {
                ApfMode::Off => Faults::Synchronous,
                ApfMode::Kernel => Faults::Asynchronous,
                ApfMode::User => Faults::FromUserSpace { error_word: false },
            },
            irqchip: spec.irqchip,
            apf,
            on_error: spec.on_error,
            vendor: choices.vendor,
        };
        let signals = signals::install().unwrap();
        let (machine, vcpus) = Machine::new(&machine_spec, data, &pages, signals).unwrap();
        let stage = Stage {
            pages,
            paged,
            store,
            source,
            machine,
            timeout: spec.timeout,
        };
        (stage, vcpus)
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, vcpus: Vec<Vcpu>, observer: &mut dyn Observer) -> RunResult {
        let heal = |page: PageId| {
            self.store.repair(page.index()..=page.index());
            self.paged.pager().heal(page, 1);
            Ok(())
        };
        let limits = Limits {
            timeout: self.timeout,
            patience: Duration::from_secs(60),
        };
        drive(
            &self.machine,
            vcpus,
            &*self.pages,
            &*self.source,
            &heal,
            limits,
            observer,
        )
        .unwrap()
    }
}
