//! The fault plan: which page fails how, on which attempt, with what latency.
//!
//! Pure data and a pure decision: `(page, attempt, seed) → latency, result`. The store wrapper
//! (`surefault-store`) and the simulator obey the same plan, so a run can be played on either.

mod parse;
#[cfg(test)]
mod tests;

use core::fmt;
use core::time::Duration;

use crate::{PageIndex, Persistence};

pub use parse::{ParsePlanError, parse_duration};

/// Which page of the demand-paged region fails how, and how long pages take.
///
/// Rules are looked up in order; the first whose pages match decides.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct FaultPlan {
    rules: Vec<Rule>,
    latency: Latency,
    seed: u64,
}

/// One rule of a plan: these pages fail this way.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Rule {
    /// The pages it is about.
    pub pages: PageSet,
    /// What happens to them.
    pub mode: FailureMode,
    /// How long they take, where that differs from the plan's own latency.
    pub latency: Option<Latency>,
}

/// A set of pages.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum PageSet {
    /// These ranges, first to last, both included.
    Ranges(Vec<(PageIndex, PageIndex)>),
    /// Each page with this probability, decided once per page from the seed.
    Random(Probability),
}

/// A probability, kept as a threshold so that a plan can be compared and hashed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Probability(u64);

/// How a planned page fails.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FailureMode {
    /// It does not fail; only its latency is planned.
    Healthy,
    /// Every attempt fails, and says so at once.
    Permanent,
    /// The first `failures` attempts fail with a temporary error, later ones succeed.
    Temporary {
        /// Attempts that fail.
        failures: u8,
    },
    /// No attempt is ever answered.
    Stall,
    /// The source ends before the page.
    Truncate,
}

/// How long a page takes: uniform between two bounds, from the seed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Latency {
    min: Duration,
    max: Duration,
}

/// What the plan says about one attempt at one page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Decision {
    /// How long the attempt takes before its result is known.
    pub latency: Duration,
    /// The result.
    pub result: PlannedResult,
}

/// The result of one planned attempt.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PlannedResult {
    /// The page is provided.
    Serve,
    /// The attempt fails.
    Fail(Persistence),
    /// The source ends before the page.
    Truncate,
    /// No answer, ever.
    Stall,
}

impl FaultPlan {
    /// A plan under which every page is healthy and takes `latency`; `seed` decides whatever is
    /// left to chance.
    pub fn new(seed: u64, latency: Latency) -> FaultPlan {
        FaultPlan {
            rules: Vec::new(),
            latency,
            seed,
        }
    }

    /// Adds a rule after those already there.
    pub fn push(&mut self, rule: Rule) {
        self.rules.push(rule);
    }

    /// The rules, in the order in which they are looked up.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// True when no page fails and none takes time: the source can be used as it is.
    pub fn is_transparent(&self) -> bool {
        self.rules.is_empty() && self.latency == Latency::default()
    }

    /// What happens on attempt `attempt` (counted from 1) at `page`.
    pub fn decide(&self, page: PageIndex, attempt: u8) -> Decision {
        let rule = self.rule_for(page);
        let latency = rule.and_then(|rule| rule.latency).unwrap_or(self.latency);
        let result = match rule.map_or(FailureMode::Healthy, |rule| rule.mode) {
            FailureMode::Healthy => PlannedResult::Serve,
            FailureMode::Permanent => PlannedResult::Fail(Persistence::Permanent),
            FailureMode::Temporary { failures } if attempt <= failures => {
                PlannedResult::Fail(Persistence::Temporary)
            }
            FailureMode::Temporary { .. } => PlannedResult::Serve,
            FailureMode::Stall => PlannedResult::Stall,
            FailureMode::Truncate => PlannedResult::Truncate,
        };
        Decision {
            latency: latency.sample(self.draw(page, u64::from(attempt))),
            result,
        }
    }

    /// Whether some attempt at `page` fails, and how: the first matching rule's mode.
    pub fn mode_of(&self, page: PageIndex) -> FailureMode {
        self.rule_for(page)
            .map_or(FailureMode::Healthy, |rule| rule.mode)
    }

    fn rule_for(&self, page: PageIndex) -> Option<&Rule> {
        self.rules.iter().enumerate().find_map(|(number, rule)| {
            let matches = match &rule.pages {
                PageSet::Ranges(ranges) => ranges
                    .iter()
                    .any(|&(first, last)| (first..=last).contains(&page)),
                // A salt per rule: two random rules choose independently.
                PageSet::Random(probability) => {
                    probability.hits(self.draw(page, u64::MAX - number as u64))
                }
            };
            matches.then_some(rule)
        })
    }

    /// A number that depends on the seed, the page and `salt` only.
    fn draw(&self, page: PageIndex, salt: u64) -> u64 {
        let mut x = self.seed;
        for word in [u64::from(page.get()), salt] {
            x = mix(x.wrapping_add(word).wrapping_add(0x9e37_79b9_7f4a_7c15));
        }
        x
    }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): every input bit reaches every output bit.
pub const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Probability {
    /// The probability `p`; `None` unless it is between 0 and 1.
    pub fn new(p: f64) -> Option<Probability> {
        // A float to integer cast saturates, so 1.0 becomes the largest threshold.
        (0.0..=1.0)
            .contains(&p)
            .then_some(Probability((p * u64::MAX as f64) as u64))
    }

    fn hits(self, draw: u64) -> bool {
        self.0 == u64::MAX || draw < self.0
    }
}

impl Latency {
    /// Between `min` and `max`, both included; `None` when they are the wrong way round.
    pub fn new(min: Duration, max: Duration) -> Option<Latency> {
        (min <= max).then_some(Latency { min, max })
    }

    /// Always `latency`.
    pub const fn fixed(latency: Duration) -> Latency {
        Latency {
            min: latency,
            max: latency,
        }
    }

    fn sample(self, draw: u64) -> Duration {
        let span = (self.max - self.min).as_nanos();
        // 128 bits hold the product of a 64-bit draw and any duration of up to 500 years.
        let part = (u128::from(draw) * span) >> 64;
        self.min + Duration::from_nanos(u64::try_from(part).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for FailureMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FailureMode::Healthy => f.write_str("healthy"),
            FailureMode::Permanent => f.write_str("permanent"),
            FailureMode::Temporary { failures } => write!(f, "temporary={failures}"),
            FailureMode::Stall => f.write_str("stall"),
            FailureMode::Truncate => f.write_str("truncate"),
        }
    }
}
