//! A real vCPU on a page that Linux cannot provide, Linux being left alone with it.

use core::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use surefault_core::plan::{FailureMode, FaultPlan, Latency, PageSet, Rule};
use surefault_core::run::{Irqchip, OnError};
use surefault_core::workload::Workload;
use surefault_core::{PageCount, PageIndex};
use surefault_guest::Idle;
use surefault_store::PatternStore;

use crate::crew::Crew;
use crate::linux_alone::LinuxAlone;
use crate::machine::{Machine, MachineError, MachineSpec};
use crate::pages::{PageSource, host_page_size};
use crate::runner::{Loops, RunError};
use crate::signals::Signals;
use crate::stats::faults_in_vain;
use crate::vcpu::Exit;
use crate::vm::{Faults, VmError};
use crate::watch::Refusal;

/// How long a vCPU is watched that neither comes back nor loops: so long that a busy host is not
/// mistaken for one that never answers.
const LIMIT: Duration = Duration::from_secs(10);
/// How long a loop is watched, to show that it goes on.
const ENOUGH: Duration = Duration::from_millis(200);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// How long it may take to stop.
const PATIENCE: Duration = Duration::from_secs(10);

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Experiment {
    /// The page is touched where the kernel has no choice but to wait for it.
    pub synchronous: Synchronous,
    /// The page is touched by a guest that takes asynchronous faults; `None` where KVM has none.
    pub asynchronous: Option<Asynchronous>,
}

/// The end of a synchronous fault.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Synchronous {
    /// `KVM_RUN` came back.
    Refused(Refusal),
    /// It did not, for as long as it was watched.
    Endless,
}

/// The end of an asynchronous fault, if there is one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Asynchronous {
    /// `KVM_RUN` came back: this kernel has ended the loop.
    Refused(Refusal),
    /// It did not come back, and the page was asked for again and again: this kernel loops.
    Loops {
        /// Page faults taken in vain.
        faults: u64,
        /// In how many nanoseconds.
        elapsed_ns: u64,
    },
    /// Neither, for as long as it was watched: nobody asks for the page again, or this host does
    /// not count, or it is very busy.
    Undecided {
        /// Page faults taken in vain.
        faults: u64,
    },
}

/// Tries both ways.
pub(super) fn run(signals: Signals) -> Result<Experiment, RunError> {
    let synchronous = match watch(Faults::Synchronous, signals)? {
        Watched::Refused(refusal) => Synchronous::Refused(refusal),
        Watched::StillRunning { .. } => Synchronous::Endless,
    };
    let asynchronous = match watch(Faults::Asynchronous, signals) {
        Ok(Watched::Refused(refusal)) => Some(Asynchronous::Refused(refusal)),
        Ok(Watched::StillRunning {
            looped,
            faults,
            elapsed,
        }) => Some(match looped {
            true => Asynchronous::Loops {
                faults,
                elapsed_ns: elapsed.as_nanos() as u64,
            },
            false => Asynchronous::Undecided { faults },
        }),
        Err(RunError::Machine(MachineError::Vm(VmError::NoAsyncFaults))) => None,
        Err(error) => return Err(error),
    };
    Ok(Experiment {
        synchronous,
        asynchronous,
    })
}

/// What a vCPU did with the page.
enum Watched {
    Refused(Refusal),
    StillRunning {
        looped: bool,
        faults: u64,
        elapsed: Duration,
    },
}

/// Runs a guest of one task whose one page fails, until `KVM_RUN` comes back, or loops, or has been
/// watched for long enough.
fn watch(faults: Faults, signals: Signals) -> Result<Watched, RunError> {
    let (pages, page_size) = (PageCount::new(1), host_page_size());
    let mut plan = FaultPlan::new(0, Latency::default());
    plan.push(Rule {
        pages: PageSet::Ranges(vec![(PageIndex::new(0), PageIndex::new(0))]),
        mode: FailureMode::Permanent,
        latency: None,
    });
    let source = PatternStore::new(0, page_size.bytes());
    let alone = Arc::new(LinuxAlone::map(&source, &plan, pages, page_size)?);
    let provider: Arc<dyn PageSource> = alone.clone();
    let spec = MachineSpec {
        vcpus: 1,
        workload: Arc::new(Workload::partition(pages, 1, 0)),
        page_size,
        yield_every: NonZeroU32::MIN,
        idle: Idle::Count,
        faults,
        irqchip: Irqchip::Kernel,
        apf: None,
        on_error: OnError::Exit,
        vendor: None,
    };
    let data = Arc::clone(alone.mapping());
    let (machine, vcpus) = Machine::new(&spec, data, &provider, signals)?;
    let started = Instant::now();
    let mut crew = Crew::start(vcpus).map_err(RunError::Thread)?;
    let watched = loop {
        if let Some((vcpu, ended)) = crew.next(LOOK) {
            match (ended?, machine.watch().last_refusal()) {
                (Exit::Kicked, _) => crew.resume(vcpu),
                (_, Some(refusal)) => break Watched::Refused(refusal),
                (Exit::Out(port), None) => return Err(RunError::Port { vcpu, port }),
                // In another way than by an error, which would have been noted.
                (Exit::Failed { report, .. }, None) => {
                    return Err(RunError::Unrefused { gpa: report.gpa });
                }
            }
        }
        let (looped, elapsed) = (Loops::default().is_loop(&machine)?, started.elapsed());
        if elapsed >= if looped { ENOUGH } else { LIMIT } {
            break Watched::StillRunning {
                looped,
                faults: faults_in_vain(&machine.kvm_counters()?),
                elapsed,
            };
        }
    };
    crew.stop(PATIENCE)?;
    Ok(watched)
}
