//! The written forms of a plan: `--fail SPEC`, `--latency`, and the words used in plan files.

use core::str::FromStr;
use core::time::Duration;

use thiserror::Error;

use super::{FailureMode, Latency, PageSet, Probability, Rule};
use crate::PageIndex;

/// Why a written plan was not understood.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ParsePlanError {
    /// Neither a page, a range of pages, nor a probability.
    #[error("'{0}' names no pages: expected a page (5), pages (5,9-12) or a probability (p=0.01)")]
    Pages(String),
    /// A range with its ends the wrong way round.
    #[error("the page range '{0}' ends before it begins")]
    BackwardRange(String),
    /// Not a probability.
    #[error("'{0}' is not a probability between 0 and 1")]
    Probability(String),
    /// Not a known way to fail.
    #[error(
        "'{0}' is not a way to fail: expected permanent, temporary=N (N from 1 to 255), stall or \
         truncate"
    )]
    Mode(String),
    /// Not a duration.
    #[error("'{0}' is not a duration: expected a number and a unit (ns, us, ms, s), as in 200us")]
    Duration(String),
    /// A latency with its bounds the wrong way round.
    #[error("the latency '{0}' ends below its beginning")]
    BackwardLatency(String),
}

impl FromStr for Rule {
    type Err = ParsePlanError;

    /// Reads `PAGES[:MODE]`, as in `5`, `5,9-12:stall` or `p=0.01:temporary=2`.
    fn from_str(spec: &str) -> Result<Rule, ParsePlanError> {
        let (pages, mode) = match spec.split_once(':') {
            Some((pages, mode)) => (pages, mode.parse()?),
            None => (spec, FailureMode::Permanent),
        };
        Ok(Rule {
            pages: pages.parse()?,
            mode,
            latency: None,
        })
    }
}

impl FromStr for PageSet {
    type Err = ParsePlanError;

    fn from_str(text: &str) -> Result<PageSet, ParsePlanError> {
        if let Some(p) = text.strip_prefix("p=") {
            return p
                .parse()
                .ok()
                .and_then(Probability::new)
                .map(PageSet::Random)
                .ok_or_else(|| ParsePlanError::Probability(p.to_owned()));
        }
        text.split(',')
            .map(page_range)
            .collect::<Result<_, _>>()
            .map(PageSet::Ranges)
    }
}

fn page_range(text: &str) -> Result<(PageIndex, PageIndex), ParsePlanError> {
    let page = |number: &str| {
        number
            .trim()
            .parse()
            .map(PageIndex::new)
            .map_err(|_| ParsePlanError::Pages(text.to_owned()))
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (page(first)?, page(last)?),
        None => (page(text)?, page(text)?),
    };
    if first > last {
        return Err(ParsePlanError::BackwardRange(text.to_owned()));
    }
    Ok((first, last))
}

impl FromStr for FailureMode {
    type Err = ParsePlanError;

    fn from_str(text: &str) -> Result<FailureMode, ParsePlanError> {
        let failures = text.strip_prefix("temporary=").map(str::parse::<u8>);
        match (text, failures) {
            ("healthy", _) => Ok(FailureMode::Healthy),
            ("permanent", _) => Ok(FailureMode::Permanent),
            ("stall", _) => Ok(FailureMode::Stall),
            ("truncate", _) => Ok(FailureMode::Truncate),
            (_, Some(Ok(failures @ 1..))) => Ok(FailureMode::Temporary { failures }),
            _ => Err(ParsePlanError::Mode(text.to_owned())),
        }
    }
}

impl FromStr for Latency {
    type Err = ParsePlanError;

    /// Reads a duration (`1ms`) or two (`20us..5ms`).
    fn from_str(text: &str) -> Result<Latency, ParsePlanError> {
        let (min, max) = match text.split_once("..") {
            Some((min, max)) => (parse_duration(min)?, parse_duration(max)?),
            None => (parse_duration(text)?, parse_duration(text)?),
        };
        Latency::new(min, max).ok_or_else(|| ParsePlanError::BackwardLatency(text.to_owned()))
    }
}

/// Reads a duration: a whole or decimal number and a unit, `ns`, `us`, `ms` or `s`. `0` needs none.
///
/// # Errors
/// [`ParsePlanError::Duration`] when the text is anything else, or longer than about 31 years.
pub fn parse_duration(text: &str) -> Result<Duration, ParsePlanError> {
    let bad = || ParsePlanError::Duration(text.to_owned());
    let trimmed = text.trim();
    if trimmed == "0" {
        return Ok(Duration::ZERO);
    }
    let unit_at = trimmed
        .find(|c: char| c.is_ascii_alphabetic())
        .ok_or_else(bad)?;
    let (number, unit) = trimmed.split_at(unit_at);
    let nanos_per_unit = match unit {
        "ns" => 1.0,
        "us" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        _ => return Err(bad()),
    };
    let number: f64 = number.trim().parse().map_err(|_| bad())?;
    let nanos = number * nanos_per_unit;
    if !(0.0..=1e18).contains(&nanos) {
        return Err(bad());
    }
    Ok(Duration::from_nanos(nanos.round() as u64))
}
