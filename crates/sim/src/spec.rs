//! What to simulate.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use surefault_core::faults::{self, FaultsConfig, Paging};
use surefault_core::plan::FailureMode;
use surefault_core::policy::PolicyKind;
use surefault_core::residency::{self, ResidencyConfig};
use surefault_core::run::{ApfMode, OnError, RunSpec, TaskId};
use surefault_core::workload::Workload;
use surefault_core::{Gfn, PageIndex, SlotId};
use thiserror::Error;

use crate::machine::Setup;

/// The frame of page 0, unless it is said otherwise.
pub(crate) const FIRST_GFN: Gfn = Gfn::new(0x10_0000);

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
    /// The guest reads the error word of "ready" where it is written, and kills the task.
    pub guest_reads_errors: bool,
    /// When the guest turns asynchronous faults on or off, on all vCPUs.
    pub apf_changes: Vec<(Duration, bool)>,
    /// From the interrupt "page ready" to the guest's ack.
    pub ack_delay: Duration,
    /// Accesses to these pages come from the guest's kernel: it cannot be told "not present".
    pub kernel: BTreeSet<PageIndex>,
    /// Accesses to these pages come from the guest's kernel with interrupts off, from the first of them
    /// in a row to the last.
    pub irqs_off: BTreeSet<PageIndex>,
    /// From the last of them until the guest turns interrupts on.
    pub irqs_off_for: Duration,
    /// A task that is woken goes on on the next vCPU.
    pub migrate: bool,
    /// Failures are remembered, tried again within the budget of `run`, and end at its deadline.
    /// Without, as in a kernel, every attempt asks the source anew, once.
    pub keeps_record: bool,
    /// When the worker that serves the pages is killed.
    pub deaths: Deaths,
    /// How long a failure is remembered; until it is healed when `None`.
    pub failure_ttl: Option<Duration>,
    /// Pages that fail at times: how many of 100 attempts do. They come on top of the fault plan.
    pub intermittent: BTreeMap<PageIndex, u8>,
    /// When pages that fail are repaired, for good, and announced.
    pub repairs: Vec<(Duration, PageIndex)>,
    /// When the source has pages again that fail, without a word.
    pub mends: Vec<(Duration, PageIndex)>,
    /// When the balloon takes pages, which read as zeros from then on.
    pub removals: Vec<(Duration, PageIndex)>,
    /// How often an access may be taken again after "ready" before the run is given up as looped;
    /// at the time limit when `None`.
    pub loop_limit: Option<u64>,
    /// Which task runs next.
    pub scheduling: Scheduling,
    /// What is done about a report.
    pub on_report: OnReport,
    /// Tasks that the guest kills while they wait for a page that fails.
    pub killed: BTreeSet<TaskId>,
    /// The guest's timer interrupt: it ends artificial halts and time slices.
    pub tick: Duration,
    /// Events until the run is given up, whatever the time.
    pub max_steps: u64,
    /// How often each task goes through its list, at least once.
    pub laps: u64,
    /// Memory is scarce: a page is gone as soon as its visit is over, and a repair is undone with it.
    pub evicts: bool,
    /// The memory slot that reports name.
    pub memslot: SlotId,
    /// The frame of page 0.
    pub first_gfn: Gfn,
}

/// When the worker that serves the pages is killed. Another one goes on from its records each time.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Deaths {
    /// At these times, counted from the beginning of the run.
    pub after: Vec<Duration>,
    /// Before these steps of the run, counted from 1: in the run's trace, after so many lines less one.
    pub at_steps: BTreeSet<u64>,
    /// So many times between two of its steps that are drawn by the run's seed.
    pub random: u16,
}

impl Deaths {
    /// It is never killed.
    pub fn is_none(&self) -> bool {
        self.after.is_empty() && self.at_steps.is_empty() && self.random == 0
    }
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
    /// The one that was woken last only when there is no other: whoever must come back soon does not.
    Adversarial,
}

/// What is done about a report.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum OnReport {
    /// The run ends with it.
    Stop,
    /// The page is repaired and the vCPU resumed.
    Heal,
    /// The vCPU stays stopped until the page is repaired (`repairs`).
    Wait,
}

impl SimSpec {
    /// `run` on Surefault with the default policy, two-dimensional paging, a guest that takes
    /// asynchronous faults, and round-robin scheduling.
    pub fn new(run: RunSpec) -> SimSpec {
        SimSpec {
            workload: None,
            policy: run.policy,
            run,
            host: Host::Surefault,
            paging: Paging::TwoDimensional,
            guest_apf: true,
            guest_reads_errors: true,
            apf_changes: Vec::new(),
            ack_delay: Duration::ZERO,
            kernel: BTreeSet::new(),
            irqs_off: BTreeSet::new(),
            irqs_off_for: Duration::ZERO,
            migrate: false,
            keeps_record: true,
            deaths: Deaths::default(),
            failure_ttl: None,
            intermittent: BTreeMap::new(),
            repairs: Vec::new(),
            mends: Vec::new(),
            removals: Vec::new(),
            loop_limit: None,
            scheduling: Scheduling::RoundRobin,
            on_report: OnReport::Stop,
            killed: BTreeSet::new(),
            tick: Duration::from_millis(4),
            max_steps: 100_000_000,
            laps: 1,
            evicts: false,
            memslot: SlotId::new(1),
            first_gfn: FIRST_GFN,
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
    #[cfg(test)]
    pub(crate) fn is_watched(&self) -> bool {
        self.host == Host::Surefault && self.run.apf == ApfMode::Kernel
    }

    /// All of it that has nothing to do with time and chance.
    pub fn setup(&self) -> Setup {
        let usual = || Workload::partition(self.run.pages, self.run.tasks, self.run.seed);
        let healthy = |mode| mode == FailureMode::Healthy;
        Setup {
            policy: self.effective_policy(),
            host: self.host,
            apf: self.run.apf,
            workload: self.workload.clone().unwrap_or_else(usual),
            faults: self.faults_config(),
            residency: self.residency_config(),
            failing: (0..self.run.pages.get() as u32)
                .map(PageIndex::new)
                .map(|page| (page, self.run.plan.mode_of(page)))
                .filter(|&(_, mode)| !healthy(mode))
                .collect(),
            intermittent: self.intermittent.keys().copied().collect(),
            guest_apf: self.guest_apf,
            guest_reads_errors: self.guest_reads_errors,
            kernel: self.kernel.clone(),
            irqs_off: self.irqs_off.clone(),
            migrate: self.migrate,
            keeps_record: self.keeps_record,
            records: !self.deaths.is_none(),
            on_report: self.on_report,
            killed: self.killed.clone(),
            acks_late: !self.ack_delay.is_zero(),
            laps: self.laps,
            evicts: self.evicts,
            memslot: self.memslot,
            first_gfn: self.first_gfn,
        }
    }

    /// Whether some attempt at the page fails, unless it is repaired.
    pub(crate) fn is_failing(&self, page: PageIndex) -> bool {
        self.run.plan.mode_of(page) != FailureMode::Healthy || self.intermittent.contains_key(&page)
    }

    pub(crate) fn faults_config(&self) -> FaultsConfig {
        FaultsConfig {
            paging: self.paging,
            // Without the artificial halt, and with a guest that is told nothing, every fault is
            // synchronous.
            hlt_in_guest: self.run.apf == ApfMode::Off,
            error_word: self.guest_reads_errors,
            errors_to_guest: self.run.on_error == OnError::Guest,
            ..FaultsConfig::new(self.run.vcpus)
        }
    }

    pub(crate) fn residency_config(&self) -> ResidencyConfig {
        ResidencyConfig {
            attempts: if self.keeps_record {
                self.run.attempts
            } else {
                1
            },
            deadline: self.run.deadline,
            failure_ttl: self.failure_ttl.filter(|_| self.keeps_record),
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
        if self.run.on_error == OnError::Stop {
            return Err(SimError::NobodyResumes);
        }
        if (self.run.on_error, self.host) == (OnError::Guest, Host::LinuxAlone) {
            return Err(SimError::NobodyTells);
        }
        let times = self.repairs.iter().chain(&self.mends).chain(&self.removals);
        let listed = self.kernel.iter().chain(&self.irqs_off);
        let pages = times
            .map(|(_, page)| page)
            .chain(listed)
            .chain(self.intermittent.keys());
        if let Some(&page) = pages
            .into_iter()
            .find(|page| u64::from(page.get()) >= self.run.pages.get())
        {
            return Err(SimError::NoSuchPage(page));
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
    /// A run stops until somebody has it go on, and nobody can.
    #[error("a simulated run has nobody outside who could have it go on after a stop")]
    NobodyResumes,
    /// Linux alone stops the vCPU, or loops; it does not tell the guest.
    #[error("Linux alone tells no guest that a page has failed")]
    NobodyTells,
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
    /// Something is to happen to a page that the region does not have.
    #[error("the region has no page {0}")]
    NoSuchPage(PageIndex),
    /// The workload is for another region.
    #[error("the workload and the run differ in pages")]
    Pages,
    /// A worker is to be killed that leaves nothing from which another could go on.
    #[error(
        "a pager's worker can be killed only where it keeps records of pages: with Surefault behind the \
         memory, failures that are remembered, and memory that is not scarce"
    )]
    NothingToGoOnFrom,
    /// The machine of vCPUs refuses.
    #[error("setting up the vCPUs")]
    Faults(#[from] faults::ConfigError),
    /// The machine of pages refuses.
    #[error("setting up the pages")]
    Residency(#[from] residency::ConfigError),
}
