//! The fields of a workload's file, as they are written.

use std::time::Duration;

use serde::Deserialize;
use surefault_core::faults::Paging;
use surefault_core::plan::FailureMode;
use toml::Spanned;

use super::choice::{Choice, PAGES, TASKS};
use super::document::Document;
use super::error::WorkloadFileError;
use super::{Changes, Failing};
use crate::spec::{Deaths, OnReport, Scheduling};
use crate::workloads::WorkloadKind;

/// A text, and where it stands.
type Text = Option<Spanned<String>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Raw {
    pub(super) base: Text,
    pub(super) tasks: Option<Spanned<u16>>,
    pub(super) failing: Option<Spanned<u32>>,
    pub(super) vcpus: Option<Spanned<u16>>,
    scheduling: Text,
    tick: Text,
    paging: Text,
    migrate: Option<bool>,
    killed: Text,
    kernel: Text,
    irqs_off: Text,
    irqs_off_for: Text,
    guest_apf: Option<Spanned<bool>>,
    guest_reads_errors: Option<bool>,
    apf_on_after: Text,
    apf_off_after: Text,
    ack_delay: Text,
    on_report: Text,
    failure: Text,
    repair_after: Text,
    mend_after: Text,
    failure_ttl: Text,
    remove: Text,
    remove_after: Text,
    deaths: Option<u16>,
    death_after: Text,
    death_at_step: Option<u64>,
}

impl Raw {
    /// The lines of the fields that a size may contradict.
    pub(super) fn lines(&self, document: &Document<'_>) -> Vec<(&'static str, usize)> {
        let text = |raw: &Text| raw.as_ref().map(Spanned::span);
        let spans = [
            ("tasks", self.tasks.as_ref().map(Spanned::span)),
            ("failing", self.failing.as_ref().map(Spanned::span)),
            ("vcpus", self.vcpus.as_ref().map(Spanned::span)),
            ("killed", text(&self.killed)),
            ("kernel", text(&self.kernel)),
            ("irqs-off", text(&self.irqs_off)),
            ("remove", text(&self.remove)),
        ];
        let line = |(field, span): (_, Option<std::ops::Range<usize>>)| {
            Some((field, document.line(span?.start)))
        };
        spans.into_iter().filter_map(line).collect()
    }

    pub(super) fn changes(&self, document: &Document<'_>) -> Result<Changes, WorkloadFileError> {
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
        let pages = |field, raw: &Text| document.read(field, raw.as_ref(), PAGES, Choice::read);
        let time = |field, raw: &Text| document.time(field, raw.as_ref());
        let mut apf_changes = Vec::new();
        if let Some(at) = time("apf-on-after", &self.apf_on_after)? {
            // Off from the start, then.
            apf_changes.extend([(Duration::ZERO, false), (at, true)]);
        }
        if let Some(at) = time("apf-off-after", &self.apf_off_after)? {
            apf_changes.push((at, false));
        }
        let removed = pages("remove", &self.remove)?;
        Ok(Changes {
            scheduling: document.optional("scheduling", self.scheduling.as_ref(), &scheduling)?,
            tick: time("tick", &self.tick)?,
            paging: document.optional("paging", self.paging.as_ref(), &paging)?,
            migrate: self.migrate,
            killed: document.read("killed", self.killed.as_ref(), TASKS, Choice::read)?,
            kernel: pages("kernel", &self.kernel)?,
            irqs_off: pages("irqs-off", &self.irqs_off)?,
            irqs_off_for: time("irqs-off-for", &self.irqs_off_for)?,
            guest_apf: self.guest_apf.as_ref().map(|apf| *apf.get_ref()),
            guest_reads_errors: self.guest_reads_errors,
            apf_changes,
            ack_delay: time("ack-delay", &self.ack_delay)?,
            on_report: document.optional("on-report", self.on_report.as_ref(), &on_report)?,
            failure: document.read("failure", self.failure.as_ref(), FAILURES, failure)?,
            repair_after: time("repair-after", &self.repair_after)?,
            mend_after: time("mend-after", &self.mend_after)?,
            failure_ttl: time("failure-ttl", &self.failure_ttl)?,
            remove: removed.zip(time("remove-after", &self.remove_after)?),
            deaths: Deaths {
                after: Vec::from_iter(time("death-after", &self.death_after)?),
                at_steps: self.death_at_step.into_iter().collect(),
                random: self.deaths.unwrap_or(0),
            },
        })
    }

    /// Fields that contradict each other, or mean nothing without another.
    pub(super) fn check(
        &self,
        base: WorkloadKind,
        document: &Document<'_>,
    ) -> Result<(), WorkloadFileError> {
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
        let repaired = base == WorkloadKind::Repair || self.repair_after.is_some();
        if !repaired && let Some(raw) = self.on_report.as_ref().filter(waits) {
            let message =
                "'wait' would wait for ever: nobody repairs the pages; see `repair-after`";
            return Err(document.field("on-report", Some(raw), message.to_owned()));
        }
        let masked = base == WorkloadKind::Masked || self.irqs_off.is_some();
        for (field, raw, other, is_there) in [
            ("irqs-off-for", &self.irqs_off_for, "irqs-off", masked),
            (
                "remove",
                &self.remove,
                "remove-after",
                self.remove_after.is_some(),
            ),
            (
                "remove-after",
                &self.remove_after,
                "remove",
                self.remove.is_some(),
            ),
        ] {
            if !is_there && let Some(raw) = raw {
                let message = format!("it means nothing without `{other}`");
                return Err(document.field(field, Some(raw), message));
            }
        }
        Ok(())
    }
}

const FAILURES: &str = "permanent, temporary=N (N from 1 to 255), truncate, stall or \
    intermittent=PERCENT (1 to 100)";

fn failure(text: &str) -> Option<Failing> {
    if let Some(percent) = text.strip_prefix("intermittent=") {
        let percent = percent
            .parse()
            .ok()
            .filter(|percent| (1..=100).contains(percent));
        return percent.map(Failing::Intermittent);
    }
    let mode = text
        .parse()
        .ok()
        .filter(|&mode| mode != FailureMode::Healthy);
    mode.map(Failing::Planned)
}
