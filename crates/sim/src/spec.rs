//! What to simulate.

use std::collections::BTreeSet;
use std::time::Duration;

use surefault_core::faults::{self, FaultsConfig, Paging};
use surefault_core::policy::PolicyKind;
use surefault_core::residency::{self, ResidencyConfig};
use surefault_core::run::{ApfMode, RunSpec, TaskId};
use surefault_core::workload::Workload;
use surefault_core::{Gfn, SlotId};
use thiserror::Error;

/// A run on the simulated machine: what any machine is asked, and what only this one can vary.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SimSpec {
    /// What the runner on real KVM takes too.
    pub run: RunSpec,
    /// What each task touches; the usual workload of `run` when `None`.
    pub workload: Option<Workload>,
    /// The error policy where Surefault runs the asynchronous faults (`--apf user`).
    pub policy: PolicyKind,
    /// Who stands behind the guest's memory.
    pub host: Host,
    /// How the guest's page tables are walked.
    pub paging: Paging,
    /// The guest enables asynchronous faults; otherwise its vCPUs are halted artificially.
    pub guest_apf: bool,
    /// Which task runs next.
    pub scheduling: Scheduling,
    /// What is done about a report.
    pub on_report: OnReport,
    /// Tasks that the guest kills while they wait for a page for the first time.
    pub killed: BTreeSet<TaskId>,
    /// The guest's timer interrupt: it ends artificial halts and time slices.
    pub tick: Duration,
    /// Events until the run is given up, whatever the time.
    pub max_steps: u64,
    /// The memory slot that reports name.
    pub memslot: SlotId,
    /// The frame of page 0.
    pub first_gfn: Gfn,
}

/// Who stands behind the guest's memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Host {
    /// Surefault's pager.
    Surefault,
    /// Linux alone, the source mapped directly (`--pager none`): it retries for ever, or says
    /// "Bad address".
    LinuxAlone,
}

/// Which of a vCPU's tasks runs when another stops.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scheduling {
    /// The next in turn that can. A task that is woken waits for its turn.
    RoundRobin,
    /// Any that can, by the run's seed; a task that is woken may take over at once.
    Random,
}

/// What is done about a report.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum OnReport {
    /// The run ends with it.
    Stop,
    /// The page is repaired and the vCPU resumed.
    Heal,
}

impl SimSpec {
    /// `run` on Surefault with the default policy, two-dimensional paging, a guest that takes
    /// asynchronous faults, and round-robin scheduling.
    pub fn new(run: RunSpec) -> SimSpec {
        SimSpec {
            run,
            workload: None,
            policy: PolicyKind::default(),
            host: Host::Surefault,
            paging: Paging::TwoDimensional,
            guest_apf: true,
            scheduling: Scheduling::RoundRobin,
            on_report: OnReport::Stop,
            killed: BTreeSet::new(),
            tick: Duration::from_millis(4),
            max_steps: 100_000_000,
            memslot: SlotId::new(1),
            first_gfn: Gfn::new(0x10_0000),
        }
    }

    /// The policy that is in force: Linux has but one.
    pub fn effective_policy(&self) -> PolicyKind {
        match (self.host, self.run.apf) {
            (Host::LinuxAlone, _) | (Host::Surefault, ApfMode::Kernel) => PolicyKind::Retry,
            (Host::Surefault, ApfMode::Off | ApfMode::User) => self.policy,
        }
    }

    /// Failed pages are poisoned, and Linux takes the faults: failures come as signals.
    pub(crate) fn is_watched(&self) -> bool {
        self.host == Host::Surefault && self.run.apf == ApfMode::Kernel
    }

    pub(crate) fn faults_config(&self) -> FaultsConfig {
        FaultsConfig {
            paging: self.paging,
            // Without the artificial halt, and with a guest that is told nothing, every fault is
            // synchronous.
            hlt_in_guest: self.run.apf == ApfMode::Off,
            ..FaultsConfig::new(self.run.vcpus)
        }
    }

    pub(crate) fn residency_config(&self) -> ResidencyConfig {
        ResidencyConfig {
            attempts: self.run.attempts,
            deadline: self.run.deadline,
            range_patience: self.run.deadline / 2,
            ..ResidencyConfig::default()
        }
    }

    pub(crate) fn check(&self) -> Result<(), SimError> {
        if self.tick.is_zero() {
            return Err(SimError::NoTick);
        }
        if self.run.tasks == 0 {
            return Err(SimError::NoTasks);
        }
        match &self.workload {
            Some(workload) if workload.tasks().len() != usize::from(self.run.tasks) => {
                Err(SimError::Workload {
                    lists: workload.tasks().len(),
                    tasks: self.run.tasks,
                })
            }
            Some(workload) if workload.pages() != self.run.pages => Err(SimError::Pages),
            Some(_) | None => Ok(()),
        }
    }
}

/// A [`SimSpec`] that makes no sense.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum SimError {
    /// No task, so nothing to run.
    #[error("a run needs at least one task")]
    NoTasks,
    /// The guest's timer would never let go.
    #[error("the guest's tick must take time")]
    NoTick,
    /// The workload is for another number of tasks.
    #[error("the workload has {lists} tasks, the run {tasks}")]
    Workload {
        /// Tasks of the workload.
        lists: usize,
        /// Tasks of the run.
        tasks: u16,
    },
    /// The workload is for another region.
    #[error("the workload and the run differ in pages")]
    Pages,
    /// The machine of vCPUs refuses.
    #[error("setting up the vCPUs")]
    Faults(#[from] faults::ConfigError),
    /// The machine of pages refuses.
    #[error("setting up the pages")]
    Residency(#[from] residency::ConfigError),
}
