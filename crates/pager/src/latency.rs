//! How long page faults took, from event to wake-up.

use std::time::{Duration, Instant};

use surefault_core::PageId;

/// Buckets for each doubling: a quantile is at most an eighth too long.
const STEPS: usize = 8;
const STEP_BITS: u32 = STEPS.trailing_zeros();
const BUCKETS: usize = (64 - STEP_BITS as usize + 1) * STEPS;

/// How long the page faults took that ended with the page: a histogram of durations.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Latencies {
    counts: Box<[u64; BUCKETS]>,
    count: u64,
    sum: Duration,
}

impl Default for Latencies {
    fn default() -> Self {
        Latencies {
            counts: Box::new([0; BUCKETS]),
            count: 0,
            sum: Duration::ZERO,
        }
    }
}

impl Latencies {
    /// Counts one.
    pub fn add(&mut self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(nanos)] += 1;
        self.count += 1;
        self.sum = self.sum.saturating_add(took);
    }

    /// Counts all of another's.
    pub fn merge(&mut self, other: &Latencies) {
        for (mine, others) in self.counts.iter_mut().zip(other.counts.iter()) {
            *mine += others;
        }
        self.count += other.count;
        self.sum = self.sum.saturating_add(other.sum);
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their sum.
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// The duration that `part` of them (0.5 = the median) did not exceed, rounded up by at most an
    /// eighth; `None` when there were none.
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        let rank = ((self.count as f64 * part).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        self.counts.iter().enumerate().find_map(|(n, &count)| {
            seen += count;
            (count > 0 && seen >= rank).then(|| Duration::from_nanos(upper_bound(n)))
        })
    }

    /// How many took at most `bound`, to within a bucket.
    pub fn at_most(&self, bound: Duration) -> u64 {
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        self.counts[..=bucket(nanos)].iter().sum()
    }
}

fn bucket(nanos: u64) -> usize {
    let Some(shift) = nanos
        .checked_ilog2()
        .and_then(|log| log.checked_sub(STEP_BITS))
    else {
        return nanos as usize;
    };
    // The top bit is the doubling, the next ones the step.
    (shift as usize + 1) * STEPS + (nanos >> shift) as usize % STEPS
}

/// The longest duration of a bucket.
fn upper_bound(bucket: usize) -> u64 {
    let (doubling, step) = (bucket / STEPS, bucket as u64 % STEPS as u64);
    match doubling.checked_sub(1) {
        None => step,
        Some(shift) => {
            let first = u128::from(STEPS as u64 + step) << shift;
            u64::try_from(first + (1 << shift) - 1).unwrap_or(u64::MAX)
        }
    }
}

/// Since when pages are waited for.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    /// Sorted; as many as there are threads that wait.
    since: Vec<(PageId, Instant)>,
    pub(crate) latencies: Latencies,
}

impl Waits {
    /// Somebody waits for `page` from `now` on, if nobody has before.
    pub(crate) fn begin(&mut self, page: PageId, now: Instant) {
        if let Err(at) = self.find(page) {
            self.since.insert(at, (page, now));
        }
    }

    /// `page` is there.
    pub(crate) fn served(&mut self, page: PageId) {
        if let Ok(at) = self.find(page) {
            let (_, since) = self.since.remove(at);
            self.latencies.add(since.elapsed());
        }
    }

    /// The wait for `page` has ended otherwise.
    pub(crate) fn forget(&mut self, page: PageId) {
        if let Ok(at) = self.find(page) {
            self.since.remove(at);
        }
    }

    fn find(&self, page: PageId) -> Result<usize, usize> {
        self.since.binary_search_by_key(&page, |&(page, _)| page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_tight_and_in_order() {
        for nanos in (0..4096).chain([1 << 20, (1 << 40) + 5, u64::MAX / 3, u64::MAX]) {
            let upper = upper_bound(bucket(nanos));
            assert!(
                upper >= nanos && upper - nanos <= nanos / 8,
                "{nanos} {upper}"
            );
            assert_eq!(bucket(upper), bucket(nanos));
            if upper < u64::MAX {
                assert_eq!(bucket(upper + 1), bucket(nanos) + 1);
            }
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn quantiles() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile(0.5), None);
        for micros in 1..=100 {
            latencies.add(Duration::from_micros(micros));
        }
        let median = latencies.quantile(0.5).expect("a median");
        assert!((50_000..=56_250).contains(&median.as_nanos()), "{median:?}");
        assert!(latencies.quantile(1.0).expect("a maximum") >= Duration::from_micros(100));
        assert_eq!(latencies.at_most(Duration::from_secs(1)), 100);
        let mut twice = latencies.clone();
        twice.merge(&latencies);
        assert_eq!((twice.count(), twice.quantile(0.5)), (200, Some(median)));
    }
}
