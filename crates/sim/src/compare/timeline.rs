//! Progress over time around an error: how fast those go on who have nothing to do with it.
//!
//! A workload as it ships is over soon after its errors. Here its tasks have more healthy pages to
//! visit: all of them before the pages that fail, so that there is a time before the error, and
//! those who are watched also afterwards. Time is cut into windows from the first failure of the run
//! on, which comes at the same moment under every policy.

mod prolong;

use std::time::Duration;

use surefault_core::policy::{AnyPolicy, PolicyKind};
use surefault_core::run::Outcome;

use super::{Done, has_healthy_tasks, in_parallel};
use crate::sim::Sim;
use crate::spec::{SimError, SimSpec};
use crate::workloads::without_failures;
use crate::{SimResult, run};

use prolong::Stage;

/// Windows before the error.
const BEFORE: u32 = 5;
/// Windows after it, at most.
const AFTER: u32 = 24;
/// Until when is looked at least.
const SHORTEST: Duration = Duration::from_millis(4);
/// And at most.
const LONGEST: Duration = Duration::from_millis(960);

/// Progress over time, of several policies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Timeline {
    /// The length of a window.
    pub window: Duration,
    /// Windows before the first error.
    pub before: usize,
    /// Whose progress it is.
    pub whose: Whose,
    /// One line a policy, in the order asked for.
    pub lines: Vec<TimelineLine>,
}

/// Whose progress is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whose {
    /// The tasks without failing pages, in thousandths of the same window of a run in which nothing
    /// fails.
    HealthyTasks,
    /// Where there are none, the tasks that only count: thousandths of the vCPUs' time in which
    /// they ran.
    CountingTasks,
}

/// The progress under one policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TimelineLine {
    /// The policy.
    pub policy: PolicyKind,
    /// Thousandths, by window; `None` where there is nothing to compare with.
    pub per_mille: Vec<Option<u64>>,
}

/// Plays the workload that `spec` describes for longer than it lasts, and looks at progress around
/// its first error; `None` when no run meets an error.
///
/// # Errors
/// When a machine that `spec` describes makes no sense.
pub fn timeline<E: From<SimError> + Send>(
    policies: &[PolicyKind],
    seeds: u64,
    spec: impl Fn(PolicyKind, u64) -> Result<SimSpec, E> + Sync,
    watch: impl Fn(Done) + Sync,
) -> Result<Option<Timeline>, E> {
    let mut longest = SHORTEST;
    for result in in_parallel(policies.len(), &watch, |at| -> Result<SimResult, E> {
        Ok(run(&spec(policies[at], 0)?)?)
    }) {
        let result = result?.run;
        if result.outcome == Outcome::Finished {
            longest = longest.max(result.stats.elapsed * 5 / 4);
        }
    }
    let (window, after) = windows(longest.min(LONGEST));
    let plan = Windows { window, after };
    let stages = in_parallel(seeds as usize, &watch, |seed| -> Result<_, E> {
        let spec = spec(PolicyKind::Retry, seed as u64)?;
        Ok(Stage::set(&spec, window * BEFORE, window * after)?)
    });
    let stages = stages.into_iter().collect::<Result<Vec<_>, E>>()?;
    let whose = match has_healthy_tasks(&spec(PolicyKind::Retry, 0)?) {
        true => Whose::HealthyTasks,
        false => Whose::CountingTasks,
    };
    // The run without failures comes first, where it is needed.
    let mut jobs = Vec::new();
    for (seed, stage) in (0..).zip(&stages) {
        if let Some(stage) = stage {
            let fine = (whose == Whose::HealthyTasks).then_some(None);
            let policies = (0..policies.len()).map(Some);
            jobs.extend(
                fine.into_iter()
                    .chain(policies)
                    .map(|who| (who, seed, stage)),
            );
        }
    }
    if jobs.is_empty() {
        return Ok(None);
    }
    let results = in_parallel(jobs.len(), &watch, |job| -> Result<Vec<u64>, E> {
        let (who, seed, stage) = jobs[job];
        let spec = spec(policies[who.unwrap_or(0)], seed)?;
        let spec = match who {
            Some(_) => stage.play(&spec),
            None => without_failures(&stage.play(&spec)),
        };
        Ok(plan.progress(&spec, stage.first_error, whose)?)
    });
    let mut sums = vec![vec![0; plan.count()]; policies.len() + 1];
    for (result, &(who, _, _)) in results.into_iter().zip(&jobs) {
        let line = &mut sums[who.map_or(policies.len(), |at| at)];
        for (sum, value) in line.iter_mut().zip(result?) {
            *sum += value;
        }
    }
    if whose == Whose::CountingTasks {
        let runs = jobs.len() / policies.len();
        let vcpus = u64::from(spec(PolicyKind::Retry, 0)?.run.vcpus);
        sums[policies.len()].fill(runs as u64 * vcpus * window.as_micros() as u64);
    }
    let whole = sums.pop().unwrap_or_default();
    let lines = policies
        .iter()
        .zip(sums)
        .map(|(&policy, sums)| TimelineLine {
            policy,
            per_mille: (sums.iter().zip(&whole))
                .map(|(&sum, &whole)| (sum * 1000).checked_div(whole))
                .collect(),
        });
    Ok(Some(Timeline {
        window,
        before: BEFORE as usize,
        whose,
        lines: lines.collect(),
    }))
}

/// The shortest round length of which `AFTER` windows reach that far, and how many do.
fn windows(reach: Duration) -> (Duration, u32) {
    let lengths = [1, 10, 100, 1_000, 10_000].map(|unit| [unit, 2 * unit, 5 * unit]);
    let mut lengths = lengths.into_iter().flatten().map(Duration::from_micros);
    let fits = lengths.find(|&length| length * AFTER >= reach);
    let window = fits.unwrap_or(LONGEST / AFTER);
    let after = reach.as_nanos().div_ceil(window.as_nanos());
    (window, u32::try_from(after).unwrap_or(AFTER))
}

struct Windows {
    window: Duration,
    after: u32,
}

impl Windows {
    fn count(&self) -> usize {
        (BEFORE + self.after) as usize
    }

    /// What was done in each window of a run.
    fn progress(
        &self,
        spec: &SimSpec,
        first_error: Duration,
        whose: Whose,
    ) -> Result<Vec<u64>, SimError> {
        let mut sim = Sim::<AnyPolicy>::new(spec)?;
        let mut done = Vec::with_capacity(self.count() + 1);
        let start = first_error.saturating_sub(self.window * BEFORE);
        let vcpus = u64::from(spec.run.vcpus);
        for cut in 0..=self.count() as u32 {
            let until = start + self.window * cut;
            // A run that was stopped by its time limit goes on under the next as if it had not been.
            sim.limit_to(until);
            let (result, kept) = sim.run_and_keep();
            sim = kept;
            let stats = &result.run.stats;
            done.push(match whose {
                Whose::HealthyTasks => result.measured.healthy_done,
                // All tasks are over: from then on only the counting ones run.
                Whose::CountingTasks if result.run.outcome == Outcome::Finished => {
                    let idle = until.saturating_sub(stats.elapsed);
                    stats.progress + vcpus * idle.as_micros() as u64
                }
                Whose::CountingTasks => stats.progress,
            });
        }
        Ok(done.windows(2).map(|pair| pair[1] - pair[0]).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workloads::{Size, WorkloadKind, spec};

    fn played(kind: WorkloadKind, policies: &[PolicyKind]) -> Timeline {
        let size = Size {
            tasks: kind.size().tasks.min(16),
            failing: kind.size().failing.min(4),
            ..kind.size()
        };
        let spec = |policy, seed| Ok(spec(kind, size, policy, seed).expect("a size that fits"));
        timeline::<SimError>(policies, 2, spec, |_| {})
            .expect("specs that make sense")
            .expect("an error")
    }

    fn mean(values: &[Option<u64>]) -> u64 {
        let sum: u64 = values.iter().flatten().sum();
        sum / values.len() as u64
    }

    #[test]
    fn all_is_well_before_the_error_and_error_pending_pays_after_it() {
        let policies = [PolicyKind::ErrorPending, PolicyKind::Exact];
        let timeline = played(WorkloadKind::Ghost, &policies);
        assert_eq!(timeline.whose, Whose::HealthyTasks);
        for line in &timeline.lines {
            // Nothing differs yet: it is the same run.
            let before = &line.per_mille[..timeline.before];
            assert!(before.iter().all(|&of| of == Some(1000)), "{line:?}");
        }
        // The dead task never comes back, so the flag stays set.
        let after: Vec<u64> = (timeline.lines.iter())
            .map(|line| mean(&line.per_mille[timeline.before..]))
            .collect();
        assert!(after[0] < 700 && after[1] > 900, "{after:?}");
    }

    #[test]
    fn where_all_tasks_fail_the_counting_ones_are_looked_at() {
        let policies = [PolicyKind::Retry, PolicyKind::ErrorPending];
        let timeline = played(WorkloadKind::One, &policies);
        assert_eq!(timeline.whose, Whose::CountingTasks);
        let [retry, pending] = &timeline.lines[..] else {
            panic!("{timeline:?}");
        };
        let before = timeline.before;
        assert_eq!(retry.per_mille[..before], pending.per_mille[..before]);
        assert!(mean(&retry.per_mille[before..]) > 900, "{retry:?}");
        // The vCPU waits in the host for the answer to the second attempt.
        let least = pending.per_mille.iter().flatten().min();
        assert!(least < Some(&500), "{pending:?}");
    }

    #[test]
    fn windows_are_round_and_reach_far_enough() {
        for (reach, window, after) in [(4_000, 200, 20), (9_700, 500, 20), (190_000, 10_000, 19)] {
            let (length, count) = windows(Duration::from_micros(reach));
            assert_eq!((length.as_micros(), count), (window, after), "{reach}");
        }
    }
}
