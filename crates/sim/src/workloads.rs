//! The workloads that ship: the cases that were argued about, each as small as shows it.
//!
//! Every task visits pages of its own, a few healthy ones before and after those that fail. Which
//! task runs when is left to the seed. A posted policy is run as a kernel would: nobody remembers a
//! failure but the policy itself, and every attempt asks the source anew, once; Surefault's own has
//! residency's record and its budget of attempts.

mod file;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use surefault_core::faults::Paging;
use surefault_core::plan::{FailureMode, FaultPlan, Latency, PageSet, Rule};
use surefault_core::policy::{AddressKey, ErrorGfnTable, PolicyKind};
use surefault_core::run::{ApfMode, Irqchip, OnError, PagerMode, RunSpec, TaskId};
use surefault_core::workload::{FirstTouch, Touch, Workload, WorkloadError};
use surefault_core::{PageCount, PageIndex};
use thiserror::Error;

pub use file::{WorkloadFile, WorkloadFileError};

use crate::spec::{OnReport, Scheduling, SimSpec};

/// Healthy pages that a task visits before those that fail.
const BEFORE: usize = 3;
/// And after them, or in their place.
const AFTER: usize = 5;
/// When the source is repaired, where it is.
const REPAIRED_AT: Duration = Duration::from_millis(20);
/// How long a task that has turned interrupts off goes on like that, at the end of its accesses.
const MASKED_FOR: Duration = Duration::from_micros(300);
/// Of 100 attempts at a flaky page so many fail.
const FLAKY_PERCENT: u8 = 50;

/// Makes the enum, its names and its help from one list.
macro_rules! workloads {
    ($($(#[doc = $help:literal])* $kind:ident => $name:literal, $tasks:literal, $failing:literal, $vcpus:literal;)+) => {
        /// A workload by name.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum WorkloadKind {
            $($(#[doc = $help])* $kind,)+
        }

        impl WorkloadKind {
            /// All of them.
            pub const ALL: &[WorkloadKind] = &[$(WorkloadKind::$kind),+];

            /// The name, as on the command line.
            pub const fn as_str(self) -> &'static str {
                match self { $(WorkloadKind::$kind => $name,)+ }
            }

            /// What it shows, in one line.
            pub fn help(self) -> &'static str {
                match self { $(WorkloadKind::$kind => concat!($($help),*).trim(),)+ }
            }

            /// Its usual size.
            pub const fn size(self) -> Size {
                match self {
                    $(WorkloadKind::$kind => Size { tasks: $tasks, failing: $failing, vcpus: $vcpus },)+
                }
            }
        }
    };
}

workloads! {
    /// One task, one page that never comes.
    One => "one", 1, 1, 1;
    /// Many tasks, of which some fail: the case raised in review.
    Crowd => "crowd", 128, 32, 1;
    /// The failing task is killed while it waits, and never comes back.
    Ghost => "ghost", 8, 1, 1;
    /// Failing pages whose frames share a slot of a table of 64.
    Collide => "collide", 16, 8, 1;
    /// Pages that fail half of the time.
    Flaky => "flaky", 32, 8, 1;
    /// The failing accesses come from the guest's kernel, some with interrupts off.
    Kernel => "kernel", 16, 4, 1;
    /// A task that is woken goes on on the next vCPU.
    Migrate => "migrate", 16, 4, 2;
    /// Shadow paging: after a task switch the prefault is skipped.
    Shadow => "shadow", 16, 4, 1;
    /// The pages are repaired after 20 ms; whoever is stopped waits for it.
    Repair => "repair", 16, 4, 1;
    /// Every task turns interrupts off twice, for 300 us each: "ready" waits.
    Masked => "masked", 16, 4, 1;
    /// Thousands of pages that never come, all tasks at them.
    Storm => "storm", 64, 4096, 2;
}

/// How large a workload is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Size {
    /// Tasks.
    pub tasks: u16,
    /// Pages that fail, dealt round-robin to the tasks.
    pub failing: u32,
    /// vCPUs, to which the tasks are dealt round-robin.
    pub vcpus: u16,
}

/// Numbers that contradict a workload or each other.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum SizeError {
    /// No task or no vCPU.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// More failing pages than are of any use.
    #[error("{failing} failing pages are too many for {tasks} tasks: at most {most}")]
    TooManyFailing {
        /// Failing pages.
        failing: u32,
        /// Tasks.
        tasks: u16,
        /// The most that there may be.
        most: u32,
    },
    /// Nobody can migrate.
    #[error("tasks that migrate need at least 2 vCPUs, not {0}")]
    NowhereToMigrate(u16),
    /// Nothing can collide.
    #[error("workload 'collide' needs at least 2 failing pages, not {0}")]
    NothingCollides(u32),
    /// Tasks that would have no vCPU, or vCPUs without a task.
    #[error("{vcpus} vCPUs are more than the {tasks} tasks")]
    IdleVcpus {
        /// vCPUs.
        vcpus: u16,
        /// Tasks.
        tasks: u16,
    },
    /// Something is said of a page that no task of this size has.
    #[error("there is no page {page}: there are {pages}")]
    NoSuchPage {
        /// The field that names it.
        field: &'static str,
        /// The page.
        page: PageIndex,
        /// How many there are.
        pages: u64,
    },
    /// Something is said of a task that there is not.
    #[error("there is no task {task}: there are {tasks}")]
    NoSuchTask {
        /// The task.
        task: u32,
        /// How many there are.
        tasks: u16,
    },
    /// More of something than the simulated machine is made for.
    #[error("{what} is {value}, at most {most}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        value: u32,
        /// The most that there may be.
        most: u32,
    },
    /// The lists make no workload.
    #[error("the tasks' lists")]
    Lists(#[from] WorkloadError),
}

impl SizeError {
    /// What contradicts, the first to blame first: `tasks`, `failing`, `vcpus`, or a field of a file.
    pub fn fields(&self) -> &[&'static str] {
        match self {
            SizeError::NoSuchPage { field, .. } => std::slice::from_ref(field),
            SizeError::NoSuchTask { .. } => &["killed"],
            SizeError::Zero(what) | SizeError::TooMany { what, .. } => match *what {
                "tasks" => &["tasks"],
                _ => &["vcpus"],
            },
            SizeError::TooManyFailing { .. } => &["failing", "tasks"],
            SizeError::NowhereToMigrate(_) => &["vcpus"],
            SizeError::NothingCollides(_) => &["failing"],
            SizeError::IdleVcpus { .. } => &["vcpus", "tasks"],
            SizeError::Lists(_) => &[],
        }
    }
}

/// The failing pages of one task are at most these.
const MOST_FAILING_A_TASK: u32 = 256;

impl Size {
    /// Whether a workload can be that large.
    ///
    /// # Errors
    /// The first contradiction found.
    pub fn check(self, kind: WorkloadKind) -> Result<(), SizeError> {
        let Size {
            tasks,
            failing,
            vcpus,
        } = self;
        let most = u32::from(tasks) * MOST_FAILING_A_TASK;
        match () {
            () if tasks == 0 => Err(SizeError::Zero("tasks")),
            () if vcpus == 0 => Err(SizeError::Zero("vcpus")),
            () if tasks > 4096 => Err(SizeError::TooMany {
                what: "tasks",
                value: tasks.into(),
                most: 4096,
            }),
            () if vcpus > 64 => Err(SizeError::TooMany {
                what: "vcpus",
                value: vcpus.into(),
                most: 64,
            }),
            () if vcpus > tasks => Err(SizeError::IdleVcpus { vcpus, tasks }),
            () if failing > most => Err(SizeError::TooManyFailing {
                failing,
                tasks,
                most,
            }),
            () if kind == WorkloadKind::Migrate && vcpus < 2 => {
                Err(SizeError::NowhereToMigrate(vcpus))
            }
            () if kind == WorkloadKind::Collide && failing < 2 => {
                Err(SizeError::NothingCollides(failing))
            }
            () => Ok(()),
        }
    }
}

/// The machine that runs a workload under a policy.
///
/// # Errors
/// When the size contradicts the workload.
pub fn spec(
    kind: WorkloadKind,
    size: Size,
    policy: PolicyKind,
    seed: u64,
) -> Result<SimSpec, SizeError> {
    size.check(kind)?;
    let failing = failing(kind, size);
    let (lists, pages) = deal(size, &failing);
    let plan = match kind {
        WorkloadKind::Flaky => plan(seed, &[], FailureMode::Permanent),
        _ => plan(seed, &failing, FailureMode::Permanent),
    };
    let masked = match kind {
        WorkloadKind::Masked => lists.iter().flat_map(|list| masked(list)).collect(),
        _ => BTreeSet::new(),
    };
    let mut spec = SimSpec {
        workload: Some(Workload::new(pages, lists)?),
        keeps_record: policy == PolicyKind::Exact,
        scheduling: Scheduling::Random,
        on_report: OnReport::Heal,
        loop_limit: Some(200),
        max_steps: 4_000_000,
        ..SimSpec::new(RunSpec {
            tasks: size.tasks,
            vcpus: size.vcpus,
            pages,
            seed,
            plan,
            deadline: Duration::from_secs(5),
            attempts: 3,
            timeout: Duration::from_secs(60),
            apf: ApfMode::User,
            irqchip: Irqchip::Kernel,
            on_error: OnError::Exit,
            policy,
            pager: PagerMode::Surefault,
        })
    };
    match kind {
        WorkloadKind::One | WorkloadKind::Crowd | WorkloadKind::Collide | WorkloadKind::Storm => {}
        WorkloadKind::Ghost => spec.killed = { 0..owners(size) }.map(TaskId::new).collect(),
        WorkloadKind::Flaky => {
            spec.intermittent = failing.iter().map(|&page| (page, FLAKY_PERCENT)).collect();
        }
        WorkloadKind::Kernel => {
            spec.irqs_off = failing.iter().copied().skip(1).step_by(4).collect();
            spec.kernel = failing.into_iter().collect();
        }
        WorkloadKind::Masked => {
            spec.irqs_off = masked;
            spec.irqs_off_for = MASKED_FOR;
        }
        WorkloadKind::Migrate => spec.migrate = true,
        WorkloadKind::Shadow => spec.paging = Paging::Shadow,
        WorkloadKind::Repair => {
            spec.on_report = OnReport::Wait;
            spec.repairs = failing.iter().map(|&page| (REPAIRED_AT, page)).collect();
        }
    }
    Ok(spec)
}

/// The same machine on a day on which nothing fails.
pub fn without_failures(spec: &SimSpec) -> SimSpec {
    let mut fine = spec.clone();
    for page in (0..spec.run.pages.get() as u32).map(PageIndex::new) {
        if spec.is_failing(page) {
            fine.repairs.push((Duration::ZERO, page));
        }
    }
    fine
}

/// Tasks that have a failing page.
fn owners(size: Size) -> u16 {
    u16::try_from(size.failing).map_or(size.tasks, |failing| failing.min(size.tasks))
}

/// The failing pages stand one after the other, before the healthy ones.
fn in_order(size: Size) -> Vec<PageIndex> {
    (0..size.failing).map(PageIndex::new).collect()
}

/// Failing pages whose frames fall into one slot of a table of 64.
fn colliding(size: Size) -> Vec<PageIndex> {
    let first = crate::spec::FIRST_GFN.get();
    let slot = |page: u32| ErrorGfnTable::slot_of(AddressKey::new(first + u64::from(page)), 64);
    (0..)
        .filter(|&page| slot(page) == slot(0))
        .map(PageIndex::new)
        .take(size.failing as usize)
        .collect()
}

/// The pages that fail.
fn failing(kind: WorkloadKind, size: Size) -> Vec<PageIndex> {
    match kind {
        WorkloadKind::Collide => colliding(size),
        _ => in_order(size),
    }
}

/// A source that takes 20 us to 1 ms, and fails these pages so.
fn plan(seed: u64, failing: &[PageIndex], mode: FailureMode) -> FaultPlan {
    let latency = Latency::new(Duration::from_micros(20), Duration::from_millis(1));
    let mut plan = FaultPlan::new(seed, latency.expect("the right way round"));
    if !failing.is_empty() {
        // Neighbours in one range: a plan is looked up for every attempt.
        let neighbours = failing.chunk_by(|a, b| a.get() + 1 == b.get());
        plan.push(Rule {
            pages: PageSet::Ranges(neighbours.map(|run| (run[0], run[run.len() - 1])).collect()),
            mode,
            latency: None,
        });
    }
    plan
}

/// The pages that a task accesses with interrupts off: one before those that fail, two in a row after
/// them.
fn masked(list: &[Touch]) -> impl Iterator<Item = PageIndex> {
    let last = list.len() - 1;
    [1, last - 2, last - 1].map(|at| list[at].page).into_iter()
}

/// Deals failing pages and as many healthy ones as are needed to the tasks.
fn deal(size: Size, failing: &[PageIndex]) -> (Vec<Vec<Touch>>, PageCount) {
    let mut healthy = (0..)
        .map(PageIndex::new)
        .filter(|page| failing.binary_search(page).is_err());
    let read = |page| Touch {
        page,
        first: FirstTouch::Read,
    };
    let tasks = usize::from(size.tasks);
    let lists: Vec<Vec<Touch>> = (0..tasks)
        .map(|task| {
            let own = failing.iter().copied().skip(task).step_by(tasks);
            let mut list: Vec<PageIndex> = healthy.by_ref().take(BEFORE).collect();
            list.extend(own);
            list.extend(healthy.by_ref().take(AFTER));
            list.into_iter().map(read).collect()
        })
        .collect();
    let last = lists.iter().flatten().map(|touch| touch.page.get()).max();
    let pages = PageCount::new(u64::from(last.unwrap_or(0)) + 1);
    (lists, pages)
}
