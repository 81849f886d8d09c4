//! What came of a simulated run.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use surefault_core::run::RunResult;

/// The result that any machine gives, and what only this one can count.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SimResult {
    /// The result.
    pub run: RunResult,
    /// The counts.
    pub counts: Counts,
    /// What a comparison of policies wants to know.
    pub measured: Measured,
}

/// What was counted on the way. Written with `serde`, it is `stats.sim` of `surefault run`, where the
/// tasks that were told are added.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Counts {
    /// Events played.
    pub steps: u64,
    /// Faults taken, on whichever way.
    pub faults: u64,
    /// Faults that were queued.
    pub asynchronous: u64,
    /// Faults for which a vCPU waited.
    pub synchronous: u64,
    /// Of these, faults on pages that the plan does not fail, while the guest had asynchronous
    /// faults on: what healthy pages pay.
    pub refused_healthy: u64,
    /// Artificial halts.
    pub halts: u64,
    /// Events "page ready" given to the guest.
    pub readies: u64,
    /// Entries at which "ready" had to wait, because the guest had interrupts off.
    pub held: u64,
    /// Reports.
    pub reports: u64,
    /// Reports of a page that the plan does not fail, or that the task on the vCPU did not touch.
    pub wrong_reports: u64,
    /// Errors that ended as unclaimed.
    pub unclaimed: u64,
    /// Tasks that the guest killed.
    pub killed: u64,
    /// How often the worker that serves the pages was killed.
    #[serde(skip)]
    pub deaths: u64,
    /// How often a page had old data put in place, or zeros instead of its data.
    #[serde(skip)]
    pub wrong_pages: u64,
    /// The most attempts at a page that a report names.
    pub max_attempts: u8,
    /// The most often that one access met its page failed already: the retries that it took.
    pub max_retries: u64,
    /// The most often that one access was taken again after its page had been said ready.
    pub max_asked_again: u64,
}

/// What a comparison of policies wants to know beyond the counts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Measured {
    /// Tasks that were told of their error by the guest's kernel, and died of it.
    pub told: u64,
    /// The accesses that met a failure, by the retries that each took until its end, or has taken
    /// without an end.
    pub retries: Histogram,
    /// The reports, by the microseconds since the first failure of the page.
    pub report_us: Histogram,
    /// The sum over vCPUs of the time in which the policy let no fault go the asynchronous way.
    pub off: Duration,
    /// Visits that tasks without a failing page on their list have finished, and of how many.
    pub healthy_done: u64,
    /// Of how many.
    pub healthy_all: u64,
    /// When the last of them was finished.
    pub healthy_last: Duration,
}

/// How often each value was seen.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Histogram(BTreeMap<u64, u64>);

impl Histogram {
    /// One more of a value was seen.
    pub fn add(&mut self, value: u64) {
        *self.0.entry(value).or_default() += 1;
    }

    /// Adds what another has seen.
    pub fn merge(&mut self, other: &Histogram) {
        for (&value, &times) in &other.0 {
            *self.0.entry(value).or_default() += times;
        }
    }

    /// How many values were seen.
    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// The smallest value that `per_mille` of those seen do not exceed; `None` when none was seen.
    pub fn quantile(&self, per_mille: u64) -> Option<u64> {
        let rank = (self.count() * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        self.0.iter().find_map(|(&value, &times)| {
            seen += times;
            (seen >= rank).then_some(value)
        })
    }

    /// The largest value seen.
    pub fn max(&self) -> Option<u64> {
        self.0.keys().next_back().copied()
    }
}

impl FromIterator<u64> for Histogram {
    fn from_iter<I: IntoIterator<Item = u64>>(values: I) -> Histogram {
        let mut seen = Histogram::default();
        for value in values {
            seen.add(value);
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let seen = Histogram::default();
        assert_eq!((seen.quantile(500), seen.max()), (None, None));
        let seen: Histogram = [1, 1, 1, 7].into_iter().collect();
        assert_eq!(seen.quantile(500), Some(1));
        assert_eq!(seen.quantile(750), Some(1));
        assert_eq!(seen.quantile(990), Some(7));
        assert_eq!((seen.count(), seen.max()), (4, Some(7)));
    }
}
