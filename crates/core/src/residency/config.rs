//! The limits of a residency machine.

use core::time::Duration;

use thiserror::Error;

/// Budgets, delays and table sizes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ResidencyConfig {
    /// Attempts at a page alone before it is called failed, at least 1. Only temporary errors are
    /// retried.
    pub attempts: u8,
    /// From the first demand for a page to its outcome, while the source is waited for.
    pub deadline: Duration,
    /// How long a demanded page waits for a fetch of a whole range before it is fetched alone.
    /// Shorter than `deadline`.
    pub range_patience: Duration,
    /// The pause before another attempt.
    pub backoff: Backoff,
    /// A failed page that is wanted again later than this is tried again; `None` = never by
    /// itself.
    pub failure_ttl: Option<Duration>,
    /// Pages in one fetch, at least 1.
    pub max_range: u32,
    /// Fetches that have not come back, those that nobody waits for any more included.
    pub max_fetches: usize,
    /// Pages that are pending by demand or prefetch.
    pub max_pending: usize,
    /// Failed pages whose failure is remembered. Beyond that the oldest is forgotten, which makes
    /// its page absent again.
    pub max_failures: usize,
}

/// The pause before another attempt: doubled each time, up to a limit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Backoff {
    /// Before the second attempt.
    pub first: Duration,
    /// The longest.
    pub max: Duration,
}

impl Backoff {
    /// The pause after `failed` attempts (at least 1).
    pub(super) fn after(self, failed: u8) -> Duration {
        let doubled = self
            .first
            .saturating_mul(1 << u32::from(failed.saturating_sub(1)).min(30));
        doubled.min(self.max)
    }
}

impl Default for ResidencyConfig {
    fn default() -> Self {
        ResidencyConfig {
            attempts: 3,
            deadline: Duration::from_secs(5),
            range_patience: Duration::from_millis(2500),
            backoff: Backoff {
                first: Duration::from_millis(1),
                max: Duration::from_millis(500),
            },
            failure_ttl: None,
            max_range: 16,
            max_fetches: 64,
            max_pending: 4096,
            max_failures: 65_536,
        }
    }
}

/// What is wrong with a configuration.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A limit that must be at least 1 is 0.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// A range is given as long as a page, or longer.
    #[error("range_patience ({patience:?}) must be shorter than the deadline ({deadline:?})")]
    Patience {
        /// `range_patience`.
        patience: Duration,
        /// `deadline`.
        deadline: Duration,
    },
    /// A region has more pages than a page index can name.
    #[error("region {region} has {pages} pages; at most {max} can be addressed")]
    RegionTooLarge {
        /// The region's number.
        region: usize,
        /// Its pages.
        pages: u64,
        /// The most that are possible.
        max: u64,
    },
    /// More regions than a region id can name.
    #[error("{0} regions are too many; at most 65536 can be addressed")]
    TooManyRegions(usize),
}

impl ResidencyConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        for (name, is_zero) in [
            ("attempts", self.attempts == 0),
            ("max_range", self.max_range == 0),
            ("max_fetches", self.max_fetches == 0),
            ("max_pending", self.max_pending == 0),
            ("max_failures", self.max_failures == 0),
            ("deadline", self.deadline.is_zero()),
        ] {
            if is_zero {
                return Err(ConfigError::Zero(name));
            }
        }
        if self.range_patience >= self.deadline {
            let (patience, deadline) = (self.range_patience, self.deadline);
            return Err(ConfigError::Patience { patience, deadline });
        }
        Ok(())
    }
}
