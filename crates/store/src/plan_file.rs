//! Fault plans as files, for what does not fit on a command line.
//!
//! ```toml
//! seed = 7                  # decides what is left to chance
//! latency = "20us..5ms"     # of every page
//!
//! [[rule]]                  # the first rule that matches a page decides
//! pages = "5,9-12"          # or "p=0.01"
//! fail = "temporary=2"      # or healthy, permanent, stall, truncate
//! latency = "1ms"           # of these pages
//! ```

#[cfg(test)]
mod tests;

use core::ops::Range;
use core::str::FromStr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use surefault_core::plan::{FaultPlan, Latency, ParsePlanError, Rule};
use thiserror::Error;
use toml::Spanned;

/// What a plan's file says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PlanFile {
    /// The seed, if it names one.
    pub seed: Option<u64>,
    /// The latency of all pages, if it names one.
    pub latency: Option<Latency>,
    /// The rules, in order.
    pub rules: Vec<Rule>,
}

impl PlanFile {
    /// The plan, with `seed` and `latency` where the file names none.
    pub fn into_plan(self, seed: u64, latency: Latency) -> FaultPlan {
        let mut plan = FaultPlan::new(self.seed.unwrap_or(seed), self.latency.unwrap_or(latency));
        for rule in self.rules {
            plan.push(rule);
        }
        plan
    }
}

/// Why a plan's file was not understood.
#[derive(Debug, Error)]
pub enum PlanFileError {
    /// It could not be read.
    #[error("cannot read the fault plan {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        error: std::io::Error,
    },
    /// It is not the TOML that was expected: a wrong field, a wrong type, a syntax error.
    #[error("{}, line {line} (`{text}`): {message}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is in that line.
        text: String,
        /// What is wrong with it.
        message: String,
    },
    /// A field's value is not a value for it.
    #[error("{}, line {line}, field `{field}`", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The field.
        field: &'static str,
        /// What is wrong with the value.
        #[source]
        error: ParsePlanError,
    },
}

/// Reads the fault plan in the file at `path`.
///
/// # Errors
/// [`PlanFileError`], with file, line and field.
pub fn load_plan(path: &Path) -> Result<PlanFile, PlanFileError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Document { path, text: &text }.parse(),
        Err(error) => Err(PlanFileError::Read {
            path: path.to_owned(),
            error,
        }),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPlan {
    seed: Option<u64>,
    latency: Option<Spanned<String>>,
    #[serde(default)]
    rule: Vec<RawRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    pages: Spanned<String>,
    /// Not optional: a rule with a latency alone might mean either.
    fail: Spanned<String>,
    latency: Option<Spanned<String>>,
}

struct Document<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Document<'_> {
    fn parse(&self) -> Result<PlanFile, PlanFileError> {
        let raw: RawPlan = toml::from_str(self.text).map_err(|error| {
            let at = error.span().unwrap_or_default();
            PlanFileError::Toml {
                path: self.path.to_owned(),
                line: self.line(&at),
                text: self.line_text(&at).to_owned(),
                message: error.message().to_owned(),
            }
        })?;
        let rules = raw
            .rule
            .iter()
            .map(|raw| self.rule(raw))
            .collect::<Result<_, _>>()?;
        Ok(PlanFile {
            seed: raw.seed,
            latency: self.optional("latency", raw.latency.as_ref())?,
            rules,
        })
    }

    fn rule(&self, raw: &RawRule) -> Result<Rule, PlanFileError> {
        Ok(Rule {
            pages: self.value("pages", &raw.pages)?,
            mode: self.value("fail", &raw.fail)?,
            latency: self.optional("latency", raw.latency.as_ref())?,
        })
    }

    fn optional<T: FromStr<Err = ParsePlanError>>(
        &self,
        field: &'static str,
        written: Option<&Spanned<String>>,
    ) -> Result<Option<T>, PlanFileError> {
        written
            .map(|written| self.value(field, written))
            .transpose()
    }

    fn value<T: FromStr<Err = ParsePlanError>>(
        &self,
        field: &'static str,
        written: &Spanned<String>,
    ) -> Result<T, PlanFileError> {
        written
            .get_ref()
            .parse()
            .map_err(|error| PlanFileError::Value {
                path: self.path.to_owned(),
                line: self.line(&written.span()),
                field,
                error,
            })
    }

    fn before(&self, at: &Range<usize>) -> &str {
        self.text.get(..at.start).unwrap_or(self.text)
    }

    fn line(&self, at: &Range<usize>) -> usize {
        self.before(at).matches('\n').count() + 1
    }

    fn line_text(&self, at: &Range<usize>) -> &str {
        self.text
            .lines()
            .nth(self.line(at) - 1)
            .unwrap_or_default()
            .trim()
    }
}
