//! Runs a guest until it is done, a page has failed for good, or time is up.

use core::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use surefault_core::residency::ResidencyConfig;
use surefault_core::run::{ApfMode, Counters, Outcome, Reported, RunResult, RunSpec, RunStats};
use surefault_core::workload::Workload;
use surefault_core::{FaultReport, PageId, PageIndex, PageSize};
use surefault_guest::abi::{PORT_DONE, PORT_TRAP};
use surefault_pager::PagerConfig;
use surefault_store::{PlannedStore, Store};

use crate::check::check;
use crate::crew::Crew;
use crate::machine::{Machine, MachineSpec};
use crate::memory::{Mapping, MemoryError};
use crate::pages::{PageSource, Paged};
use crate::signals::Signals;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Faults;

mod error;
mod observer;

pub use error::RunError;
pub use observer::{AfterReport, Observer, Progress};

/// How often an observer is told how far the run is.
const TICK: Duration = Duration::from_millis(100);

/// How much longer than the deadline of a page a vCPU may take to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Runs the built-in guest on demand-paged memory that comes from `source`, failing as the plan of
/// `spec` says.
///
/// When it stops with a report, the sums of all that the tasks have read until then are checked,
/// too.
///
/// # Errors
/// When the host refuses something, or the guest breaks. A page that cannot be had is no error.
pub fn run(
    spec: &RunSpec,
    source: Arc<dyn Store>,
    signals: Signals,
    observer: &mut dyn Observer,
) -> Result<RunResult, RunError> {
    if u32::try_from(spec.pages.get()).is_err() {
        return Err(RunError::TooManyPages { pages: spec.pages });
    }
    let workload = Workload::partition(spec.pages, spec.tasks, spec.seed);
    run_workload(spec, workload, source, signals, observer)
}

/// As [`run`], with tasks that touch what `workload` says: it has the pages and the tasks, not
/// `spec`.
///
/// # Errors
/// As [`run`].
pub fn run_workload(
    spec: &RunSpec,
    workload: Workload,
    source: Arc<dyn Store>,
    signals: Signals,
    observer: &mut dyn Observer,
) -> Result<RunResult, RunError> {
    let page_size = PageSize::new(rustix::param::page_size() as u64)
        .expect("the host's page size is a power of two");
    let pages = workload.pages();
    let too_many = || RunError::TooManyPages { pages };
    let len = (pages.bytes(page_size)).and_then(|bytes| usize::try_from(bytes).ok());
    let data = Arc::new(Mapping::on_demand(len.ok_or_else(too_many)?)?);

    let planned = Arc::new(PlannedStore::new(
        Arc::clone(&source),
        spec.plan.clone(),
        page_size,
    ));
    let config = pager_config(spec);
    let paged = Paged::start(Arc::clone(&data), page_size, planned.clone(), &config)?;
    let paged = Arc::new(paged);
    let pages: Arc<dyn PageSource> = paged.clone();

    let machine_spec = MachineSpec {
        vcpus: spec.vcpus,
        workload: Arc::new(workload),
        page_size,
        yield_every: NonZeroU32::MIN,
        faults: match spec.apf {
            ApfMode::Off => Faults::Synchronous,
            ApfMode::Kernel => Faults::Asynchronous,
            mode @ ApfMode::User => return Err(RunError::ApfMode { mode }),
        },
    };
    let (machine, vcpus) = Machine::new(&machine_spec, data, &pages, signals)?;
    let heal = |page: PageId| {
        planned.repair(page.index()..=page.index());
        paged.pager().heal(page, 1);
    };
    let limits = Limits {
        timeout: spec.timeout,
        patience: spec.deadline + STOP_PATIENCE,
    };
    let result = drive(&machine, vcpus, &*pages, &*source, &heal, limits, observer);
    // In this order: the end of a VM waits for the kernel's workers, which may be waiting for pages
    // (`kvm_clear_async_pf_completion_queue`), and the end of a pager leaves nobody waiting.
    drop(pages);
    drop(paged);
    drop(machine);
    result
}

fn pager_config(spec: &RunSpec) -> PagerConfig {
    let defaults = ResidencyConfig::default();
    PagerConfig {
        residency: ResidencyConfig {
            attempts: spec.attempts,
            deadline: spec.deadline,
            range_patience: defaults.range_patience.min(spec.deadline / 2),
            ..defaults
        },
        ..PagerConfig::default()
    }
}

/// How long things may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The run.
    pub timeout: Duration,
    /// A vCPU, to stop.
    pub patience: Duration,
}

/// Runs a machine that has been put together; [`run`] is this with a pager behind it.
///
/// `source` is what the pages hold, without planned failures; `heal` is called for a page that an
/// observer wants healed.
///
/// # Errors
/// When the guest breaks, or a vCPU cannot go on.
pub fn drive(
    machine: &Machine,
    vcpus: Vec<Vcpu>,
    pages: &dyn PageSource,
    source: &dyn Store,
    heal: &dyn Fn(PageId),
    limits: Limits,
    observer: &mut dyn Observer,
) -> Result<RunResult, RunError> {
    let started = Instant::now();
    let mut left = vcpus.len();
    let mut crew = Crew::start(vcpus).map_err(RunError::Thread)?;
    let mut healed = 0;
    let mut told = Instant::now();
    let (outcome, report) = loop {
        if left == 0 {
            break (Outcome::Finished, None);
        }
        let elapsed = started.elapsed();
        let Some(remaining) = limits.timeout.checked_sub(elapsed) else {
            break (Outcome::TimedOut, None);
        };
        if told.elapsed() >= TICK {
            told = Instant::now();
            if observer.progress(&progress(machine, elapsed)?).is_break() {
                break (Outcome::Cancelled, None);
            }
        }
        let Some((vcpu, ended)) = crew.next(remaining.min(TICK)) else {
            continue;
        };
        match ended? {
            Exit::Out(PORT_DONE) => left -= 1,
            Exit::Out(PORT_TRAP) => {
                let trap = machine.view(vcpu)?.trap;
                return Err(RunError::Guest { vcpu, trap });
            }
            Exit::Out(port) => return Err(RunError::Port { vcpu, port }),
            Exit::Kicked => crew.resume(vcpu),
            Exit::Failed { report, page } => {
                let reported = reported(machine, pages, report, page)?;
                match observer.reported(&reported) {
                    AfterReport::Stop => break (Outcome::Reported, Some(reported)),
                    AfterReport::Heal => {
                        heal(page);
                        machine.watch().healed(page);
                        healed += 1;
                        crew.resume(vcpu);
                    }
                    AfterReport::Resume => crew.resume(vcpu),
                }
            }
        }
    };
    let elapsed = started.elapsed();
    crew.stop(limits.patience)?;
    let checked = check(machine, source, pages.page_size())?;
    Ok(RunResult {
        outcome,
        report,
        stats: RunStats {
            pages_done: checked.pages_done,
            tasks_finished: checked.tasks_finished,
            wrong_sums: checked.wrong,
            unchecked_sums: checked.unchecked,
            healed,
            tokens_left: machine.tokens()?,
            progress: machine.counted()?,
            returns: machine.watch().returns(),
            kvm: Counters::new(),
            pager: Counters::new(),
            elapsed,
        },
    })
}

fn progress(machine: &Machine, elapsed: Duration) -> Result<Progress, MemoryError> {
    let mut done = 0;
    for task in machine.tasks() {
        done += machine.progress(task)?.done;
    }
    let lists = machine.workload().tasks().iter();
    Ok(Progress {
        done,
        total: lists.map(|list| list.len() as u64).sum(),
        counted: machine.counted()?,
        elapsed,
    })
}

fn reported(
    machine: &Machine,
    pages: &dyn PageSource,
    report: FaultReport,
    page: PageId,
) -> Result<Reported, MemoryError> {
    let page: PageIndex = page.index();
    Ok(Reported {
        report,
        cause: pages.cause_text(report.failure.cause),
        task: machine.view(report.vcpu)?.current,
        page,
    })
}
