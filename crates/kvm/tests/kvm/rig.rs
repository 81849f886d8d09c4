//! What the tests run, and what they run it on.

use std::sync::Arc;
use std::time::Duration;

use surefault_core::plan::{FaultPlan, Latency};
use surefault_core::policy::PolicyKind;
use surefault_core::run::{
    ApfMode, Irqchip, OnError, Outcome, PagerMode, Reported, RunResult, RunSpec,
};
use surefault_core::workload::{FirstTouch, Touch, Workload};
use surefault_core::{PageCount, PageIndex, PageSize};
use surefault_kvm::apf::{Apf, ApfSpec};
use surefault_kvm::runner::{AfterReport, Observer, RunError, run, run_with_apf, run_workload};
use surefault_kvm::signals;
use surefault_kvm::vm::{Faults, Vm};
use surefault_store::{PatternStore, ReadRequest, Store, StoreError};

pub(crate) const PAGE: u64 = PageSize::KIB_4.bytes();
const SEED: u64 = 7;

/// Whether this host lets asynchronous faults come from user space.
pub(crate) fn from_user_space() -> Result<(), String> {
    let faults = Faults::FromUserSpace { error_word: false };
    let vm = Vm::new(faults, Irqchip::Kernel);
    vm.map(drop).map_err(|error| error.to_string())
}

/// Who may run the asynchronous faults on this host.
pub(crate) fn modes() -> Vec<ApfMode> {
    let mut modes = vec![ApfMode::Off, ApfMode::Kernel];
    match from_user_space() {
        Ok(()) => modes.push(ApfMode::User),
        Err(reason) => println!("skipped: --apf user: {reason}"),
    }
    modes
}

/// A healthy run that no test waits for as long as its limit.
pub(crate) fn spec(pages: u64, tasks: u16, vcpus: u16) -> RunSpec {
    RunSpec {
        tasks,
        vcpus,
        pages: PageCount::new(pages),
        seed: SEED,
        plan: FaultPlan::new(SEED, Latency::default()),
        deadline: Duration::from_secs(30),
        attempts: 3,
        timeout: Duration::from_secs(120),
        pager: PagerMode::Surefault,
        apf: ApfMode::Off,
        irqchip: Irqchip::Kernel,
        on_error: OnError::Exit,
        policy: PolicyKind::default(),
    }
}

/// The same, failing as `--fail` would have it.
pub(crate) fn failing(spec: RunSpec, fail: &str) -> RunSpec {
    let mut plan = spec.plan.clone();
    plan.push(fail.parse().unwrap());
    RunSpec { plan, ..spec }
}

pub(crate) fn pattern(spec: &RunSpec) -> Arc<dyn Store> {
    Arc::new(PatternStore::new(SEED, spec.pages.get() * PAGE))
}

/// Runs `spec` on the pattern.
pub(crate) fn go(spec: &RunSpec, observer: &mut dyn Observer) -> RunResult {
    let signals = signals::install().unwrap();
    run(spec, pattern(spec), signals, observer).unwrap()
}

/// The same with asynchronous faults from user space, whose vCPUs wait in a fault until they are
/// kicked, instead of being refused what is not there yet.
pub(crate) fn go_blocked(spec: &RunSpec) -> RunResult {
    let workload = Workload::partition(spec.pages, spec.tasks, spec.seed);
    run_blocked(spec, workload)
}

/// The same with tasks that make the touches of `workload`.
pub(crate) fn run_blocked(spec: &RunSpec, workload: Workload) -> RunResult {
    let apf = ApfSpec {
        refuse_absent: false,
        errors_to_guest: spec.on_error == OnError::Guest,
        error_word: spec.on_error == OnError::Guest,
        ..ApfSpec::new(spec.vcpus, spec.policy)
    };
    let apf = Some(Arc::new(Apf::new(apf).unwrap()));
    let signals = signals::install().unwrap();
    run_with_apf(spec, workload, apf, pattern(spec), signals, &mut ()).unwrap()
}

/// One task that makes `touches`, on one vCPU.
pub(crate) fn one_task(
    fail: &str,
    touches: &[(u32, FirstTouch)],
    source: Arc<dyn Store>,
    observer: &mut dyn Observer,
) -> Result<RunResult, RunError> {
    let pages = PageCount::new(source.size() / PAGE);
    let touches = touches
        .iter()
        .map(|&(page, first)| Touch {
            page: PageIndex::new(page),
            first,
        })
        .collect();
    let workload = Workload::new(pages, vec![touches]).unwrap();
    let mut spec = spec(pages.get(), 1, 1);
    if fail != "none" {
        spec = failing(spec, fail);
    }
    let signals = signals::install().unwrap();
    run_workload(&spec, workload, source, signals, observer)
}

/// Every page was read, by everybody, as it is in the source.
pub(crate) fn assert_finished(result: &RunResult, spec: &RunSpec) {
    assert_eq!(result.outcome, Outcome::Finished, "{result:?}");
    assert_eq!(result.report, None);
    assert_eq!(result.stats.pages_done, spec.pages.get());
    assert_eq!(result.stats.tasks_finished, spec.tasks);
    assert_sums(result);
}

pub(crate) fn assert_sums(result: &RunResult) {
    assert_eq!(result.stats.wrong_sums, 0, "{result:?}");
    assert_eq!(result.stats.unchecked_sums, 0, "{result:?}");
}

/// Heals each page that is reported, and keeps the reports.
#[derive(Default)]
pub(crate) struct Healer {
    pub(crate) reports: Vec<Reported>,
}

impl Observer for Healer {
    fn reported(&mut self, reported: &Reported) -> AfterReport {
        self.reports.push(reported.clone());
        AfterReport::Heal
    }
}

/// The pattern, with code at the start of some pages.
pub(crate) struct Code {
    pattern: PatternStore,
    code: Vec<(u32, Vec<u8>)>,
}

impl Code {
    pub(crate) fn new(pages: u64, code: &[(u32, &[u8])]) -> Arc<Code> {
        let code = code.iter().map(|&(page, code)| (page, code.to_vec()));
        Arc::new(Code {
            pattern: PatternStore::new(SEED, pages * PAGE),
            code: code.collect(),
        })
    }
}

impl Store for Code {
    fn size(&self) -> u64 {
        self.pattern.size()
    }

    fn describe(&self) -> String {
        "a pattern with code in it".to_owned()
    }

    fn read(&self, request: ReadRequest, buf: &mut [u8]) -> Result<(), StoreError> {
        self.pattern.read(request, buf)?;
        for (page, code) in &self.code {
            let start = u64::from(*page) * PAGE;
            for (at, &byte) in (start..).zip(code) {
                if let Some(at) = at.checked_sub(request.offset)
                    && let Some(target) = buf.get_mut(at as usize)
                {
                    *target = byte;
                }
            }
        }
        Ok(())
    }

    fn read_now(&self, request: ReadRequest, buf: &mut [u8]) -> Option<Result<(), StoreError>> {
        Some(self.read(request, buf))
    }
}
