//! The comparison: every policy on the same workload, seed for seed.

mod parallel;
mod timeline;

use std::time::Duration;

use surefault_core::policy::{AnyPolicy, PolicyKind};
use surefault_core::run::Outcome;
use surefault_core::workload::Touch;

use crate::result::Histogram;
use crate::sim::Sim;
use crate::spec::{SimError, SimSpec};
use crate::workloads::without_failures;

pub use parallel::Done;
use parallel::in_parallel;
pub use timeline::{Timeline, TimelineLine, Whose, timeline};

/// What one policy made of one workload, over all seeds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// The policy.
    pub policy: PolicyKind,
    /// Runs.
    pub runs: u64,
    /// Runs in which every task came to an end.
    pub ended: u64,
    /// Runs given up because one access was taken again and again.
    pub looped: u64,
    /// Retries of accesses that met a failure, until their end or until the run was given up.
    pub retries: Histogram,
    /// Microseconds from the first failure of a page to its report.
    pub report_us: Histogram,
    /// Reports of a page that does not fail, or with the registers of a task that did not touch it.
    pub wrong_reports: u64,
    /// Tasks that the guest killed because it was told.
    pub told: u64,
    /// Faults on healthy pages that the policy sent the synchronous way.
    pub refused_healthy: u64,
    /// The sum over vCPUs of the time with asynchronous faults switched off by the policy.
    pub off: Duration,
    /// How fast the tasks without failing pages went, in thousandths of a run in which nothing
    /// fails; `None` where there are none.
    pub progress_per_mille: Option<u64>,
    /// Bytes that the policy keeps for the VM.
    pub state_bytes: u64,
    /// Errors that nobody came back for.
    pub unclaimed: u64,
}

impl Row {
    /// The row of a policy that nothing has been played under.
    pub fn new(policy: PolicyKind) -> Row {
        Row {
            policy,
            runs: 0,
            ended: 0,
            looped: 0,
            retries: Histogram::default(),
            report_us: Histogram::default(),
            wrong_reports: 0,
            told: 0,
            refused_healthy: 0,
            off: Duration::ZERO,
            progress_per_mille: None,
            state_bytes: 0,
            unclaimed: 0,
        }
    }

    fn add(&mut self, run: &Run) {
        let (counts, measured) = (&run.result.counts, &run.result.measured);
        self.runs += 1;
        self.ended += u64::from(run.result.run.outcome == Outcome::Finished);
        self.looped += u64::from(run.result.run.outcome == Outcome::Looped);
        self.retries.merge(&measured.retries);
        self.report_us.merge(&measured.report_us);
        self.wrong_reports += counts.wrong_reports;
        self.told += measured.told;
        self.refused_healthy += counts.refused_healthy;
        self.off += measured.off;
        self.state_bytes = run.state_bytes;
        // Those still owed when all tasks are over will never be claimed.
        let over = run.result.run.outcome == Outcome::Finished;
        self.unclaimed += counts.unclaimed + if over { run.owed } else { 0 };
    }
}

/// One run, and what the machine looked like at its end.
struct Run {
    result: crate::SimResult,
    owed: u64,
    state_bytes: u64,
}

impl Run {
    fn of(spec: &SimSpec) -> Result<Run, SimError> {
        let (result, owed, state_bytes) = Sim::<AnyPolicy>::new(spec)?.run_and_measure();
        Ok(Run {
            result,
            owed,
            state_bytes,
        })
    }

    /// Visits of healthy tasks in a second, in thousandths; 0 when there were none.
    fn speed(&self) -> u64 {
        let measured = &self.result.measured;
        let all_done = measured.healthy_done == measured.healthy_all;
        let took = match all_done {
            true => measured.healthy_last,
            false => self.result.run.stats.elapsed,
        };
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        measured.healthy_done.saturating_mul(1_000_000_000) / micros
    }
}

/// Runs each policy with each seed on as many threads as there are cores. The rows come in the order
/// of `policies` and depend on nothing but what is asked for. `watch` hears how far it is, from any
/// of the threads.
///
/// # Errors
/// When a machine that `spec` describes makes no sense.
pub fn compare<E: From<SimError> + Send>(
    policies: &[PolicyKind],
    seeds: u64,
    spec: impl Fn(PolicyKind, u64) -> Result<SimSpec, E> + Sync,
    watch: impl Fn(Done) + Sync,
) -> Result<Vec<Row>, E> {
    // Where nothing fails all policies are one: each seed has one run to be measured against.
    let fine = in_parallel(seeds as usize, &|_| {}, |seed| -> Result<Option<u64>, E> {
        let Some(&policy) = policies.first() else {
            return Ok(None);
        };
        let spec = spec(policy, seed as u64)?;
        if !has_healthy_tasks(&spec) {
            return Ok(None);
        }
        Ok(Some(Run::of(&without_failures(&spec))?.speed().max(1)))
    });
    let fine = fine.into_iter().collect::<Result<Vec<_>, E>>()?;
    let jobs: Vec<(usize, usize)> = (0..policies.len())
        .flat_map(|policy| (0..fine.len()).map(move |seed| (policy, seed)))
        .collect();
    let results = in_parallel(jobs.len(), &watch, |job| -> Result<Run, E> {
        let (policy, seed) = jobs[job];
        Ok(Run::of(&spec(policies[policy], seed as u64)?)?)
    });
    let mut rows: Vec<Row> = policies.iter().map(|&policy| Row::new(policy)).collect();
    let mut paces = vec![0; rows.len()];
    for (result, &(policy, seed)) in results.into_iter().zip(&jobs) {
        let run = result?;
        let row = &mut rows[policy];
        row.add(&run);
        if let Some(fine) = fine[seed] {
            paces[policy] += run.speed().saturating_mul(1000) / fine;
            row.progress_per_mille = Some(paces[policy] / row.runs);
        }
    }
    Ok(rows)
}

/// Whether some task has no failing page on its list.
fn has_healthy_tasks(spec: &SimSpec) -> bool {
    let fails = |touch: &Touch| spec.is_failing(touch.page);
    match &spec.workload {
        Some(workload) => workload
            .tasks()
            .iter()
            .any(|list| !list.is_empty() && !list.iter().any(fails)),
        None => true,
    }
}
