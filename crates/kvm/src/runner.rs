//! Runs a guest until it is done, a page has failed for good, or time is up.

use core::num::NonZeroU32;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use surefault_core::policy::PolicyKind;
use surefault_core::run::{
    ApfMode, Counters, OnError, Outcome, Reported, RunResult, RunSpec, RunStats,
};
use surefault_core::workload::Workload;
use surefault_core::{FaultReport, PageId, PageIndex};
use surefault_guest::Idle;
use surefault_guest::abi::{PORT_DONE, PORT_TRAP};
use surefault_store::Store;

use crate::apf::{Apf, ApfSpec};
use crate::check::check;
use crate::crew::Crew;
use crate::machine::{Machine, MachineSpec};
use crate::memory::MemoryError;
use crate::pages::{PageSource, host_page_size};
use crate::signals::Signals;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Faults;

mod error;
mod loops;
mod observer;
mod pause;
mod provider;

pub use error::RunError;
pub use observer::{AfterReport, Observer, Progress};
pub use pause::WhilePaused;

pub(crate) use loops::Loops;

use pause::Paused;
use provider::Provider;

/// How often an observer is told how far the run is.
const TICK: Duration = Duration::from_millis(100);

/// How much longer than the deadline of a page a vCPU may take to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Runs the built-in guest on demand-paged memory that comes from `source`, failing as the plan of
/// `spec` says: through a pager, or mapped by Linux alone ([`crate::linux_alone`]).
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
    let apf = match spec.apf {
        ApfMode::Off | ApfMode::Kernel => None,
        ApfMode::User => Some(Arc::new(Apf::new(ApfSpec {
            error_word: reads_errors(spec),
            errors_to_guest: spec.on_error == OnError::Guest,
            ..ApfSpec::new(spec.vcpus, spec.policy)
        })?)),
    };
    run_with_apf(spec, workload, apf, source, signals, observer)
}

/// As [`run_workload`], with asynchronous faults from user space that the caller has made and may
/// look at afterwards, where `spec` has any.
///
/// # Errors
/// As [`run`].
pub fn run_with_apf(
    spec: &RunSpec,
    workload: Workload,
    apf: Option<Arc<Apf>>,
    source: Arc<dyn Store>,
    signals: Signals,
    observer: &mut dyn Observer,
) -> Result<RunResult, RunError> {
    let page_size = host_page_size();
    let error_word = apf.as_ref().is_some_and(|apf| apf.spec().error_word);
    let provider = Provider::new(spec, workload.pages(), page_size, &source, apf.clone())?;
    let pages = provider.pages();

    let machine_spec = MachineSpec {
        vcpus: spec.vcpus,
        workload: Arc::new(workload),
        page_size,
        yield_every: YIELD_EVERY,
        idle: Idle::Count,
        faults: match spec.apf {
            ApfMode::Off => Faults::Synchronous,
            ApfMode::Kernel => Faults::Asynchronous,
            ApfMode::User => Faults::FromUserSpace { error_word },
        },
        irqchip: spec.irqchip,
        apf,
        on_error: spec.on_error,
        vendor: None,
    };
    let (machine, vcpus) = Machine::new(&machine_spec, provider.data(), &pages, signals)?;
    let heal = |page: PageId| provider.heal(page);
    let limits = Limits {
        timeout: spec.timeout,
        patience: spec.deadline + STOP_PATIENCE,
    };
    let mut result = drive(&machine, vcpus, &*pages, &*source, &heal, limits, observer);
    if let Ok(result) = &mut result {
        provider.check_invariants()?;
        result.stats.pager = provider.counters();
    }
    // In this order (`kvm_clear_async_pf_completion_queue`): the end of a pager leaves nobody
    // waiting for a page.
    drop(pages);
    drop(provider);
    drop(machine);
    result
}

/// Whether the guest is offered the error word of "ready": the one that `guest-error` was proposed
/// with reads it.
fn reads_errors(spec: &RunSpec) -> bool {
    spec.policy == PolicyKind::GuestError || spec.on_error == OnError::Guest
}

/// Touches after which a task lets others run: a tenth of a millisecond or so, as the task that counts
/// does, where it need not wait for pages.
const YIELD_EVERY: NonZeroU32 = NonZeroU32::new(64).expect("not 0");

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
/// observer wants healed. End whoever provides the pages before the machine: while faults are
/// asynchronous, the end of a VM waits for the kernel's workers, and they for their pages.
///
/// # Errors
/// When the guest breaks, or a vCPU cannot go on.
pub fn drive(
    machine: &Machine,
    vcpus: Vec<Vcpu>,
    pages: &dyn PageSource,
    source: &dyn Store,
    heal: &dyn Fn(PageId) -> Result<(), RunError>,
    limits: Limits,
    observer: &mut dyn Observer,
) -> Result<RunResult, RunError> {
    let started = Instant::now();
    let mut left = vcpus.len();
    let mut crew = Crew::start(vcpus).map_err(RunError::Thread)?;
    let (mut reports, mut healed) = (0, 0);
    let mut stopped = Duration::ZERO;
    // What vCPUs came to while the run was being paused.
    let mut waiting = VecDeque::new();
    let mut told = Instant::now();
    let mut loops = Loops::default();
    let (outcome, report) = loop {
        if left == 0 {
            break (Outcome::Finished, None);
        }
        let elapsed = started.elapsed() - stopped;
        let Some(remaining) = limits.timeout.checked_sub(elapsed) else {
            let outcome = match loops.is_loop(machine)? {
                true => Outcome::Looped,
                false => Outcome::TimedOut,
            };
            break (outcome, None);
        };
        if told.elapsed() >= TICK {
            told = Instant::now();
            machine.check_invariants()?;
            loops.look(machine)?;
            if observer.progress(&progress(machine, elapsed)?).is_break() {
                break (Outcome::Cancelled, None);
            }
        }
        let next = waiting.pop_front();
        let Some((vcpu, ended)) = next.or_else(|| crew.next(remaining.min(TICK))) else {
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
                reports += 1;
                match observer.reported(&reported) {
                    AfterReport::Stop => break (Outcome::Reported, Some(reported)),
                    AfterReport::Heal => {
                        heal(page)?;
                        machine.healed(page);
                        healed += 1;
                        crew.resume(vcpu);
                    }
                    AfterReport::Pause => {
                        let paused_at = Instant::now();
                        let mut held = vec![vcpu];
                        for (other, ended) in crew.pause(limits.patience)? {
                            match ended {
                                Ok(Exit::Kicked) => held.push(other),
                                ended => waiting.push_back((other, ended)),
                            }
                        }
                        let how = pause::wait(page, pages, heal, observer, &reported)?;
                        stopped += paused_at.elapsed();
                        match how {
                            Paused::Ended => break (Outcome::Reported, Some(reported)),
                            Paused::Resumed => machine.healed(page),
                            Paused::Healed => {
                                machine.healed(page);
                                healed += 1;
                            }
                        }
                        held.into_iter().for_each(|vcpu| crew.resume(vcpu));
                    }
                    AfterReport::Resume => crew.resume(vcpu),
                }
            }
        }
    };
    let elapsed = started.elapsed() - stopped;
    crew.stop(limits.patience)?;
    machine.check_invariants()?;
    let checked = check(machine, source, pages.page_size())?;
    Ok(RunResult {
        outcome,
        report,
        stats: RunStats {
            pages_done: checked.pages_done,
            tasks_finished: checked.tasks_finished,
            tasks_killed: killed(machine)?,
            wrong_sums: checked.wrong,
            unchecked_sums: checked.unchecked,
            reports,
            healed,
            tokens_left: machine.tokens()?,
            progress: machine.counted()?,
            returns: machine.watch().returns(),
            kvm: machine.kvm_counters()?,
            apf: machine.apf().map(Apf::counters).unwrap_or_default(),
            pager: Counters::new(),
            stopped,
            elapsed,
        },
    })
}

fn progress(machine: &Machine, elapsed: Duration) -> Result<Progress, MemoryError> {
    let lists = machine.workload().tasks().iter();
    Ok(Progress {
        done: loops::done(machine)?,
        total: lists.map(|list| list.len() as u64).sum(),
        counted: machine.counted()?,
        asked_again: machine.apf().map_or(0, Apf::most_asked_again),
        elapsed,
    })
}

fn killed(machine: &Machine) -> Result<u16, MemoryError> {
    let killed = machine
        .tasks()
        .map(|task| Ok(u16::from(machine.is_killed(task)?)));
    killed.sum()
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
        task: machine.running(report.vcpu)?,
        page,
    })
}
