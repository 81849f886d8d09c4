//! Workloads as files: one of those that ship, with what is to be different.
//!
//! ```toml
//! base = "crowd"              # the workload to start from
//! tasks = 16                  # sizes
//! failing = 4
//! vcpus = 2
//! scheduling = "adversarial"  # or random, round-robin
//! paging = "shadow"           # or tdp
//! on-report = "stop"          # or heal; or wait, where the pages are repaired (base = "repair")
//! guest-apf = false           # the guest takes no asynchronous faults
//! guest-reads-errors = false  # nor an error word
//! migrate = true              # a woken task goes on on the next vCPU
//! ack-delay = "200us"         # the guest is slow to acknowledge "ready"
//! tick = "1ms"                # the guest's timer, and so its time slices
//! apf-on-after = "2ms"        # the guest enables asynchronous faults late,
//! apf-off-after = "5ms"       # and disables them again
//! deaths = 3                  # the worker that serves the pages is killed at random moments, by the seed,
//! death-after = "2ms"         # or at this time,
//! death-at-step = 120         # or before this step of the run, counted from 1
//! ```
//!
//! Where the worker is killed another one goes on from its records, so failures are remembered under every
//! policy.

mod document;
mod error;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use surefault_core::faults::Paging;
use surefault_core::policy::PolicyKind;
use toml::Spanned;

use super::{Size, SizeError, WorkloadKind};
use crate::spec::{Deaths, OnReport, Scheduling, SimSpec};

use document::Document;
pub use error::WorkloadFileError;

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
    path: PathBuf,
    /// The lines of the sizes that it gives.
    lines: Vec<(&'static str, usize)>,
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
    deaths: Deaths,
}

impl WorkloadFile {
    /// Reads the workload in the file at `path`.
    ///
    /// # Errors
    /// [`WorkloadFileError`], with file, line and field.
    pub fn load(path: &Path) -> Result<WorkloadFile, WorkloadFileError> {
        let bytes = std::fs::read(path).map_err(|error| WorkloadFileError::Read {
            path: path.to_owned(),
            error,
        })?;
        let text = String::from_utf8_lossy(&bytes);
        if let Err(error) = str::from_utf8(&bytes) {
            let document = Document { path, text: &text };
            return Err(document.at(error.valid_up_to(), "the text is not UTF-8"));
        }
        WorkloadFile::parse(path, &text)
    }

    /// Reads it from `text`; `path` is what errors name.
    ///
    /// # Errors
    /// [`WorkloadFileError`], with file, line and field.
    pub fn parse(path: &Path, text: &str) -> Result<WorkloadFile, WorkloadFileError> {
        let document = Document { path, text };
        let raw: Raw = toml::from_str(text).map_err(|error| document.toml(&error))?;
        let kinds: Vec<(&str, WorkloadKind)> = WorkloadKind::ALL
            .iter()
            .map(|&kind| (kind.as_str(), kind))
            .collect();
        let Some(base) = &raw.base else {
            let missing = "missing: the workload to start from".to_owned();
            return Err(document.field::<()>("base", None, missing));
        };
        let base = document.one_of("base", base, &kinds)?;
        let changes = raw.changes(&document)?;
        raw.check(base, &document)?;
        let line = |raw: std::ops::Range<usize>| document.line(raw.start);
        let lines = [
            ("tasks", raw.tasks.as_ref().map(Spanned::span)),
            ("failing", raw.failing.as_ref().map(Spanned::span)),
            ("vcpus", raw.vcpus.as_ref().map(Spanned::span)),
        ];
        Ok(WorkloadFile {
            base,
            tasks: raw.tasks.map(Spanned::into_inner),
            failing: raw.failing.map(Spanned::into_inner),
            vcpus: raw.vcpus.map(Spanned::into_inner),
            changes,
            path: path.to_owned(),
            lines: lines
                .into_iter()
                .filter_map(|(field, span)| Some((field, line(span?))))
                .collect(),
        })
    }

    /// `error` with the place of the first of its fields that this file gives; as it is where the
    /// file gives none of them.
    ///
    /// # Errors
    /// `error`, when it is none of this file's doing.
    pub fn blame(&self, error: SizeError) -> Result<WorkloadFileError, SizeError> {
        let given = |field: &&str| self.lines.iter().find(|(name, _)| name == field);
        match error.fields().iter().find_map(given) {
            Some(&(field, line)) => Ok(WorkloadFileError::Size {
                path: self.path.clone(),
                line,
                field,
                error,
            }),
            None => Err(error),
        }
    }

    /// Whether it can be that large.
    ///
    /// # Errors
    /// The first contradiction found.
    pub fn check(&self, size: Size) -> Result<(), SizeError> {
        match (self.changes.migrate, size.vcpus) {
            (Some(true), vcpus @ ..2) => Err(SizeError::NowhereToMigrate(vcpus)),
            _ => size.check(self.base),
        }
    }

    /// The machine that runs it under a policy.
    ///
    /// # Errors
    /// When the size contradicts the workload.
    pub fn spec(&self, size: Size, policy: PolicyKind, seed: u64) -> Result<SimSpec, SizeError> {
        self.check(size)?;
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
        spec.keeps_record |= !changes.deaths.is_none();
        spec.deaths = changes.deaths;
        Ok(spec)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Raw {
    base: Option<Spanned<String>>,
    tasks: Option<Spanned<u16>>,
    failing: Option<Spanned<u32>>,
    vcpus: Option<Spanned<u16>>,
    scheduling: Option<Spanned<String>>,
    paging: Option<Spanned<String>>,
    on_report: Option<Spanned<String>>,
    guest_apf: Option<Spanned<bool>>,
    guest_reads_errors: Option<bool>,
    migrate: Option<bool>,
    ack_delay: Option<Spanned<String>>,
    tick: Option<Spanned<String>>,
    apf_on_after: Option<Spanned<String>>,
    apf_off_after: Option<Spanned<String>>,
    deaths: Option<u16>,
    death_after: Option<Spanned<String>>,
    death_at_step: Option<u64>,
}

impl Raw {
    fn changes(&self, document: &Document<'_>) -> Result<Changes, WorkloadFileError> {
        let scheduling = [
            ("random", Scheduling::Random),
            ("round-robin", Scheduling::RoundRobin),
            ("adversarial", Scheduling::Adversarial),
        ];
        let paging = [("tdp", Paging::TwoDimensional), ("shadow", Paging::Shadow)];
        let on_report = [
            ("heal", OnReport::Heal),
            ("stop", OnReport::Stop),
            ("wait", OnReport::Wait),
        ];
        let mut apf_changes = Vec::new();
        if let Some(at) = document.time("apf-on-after", self.apf_on_after.as_ref())? {
            // Off from the start, then.
            apf_changes.extend([(Duration::ZERO, false), (at, true)]);
        }
        if let Some(at) = document.time("apf-off-after", self.apf_off_after.as_ref())? {
            apf_changes.push((at, false));
        }
        Ok(Changes {
            scheduling: document.optional("scheduling", self.scheduling.as_ref(), &scheduling)?,
            paging: document.optional("paging", self.paging.as_ref(), &paging)?,
            on_report: document.optional("on-report", self.on_report.as_ref(), &on_report)?,
            guest_apf: self.guest_apf.as_ref().map(|apf| *apf.get_ref()),
            guest_reads_errors: self.guest_reads_errors,
            migrate: self.migrate,
            ack_delay: document.time("ack-delay", self.ack_delay.as_ref())?,
            tick: document.time("tick", self.tick.as_ref())?,
            apf_changes,
            deaths: Deaths {
                after: Vec::from_iter(document.time("death-after", self.death_after.as_ref())?),
                at_steps: self.death_at_step.into_iter().collect(),
                random: self.deaths.unwrap_or(0),
            },
        })
    }

    /// Fields that contradict each other.
    fn check(&self, base: WorkloadKind, document: &Document<'_>) -> Result<(), WorkloadFileError> {
        let on = document.time("apf-on-after", self.apf_on_after.as_ref())?;
        let off = document.time("apf-off-after", self.apf_off_after.as_ref())?;
        if let (Some(on), Some(off), raw) = (on, off, &self.apf_off_after)
            && off <= on
        {
            let message = "it must be later than `apf-on-after`".to_owned();
            return Err(document.field("apf-off-after", raw.as_ref(), message));
        }
        let changes = on.is_some() || off.is_some();
        if changes && let Some(apf) = self.guest_apf.as_ref().filter(|apf| !apf.get_ref()) {
            let message = "the guest that never has asynchronous faults cannot turn them on or off";
            return Err(document.field("guest-apf", Some(apf), message.to_owned()));
        }
        let waits = |raw: &&Spanned<String>| raw.get_ref() == "wait";
        if base != WorkloadKind::Repair
            && let Some(raw) = self.on_report.as_ref().filter(waits)
        {
            let message = "'wait' would wait for ever: only the pages of 'repair' are repaired";
            return Err(document.field("on-report", Some(raw), message.to_owned()));
        }
        Ok(())
    }
}
