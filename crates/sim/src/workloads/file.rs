//! Workloads as files: one of those that ship, with what is to be different.
//!
//! ```toml
//! base = "crowd"              # the workload to start from
//! tasks = 16                  # sizes
//! failing = 4
//! vcpus = 2
//! scheduling = "adversarial"  # or random, round-robin
//! paging = "shadow"           # or tdp
//! on-report = "wait"          # or heal, stop
//! guest-apf = false           # the guest takes no asynchronous faults
//! guest-reads-errors = false  # nor an error word
//! migrate = true              # a woken task goes on on the next vCPU
//! ack-delay = "200us"         # the guest is slow to acknowledge "ready"
//! tick = "1ms"                # the guest's timer, and so its time slices
//! apf-on-after = "2ms"        # the guest enables asynchronous faults late,
//! apf-off-after = "5ms"       # and disables them again
//! ```

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use surefault_core::faults::Paging;
use surefault_core::plan::parse_duration;
use surefault_core::policy::PolicyKind;
use thiserror::Error;
use toml::Spanned;

use super::{Size, SizeError, WorkloadKind};
use crate::spec::{OnReport, Scheduling, SimSpec};

/// What a workload's file says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WorkloadFile {
    /// The workload to start from.
    pub base: WorkloadKind,
    /// Sizes, where they differ from its own.
    pub tasks: Option<u16>,
    /// Failing pages.
    pub failing: Option<u32>,
    /// vCPUs.
    pub vcpus: Option<u16>,
    changes: Changes,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Changes {
    scheduling: Option<Scheduling>,
    paging: Option<Paging>,
    on_report: Option<OnReport>,
    guest_apf: Option<bool>,
    guest_reads_errors: Option<bool>,
    migrate: Option<bool>,
    ack_delay: Option<Duration>,
    tick: Option<Duration>,
    apf_changes: Vec<(Duration, bool)>,
}

/// Why a workload's file was not understood.
#[derive(Debug, Error)]
pub enum WorkloadFileError {
    /// It could not be read.
    #[error("cannot read the workload {}", path.display())]
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
    #[error("{}, line {line}, field `{field}`: '{value}' is not {expected}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        expected: String,
    },
}

impl WorkloadFile {
    /// Reads the workload in the file at `path`.
    ///
    /// # Errors
    /// [`WorkloadFileError`], with file, line and field.
    pub fn load(path: &Path) -> Result<WorkloadFile, WorkloadFileError> {
        match std::fs::read_to_string(path) {
            Ok(text) => WorkloadFile::parse(path, &text),
            Err(error) => Err(WorkloadFileError::Read {
                path: path.to_owned(),
                error,
            }),
        }
    }

    /// Reads it from `text`; `path` is what errors name.
    ///
    /// # Errors
    /// [`WorkloadFileError`], with file, line and field.
    pub fn parse(path: &Path, text: &str) -> Result<WorkloadFile, WorkloadFileError> {
        let document = Document { path, text };
        let raw: Raw = toml::from_str(text).map_err(|error| document.toml(&error))?;
        let names: Vec<&str> = WorkloadKind::ALL.iter().map(|kind| kind.as_str()).collect();
        let base = document.one_of("base", &raw.base, &names, |name| {
            WorkloadKind::ALL
                .iter()
                .copied()
                .find(|kind| kind.as_str() == name)
        })?;
        let scheduling = |name: &str| match name {
            "random" => Some(Scheduling::Random),
            "round-robin" => Some(Scheduling::RoundRobin),
            "adversarial" => Some(Scheduling::Adversarial),
            _ => None,
        };
        let paging = |name: &str| match name {
            "tdp" => Some(Paging::TwoDimensional),
            "shadow" => Some(Paging::Shadow),
            _ => None,
        };
        let on_report = |name: &str| match name {
            "heal" => Some(OnReport::Heal),
            "stop" => Some(OnReport::Stop),
            "wait" => Some(OnReport::Wait),
            _ => None,
        };
        let mut apf_changes = Vec::new();
        if let Some(at) = document.time("apf-on-after", raw.apf_on_after.as_ref())? {
            // Off from the start, then.
            apf_changes.extend([(Duration::ZERO, false), (at, true)]);
        }
        if let Some(at) = document.time("apf-off-after", raw.apf_off_after.as_ref())? {
            apf_changes.push((at, false));
        }
        Ok(WorkloadFile {
            base,
            tasks: raw.tasks,
            failing: raw.failing,
            vcpus: raw.vcpus,
            changes: Changes {
                scheduling: document.optional(
                    "scheduling",
                    raw.scheduling.as_ref(),
                    &["random", "round-robin", "adversarial"],
                    scheduling,
                )?,
                paging: document.optional(
                    "paging",
                    raw.paging.as_ref(),
                    &["tdp", "shadow"],
                    paging,
                )?,
                on_report: document.optional(
                    "on-report",
                    raw.on_report.as_ref(),
                    &["heal", "stop", "wait"],
                    on_report,
                )?,
                guest_apf: raw.guest_apf,
                guest_reads_errors: raw.guest_reads_errors,
                migrate: raw.migrate,
                ack_delay: document.time("ack-delay", raw.ack_delay.as_ref())?,
                tick: document.time("tick", raw.tick.as_ref())?,
                apf_changes,
            },
        })
    }

    /// The machine that runs it under a policy.
    ///
    /// # Errors
    /// When the size contradicts the workload.
    pub fn spec(&self, size: Size, policy: PolicyKind, seed: u64) -> Result<SimSpec, SizeError> {
        let mut spec = super::spec(self.base, size, policy, seed)?;
        let changes = self.changes.clone();
        spec.scheduling = changes.scheduling.unwrap_or(spec.scheduling);
        spec.paging = changes.paging.unwrap_or(spec.paging);
        spec.on_report = changes.on_report.unwrap_or(spec.on_report);
        spec.guest_apf = changes.guest_apf.unwrap_or(spec.guest_apf);
        spec.guest_reads_errors = changes
            .guest_reads_errors
            .unwrap_or(spec.guest_reads_errors);
        spec.migrate = changes.migrate.unwrap_or(spec.migrate);
        spec.ack_delay = changes.ack_delay.unwrap_or(spec.ack_delay);
        spec.tick = changes.tick.unwrap_or(spec.tick);
        spec.apf_changes.extend(changes.apf_changes);
        Ok(spec)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Raw {
    base: Spanned<String>,
    tasks: Option<u16>,
    failing: Option<u32>,
    vcpus: Option<u16>,
    scheduling: Option<Spanned<String>>,
    paging: Option<Spanned<String>>,
    on_report: Option<Spanned<String>>,
    guest_apf: Option<bool>,
    guest_reads_errors: Option<bool>,
    migrate: Option<bool>,
    ack_delay: Option<Spanned<String>>,
    tick: Option<Spanned<String>>,
    apf_on_after: Option<Spanned<String>>,
    apf_off_after: Option<Spanned<String>>,
}

struct Document<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Document<'_> {
    fn toml(&self, error: &toml::de::Error) -> WorkloadFileError {
        let line = self.line(error.span().unwrap_or_default().start);
        WorkloadFileError::Toml {
            path: self.path.to_owned(),
            line,
            text: self
                .text
                .lines()
                .nth(line - 1)
                .unwrap_or_default()
                .trim()
                .to_owned(),
            message: error.message().to_owned(),
        }
    }

    fn line(&self, at: usize) -> usize {
        let before = self.text.get(..at).unwrap_or(self.text);
        before.matches('\n').count() + 1
    }

    fn wrong(
        &self,
        field: &'static str,
        raw: &Spanned<String>,
        expected: String,
    ) -> WorkloadFileError {
        WorkloadFileError::Value {
            path: self.path.to_owned(),
            line: self.line(raw.span().start),
            field,
            value: raw.get_ref().clone(),
            expected,
        }
    }

    fn one_of<T>(
        &self,
        field: &'static str,
        raw: &Spanned<String>,
        names: &[&str],
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<T, WorkloadFileError> {
        let expected = || format!("one of {}", names.join(", "));
        read(raw.get_ref()).ok_or_else(|| self.wrong(field, raw, expected()))
    }

    fn optional<T>(
        &self,
        field: &'static str,
        raw: Option<&Spanned<String>>,
        names: &[&str],
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, WorkloadFileError> {
        raw.map(|raw| self.one_of(field, raw, names, read))
            .transpose()
    }

    fn time(
        &self,
        field: &'static str,
        raw: Option<&Spanned<String>>,
    ) -> Result<Option<Duration>, WorkloadFileError> {
        raw.map(|raw| {
            let expected = "a duration: a number and a unit (ns, us, ms, s)".to_owned();
            let positive = parse_duration(raw.get_ref())
                .ok()
                .filter(|time| !time.is_zero());
            positive.ok_or_else(|| self.wrong(field, raw, expected))
        })
        .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<WorkloadFile, WorkloadFileError> {
        WorkloadFile::parse(Path::new("w.toml"), text)
    }

    #[test]
    fn a_file_changes_what_it_names() {
        let file =
            parse("base = \"crowd\"\ntasks = 4\nscheduling = \"adversarial\"\ntick = \"1ms\"\n")
                .expect("it is right");
        assert_eq!((file.base, file.tasks), (WorkloadKind::Crowd, Some(4)));
        let size = Size {
            tasks: 4,
            failing: 2,
            vcpus: 1,
        };
        let spec = file
            .spec(size, PolicyKind::Retry, 1)
            .expect("a size that fits");
        assert_eq!(spec.scheduling, Scheduling::Adversarial);
        assert_eq!(spec.tick, Duration::from_millis(1));
        assert_eq!(spec.paging, Paging::TwoDimensional, "as it ships");
    }

    #[test]
    fn what_is_wrong_is_named_with_file_line_and_field() {
        for (text, message) in [
            (
                "# a crowd\nbase = \"crowed\"",
                "w.toml, line 2, field `base`: 'crowed' is not one of one, crowd, ghost, collide, \
                 flaky, kernel, migrate, shadow, repair, storm",
            ),
            (
                "base = \"crowd\"\n\ntick = \"soon\"",
                "w.toml, line 3, field `tick`: 'soon' is not a duration: a number and a unit (ns, \
                 us, ms, s)",
            ),
        ] {
            assert_eq!(parse(text).expect_err("it is wrong").to_string(), message);
        }
        for text in [
            "base = \"crowd\"\ntask = 4",
            "base = \"crowd\"\ntasks = \"4\"",
        ] {
            let message = parse(text).expect_err("it is wrong").to_string();
            assert!(message.starts_with("w.toml, line 2 (`task"), "{message}");
        }
    }
}
