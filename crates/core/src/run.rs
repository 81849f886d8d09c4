//! A run: what is asked of a machine, real or simulated, and what came of it.
//!
//! The KVM runner and the simulator take the same [`RunSpec`] and give the same [`RunResult`], so
//! that what is said of one can be checked on the other.

use core::fmt;
use core::time::Duration;
use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::plan::FaultPlan;
use crate::policy::PolicyKind;
use crate::{FaultReport, PageCount, PageIndex};

/// What to run: a guest of some tasks on some vCPUs whose pages come from a source that obeys a
/// fault plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunSpec {
    /// Tasks that touch pages, dealt round-robin to the vCPUs.
    pub tasks: u16,
    /// vCPUs.
    pub vcpus: u16,
    /// Pages of the demand-paged region.
    pub pages: PageCount,
    /// Decides the order in which the tasks touch the pages.
    pub seed: u64,
    /// Which pages fail, and how long pages take.
    pub plan: FaultPlan,
    /// From the first demand for a page to its outcome.
    pub deadline: Duration,
    /// Attempts at a page before it is called failed, at least 1.
    pub attempts: u8,
    /// Limit of the whole run.
    pub timeout: Duration,
    /// Who provides the pages.
    pub pager: PagerMode,
    /// How faults are asynchronous, if at all.
    pub apf: ApfMode,
    /// Where the guest's interrupt controllers are.
    pub irqchip: Irqchip,
    /// What happens when a page has failed.
    pub on_error: OnError,
    /// What is done about the error of an asynchronous fault, with [`ApfMode::User`].
    pub policy: PolicyKind,
}

/// Who provides the pages.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PagerMode {
    /// Surefault, which knows why a page cannot be had.
    #[default]
    Surefault,
    /// Nobody but Linux: the source is mapped directly.
    None,
}

/// Who runs the guest's async page faults.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApfMode {
    /// Nobody: every fault is synchronous.
    Off,
    /// Linux's own async page faults.
    Kernel,
    /// Surefault's, from user space.
    User,
}

/// Where the guest's interrupt controllers are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Irqchip {
    /// In KVM. To keep faults synchronous the guest's HLT must then not exit, which costs some hosts
    /// a core while the guest idles.
    #[default]
    Kernel,
    /// In the VMM: HLT exits, and the vCPU's thread sleeps until there is an interrupt.
    User,
}

/// What happens when a page has failed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// The run ends with the report.
    #[default]
    Exit,
    /// The guest is paused until the page can be had, or somebody says to go on.
    Stop,
    /// The guest is told, and kills the task; where it cannot be told, the run ends with the report.
    Guest,
}

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Every task that was to finish did.
    Finished,
    /// A vCPU stopped with a report.
    Reported,
    /// The limit was reached, and one page was asked for again and again after "ready".
    Looped,
    /// The limit was reached.
    TimedOut,
    /// Somebody stopped the run.
    Cancelled,
}

/// A task of the built-in guest, counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskId(u16);

impl TaskId {
    /// Task `raw`.
    pub const fn new(raw: u16) -> TaskId {
        TaskId(raw)
    }

    /// The task's number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What came of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunResult {
    /// How it ended.
    pub outcome: Outcome,
    /// The failed fault it stopped at, if it did.
    pub report: Option<Reported>,
    /// What was counted on the way.
    pub stats: RunStats,
}

/// A report with what the runner knows beyond it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reported {
    /// The report.
    pub report: FaultReport,
    /// The text of its cause.
    pub cause: String,
    /// The task whose registers the vCPU has, where the guest could be asked.
    pub task: Option<TaskId>,
    /// The page's index in the demand-paged region, as fault plans count it.
    pub page: PageIndex,
}

/// What was counted in a run.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RunStats {
    /// Accesses to pages that the tasks finished, with the right content.
    pub pages_done: u64,
    /// Tasks that came to their end.
    pub tasks_finished: u16,
    /// Tasks that the guest killed, having been told that there is no page for them.
    pub tasks_killed: u16,
    /// Checksums, and words written, that differed from what follows from the source. Anything but
    /// 0 is a bug.
    pub wrong_sums: u64,
    /// Tasks whose checksum could not be compared, because the source could not be read for it.
    pub unchecked_sums: u64,
    /// Reports made, the one that the run ended with included.
    pub reports: u64,
    /// Reports after which the page was healed and the run went on.
    pub healed: u64,
    /// Tokens of async page faults that the guest still kept at the end: of tasks that wait for a
    /// page, and of pages that were ready before anybody waited. A guest that finished keeps none.
    pub tokens_left: u64,
    /// What the counting task reached.
    pub progress: u64,
    /// Times that a vCPU came back from the kernel (`KVM_RUN`) for another reason than that it was
    /// asked to; 0 where there is no kernel.
    pub returns: u64,
    /// What the kernel counted, by its own names (`pf_taken`, `exits`): over all vCPUs together.
    pub kvm: Counters,
    /// What was counted of asynchronous faults from user space.
    pub apf: Counters,
    /// What the pager counted, and at the end: pages `present`, and `pending`.
    pub pager: Counters,
    /// How long the guest was paused because of reports, which counts for no time limit.
    pub stopped: Duration,
    /// Wall time of the run (simulated time in the simulator), without that.
    pub elapsed: Duration,
}

/// Counters by name, for people and programs to read; nothing is decided by them.
pub type Counters = BTreeMap<Cow<'static, str>, u64>;
