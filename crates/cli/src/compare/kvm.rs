//! The comparison on real vCPUs: the workloads that a real guest can play, with asynchronous faults
//! from user space.
//!
//! The same lists, plans and seeds as on the simulated machine; who runs when, and how long anything
//! takes, is the host's. `docs/policies.md` says in what else the two differ.

mod source;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use surefault_core::PageIndex;
use surefault_core::plan::{FailureMode, FaultPlan, Latency};
use surefault_core::policy::PolicyKind;
use surefault_core::run::{Outcome, Reported, RunSpec};
use surefault_core::workload::Workload;
use surefault_kvm::apf::{Apf, ApfSpec};
use surefault_kvm::runner::{AfterReport, Observer, Progress, run_with_apf};
use surefault_kvm::signals;
use surefault_sim::compare::Row;
use surefault_sim::workloads::WorkloadKind;
use surefault_sim::{OnReport, SimSpec};
use surefault_store::Store;

use crate::exit::{Exit, Failure};
use crate::kvm::failure;
use crate::text::time;

use super::Played;
use source::LabSource;

/// What the columns say.
pub(super) const LEGEND: &str = "\
Real vCPUs on /dev/kvm, asynchronous faults from user space. Columns as on the simulated machine, but
that times are the host's own and nobody's progress is measured: below each table stands the wall time
of a run instead (median).
";

/// An access that was taken again this often ends its run.
const LOOP: u64 = 200;
/// No run takes longer.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The workloads that a real guest can play.
pub(super) const PLAYABLE: [WorkloadKind; 6] = [
    WorkloadKind::One,
    WorkloadKind::Crowd,
    WorkloadKind::Ghost,
    WorkloadKind::Collide,
    WorkloadKind::Flaky,
    WorkloadKind::Repair,
];

/// Why a workload cannot be played here.
pub(super) fn refusal(kind: WorkloadKind) -> Option<&'static str> {
    match kind {
        WorkloadKind::One
        | WorkloadKind::Crowd
        | WorkloadKind::Ghost
        | WorkloadKind::Collide
        | WorkloadKind::Flaky
        | WorkloadKind::Repair => None,
        WorkloadKind::Kernel => Some("the built-in guest's kernel touches no page on demand"),
        WorkloadKind::Migrate => Some("the built-in guest's tasks stay on their vCPU"),
        WorkloadKind::Shadow => {
            Some("asynchronous faults from user space follow the rules of two-dimensional paging")
        }
        WorkloadKind::Masked => Some("the built-in guest's tasks never turn interrupts off"),
        WorkloadKind::Storm => Some("it takes hours on real vCPUs"),
    }
}

/// The wall times, in a line; nothing for the simulated machine.
pub(super) fn wall_times(played: &Played) -> String {
    let Some(walls) = &played.walls else {
        return String::new();
    };
    let of = |(row, wall): (&Row, &Duration)| format!("{} {}", row.policy, time(*wall));
    let times: Vec<String> = played.rows.iter().zip(walls).map(of).collect();
    format!("  wall time: {}\n", times.join(", "))
}

/// The rows of the table, and the median wall time of each row's runs.
pub(super) fn rows<E: Into<Failure>>(
    policies: &[PolicyKind],
    seeds: u64,
    spec: impl Fn(PolicyKind, u64) -> Result<SimSpec, E>,
) -> Result<(Vec<Row>, Vec<Duration>), Failure> {
    let mut rows = Vec::new();
    let mut walls = Vec::new();
    for &policy in policies {
        let mut row = Row::new(policy);
        let mut took = Vec::new();
        for seed in 0..seeds {
            let spec = spec(policy, seed).map_err(Into::into)?;
            took.push(play(&spec, policy, &mut row)?);
        }
        took.sort_unstable();
        walls.push(took[took.len() / 2]);
        rows.push(row);
    }
    Ok((rows, walls))
}

/// Plays one run into `row`. Says how long it took.
fn play(sim: &SimSpec, policy: PolicyKind, row: &mut Row) -> Result<Duration, Failure> {
    let unexpected = |error: anyhow::Error| Failure::new(Exit::Unexpected, error);
    let workload = sim
        .workload
        .clone()
        .expect("workloads that ship have lists");
    let source = Arc::new(LabSource::new(sim));
    let ghost = !sim.killed.is_empty();
    let apf = Arc::new(
        Apf::new(ApfSpec {
            keeps_record: sim.keeps_record,
            error_word: ghost || policy == PolicyKind::GuestError,
            guest_kills: ghost,
            ..ApfSpec::new(sim.run.vcpus, policy)
        })
        .map_err(|error| unexpected(error.into()))?,
    );
    let run = RunSpec {
        // The laboratory's source has the plan, and without a record each attempt is the only one.
        plan: FaultPlan::new(sim.run.seed, Latency::default()),
        attempts: if sim.keeps_record {
            sim.run.attempts
        } else {
            1
        },
        timeout: TIMEOUT,
        policy,
        ..sim.run.clone()
    };
    let mut watching = Watching {
        failing: failing(sim),
        workload: workload.clone(),
        source: Arc::clone(&source),
        waits: sim.on_report == OnReport::Wait,
        wrong: 0,
        looped: false,
    };
    let signals = signals::install().map_err(|error| unexpected(error.into()))?;
    let apf_of_run = Some(Arc::clone(&apf));
    let store: Arc<dyn Store> = source;
    let result = run_with_apf(&run, workload, apf_of_run, store, signals, &mut watching);
    let result = result.map_err(failure)?;
    if result.stats.wrong_sums > 0 {
        return Err(unexpected(anyhow::anyhow!("a sum was wrong: {result:?}")));
    }
    let over = result.outcome == Outcome::Finished;
    row.runs += 1;
    row.ended += u64::from(over);
    row.looped += u64::from(watching.looped);
    row.wrong_reports += watching.wrong;
    let killed = u64::from(result.stats.tasks_killed);
    row.told += if ghost { 0 } else { killed };
    for fate in apf.fates().values() {
        row.retries.add(fate.asked_again);
        if let Some(after) = fate.reported_after {
            let micros = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
            row.report_us.add(micros);
        }
    }
    let healthy = |page: &PageIndex| !watching.failing.contains(page);
    let waits = apf.waits();
    row.refused_healthy += (waits.iter())
        .filter(|(page, _)| healthy(&page.index()))
        .map(|(_, times)| times)
        .sum::<u64>();
    row.off += apf.off();
    let (owed, bytes) = apf.owed_and_bytes();
    row.state_bytes = bytes as u64;
    row.unclaimed += result.stats.apf["unclaimed"] + if over { owed as u64 } else { 0 };
    Ok(result.stats.elapsed)
}

/// The pages that fail, at times or always.
fn failing(sim: &SimSpec) -> BTreeSet<PageIndex> {
    let pages = (0..sim.run.pages.get() as u32).map(PageIndex::new);
    pages
        .filter(|&page| {
            sim.run.plan.mode_of(page) != FailureMode::Healthy
                || sim.intermittent.contains_key(&page)
        })
        .collect()
}

/// Repairs what is reported, and gives up what loops.
struct Watching {
    failing: BTreeSet<PageIndex>,
    workload: Workload,
    source: Arc<LabSource>,
    /// Whoever is stopped waits for the repair of the source.
    waits: bool,
    wrong: u64,
    looped: bool,
}

impl Observer for Watching {
    fn progress(&mut self, progress: &Progress) -> ControlFlow<()> {
        self.looped = progress.asked_again >= LOOP;
        match self.looped {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn reported(&mut self, reported: &Reported) -> AfterReport {
        let page = reported.page;
        let touched = reported.task.is_some_and(|task| {
            let touches = &self.workload.tasks()[usize::from(task.get())];
            touches.iter().any(|touch| touch.page == page)
        });
        self.wrong += u64::from(!touched || !self.failing.contains(&page));
        if self.waits {
            std::thread::sleep(self.source.until_repaired());
        }
        self.source.repair(page);
        AfterReport::Heal
    }
}
