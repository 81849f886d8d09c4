//! Workloads as files: one of those that ship, with what is to be different.
//!
//! ```toml
//! base = "crowd"              # the workload to start from
//! tasks = 16                  # sizes
//! failing = 4
//! vcpus = 2
//! scheduling = "adversarial"  # or random, round-robin
//! tick = "1ms"                # the guest's timer, and so its time slices
//! paging = "shadow"           # or tdp
//! migrate = true              # a woken task goes on on the next vCPU
//! killed = "failing"          # tasks that are killed while they wait for a page that fails
//! kernel = "failing"          # pages that are accessed by the guest's kernel
//! irqs-off = "20-23"          # pages that are accessed with interrupts off,
//! irqs-off-for = "300us"      # which are on again so long after the last of them in a row
//! guest-apf = false           # the guest takes no asynchronous faults
//! guest-reads-errors = false  # nor an error word
//! apf-on-after = "2ms"        # it enables asynchronous faults late,
//! apf-off-after = "5ms"       # and disables them again
//! ack-delay = "200us"         # it is slow to acknowledge "ready"
//! on-report = "stop"          # or heal; or wait, where the pages are repaired
//! failure = "temporary=2"     # or permanent, truncate, stall, intermittent=PERCENT: how pages fail
//! repair-after = "20ms"       # the source has them again, and says so
//! mend-after = "20ms"         # it has them again, and does not
//! failure-ttl = "50ms"        # so long a failure is remembered, where it is
//! remove = "healthy"          # pages that the balloon takes
//! remove-after = "5ms"
//! deaths = 3                  # the worker that serves the pages is killed at random moments, by the seed,
//! death-after = "2ms"         # or at this time,
//! death-at-step = 120         # or before this step of the run, counted from 1
//! ```
//!
//! Pages are `failing`, `healthy`, `all`, `none`, or numbers: `5,9-12`. Tasks are `failing` (those that
//! have such a page), `healthy`, `all`, `none`, or numbers.
//!
//! Where the worker is killed another one goes on from its records, so failures are remembered under every
//! policy.

mod choice;
mod document;
mod error;
mod raw;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use surefault_core::faults::Paging;
use surefault_core::plan::FailureMode;
use surefault_core::policy::PolicyKind;
use toml::Spanned;

use super::{Size, SizeError, WorkloadKind};
use crate::spec::{Deaths, OnReport, Scheduling, SimSpec};

use choice::Choice;
use document::Document;
pub use error::WorkloadFileError;
use raw::Raw;

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
    /// The lines of what it says that a size may contradict.
    lines: Vec<(&'static str, usize)>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Changes {
    scheduling: Option<Scheduling>,
    tick: Option<Duration>,
    paging: Option<Paging>,
    migrate: Option<bool>,
    killed: Option<Choice>,
    kernel: Option<Choice>,
    irqs_off: Option<Choice>,
    irqs_off_for: Option<Duration>,
    guest_apf: Option<bool>,
    guest_reads_errors: Option<bool>,
    apf_changes: Vec<(Duration, bool)>,
    ack_delay: Option<Duration>,
    on_report: Option<OnReport>,
    failure: Option<Failing>,
    repair_after: Option<Duration>,
    mend_after: Option<Duration>,
    failure_ttl: Option<Duration>,
    remove: Option<(Choice, Duration)>,
    deaths: Deaths,
}

/// How the failing pages fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Failing {
    /// Each attempt as planned.
    Planned(FailureMode),
    /// Of 100 attempts so many.
    Intermittent(u8),
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
        let lines = raw.lines(&document);
        Ok(WorkloadFile {
            base,
            tasks: raw.tasks.map(Spanned::into_inner),
            failing: raw.failing.map(Spanned::into_inner),
            vcpus: raw.vcpus.map(Spanned::into_inner),
            changes,
            path: path.to_owned(),
            lines,
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

    /// Whether it can be that large, and has the pages and tasks that it names.
    ///
    /// # Errors
    /// The first contradiction found.
    pub fn check(&self, size: Size) -> Result<(), SizeError> {
        self.spec(size, PolicyKind::Exact, 0).map(drop)
    }

    fn fits(&self, size: Size) -> Result<(), SizeError> {
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
        self.fits(size)?;
        let mut spec = super::spec(self.base, size, policy, seed)?;
        let failing = super::failing(self.base, size);
        let changes = &self.changes;
        changes.change_machine(&mut spec);
        let of = (spec.run.pages, failing.as_slice());
        if let Some(kernel) = &changes.kernel {
            spec.kernel = kernel.pages("kernel", of)?;
        }
        if let Some(irqs_off) = &changes.irqs_off {
            spec.irqs_off = irqs_off.pages("irqs-off", of)?;
        }
        if let Some((remove, at)) = &changes.remove {
            let pages = remove.pages("remove", of)?;
            spec.removals = pages.into_iter().map(|page| (*at, page)).collect();
        }
        if let Some(killed) = &changes.killed {
            spec.killed = killed.tasks(size.tasks, super::owners(size))?;
        }
        let all = |at: Duration| failing.iter().map(move |&page| (at, page)).collect();
        if let Some(at) = changes.repair_after {
            spec.repairs = all(at);
        }
        if let Some(at) = changes.mend_after {
            spec.mends = all(at);
        }
        match changes.failure {
            None => {}
            Some(Failing::Planned(mode)) => {
                spec.run.plan = super::plan(seed, &failing, mode);
                spec.intermittent.clear();
            }
            Some(Failing::Intermittent(percent)) => {
                spec.run.plan = super::plan(seed, &[], FailureMode::Healthy);
                spec.intermittent = failing.iter().map(|&page| (page, percent)).collect();
            }
        }
        spec.keeps_record |= !changes.deaths.is_none();
        spec.deaths = changes.deaths.clone();
        Ok(spec)
    }
}

impl Changes {
    /// What needs neither pages nor tasks.
    fn change_machine(&self, spec: &mut SimSpec) {
        fn set<T: Clone>(field: &mut T, value: &Option<T>) {
            if let Some(value) = value {
                field.clone_from(value);
            }
        }
        set(&mut spec.scheduling, &self.scheduling);
        set(&mut spec.tick, &self.tick);
        set(&mut spec.paging, &self.paging);
        set(&mut spec.migrate, &self.migrate);
        set(&mut spec.irqs_off_for, &self.irqs_off_for);
        set(&mut spec.guest_apf, &self.guest_apf);
        set(&mut spec.guest_reads_errors, &self.guest_reads_errors);
        set(&mut spec.ack_delay, &self.ack_delay);
        set(&mut spec.on_report, &self.on_report);
        spec.failure_ttl = self.failure_ttl.or(spec.failure_ttl);
        spec.apf_changes.extend(&self.apf_changes);
    }
}
