//! What came of a run, for programs. `docs/json.md` says what the fields mean; fields are added,
//! never renamed.

#[cfg(test)]
pub(crate) mod fields;
#[cfg(test)]
pub(crate) mod tests;

use core::time::Duration;

use serde::Serialize;
use surefault_core::run::{Counters, Outcome, Reported, RunStats};
use surefault_core::{Access, CauseKind, Gfn, PageIndex, SlotId, VcpuId};
use surefault_sim::Counts;

use crate::machine::{Machine, Ran};

/// The form of the object.
pub(crate) const SCHEMA: u32 = 1;

/// The one object that a command writes.
#[derive(Serialize, Debug)]
pub(crate) struct Output<'a> {
    schema: u32,
    command: &'static str,
    machine: Machine,
    outcome: Outcome,
    report: Option<Report<'a>>,
    stats: Stats<'a>,
}

#[derive(Serialize, Debug)]
pub(crate) struct Report<'a> {
    vcpu: VcpuId,
    memslot: SlotId,
    gfn: Gfn,
    gpa: String,
    rip: String,
    access: Access,
    cause: Cause<'a>,
    attempts: u8,
    task: Option<u16>,
    page: PageIndex,
}

#[derive(Serialize, Debug)]
struct Cause<'a> {
    kind: CauseKind,
    text: &'a str,
}

#[derive(Serialize, Debug)]
pub(crate) struct Stats<'a> {
    pages_done: u64,
    tasks_finished: u16,
    tasks_killed: u16,
    wrong_sums: u64,
    unchecked_sums: u64,
    reports: u64,
    healed: u64,
    tokens_left: u64,
    progress: u64,
    returns: u64,
    stopped_ns: u64,
    elapsed_ns: u64,
    kvm: Option<&'a Counters>,
    apf: Option<&'a Counters>,
    pager: Option<&'a Counters>,
    sim: Option<Simulated<'a>>,
}

#[derive(Serialize, Debug)]
struct Simulated<'a> {
    #[serde(flatten)]
    counts: &'a Counts,
    told: u64,
}

impl<'a> Output<'a> {
    /// The result of `surefault run`.
    pub(crate) fn of_run(machine: Machine, ran: &'a Ran) -> Output<'a> {
        Output {
            schema: SCHEMA,
            command: "run",
            machine,
            outcome: ran.result.outcome,
            report: Report::of(ran),
            stats: Stats::of(ran),
        }
    }
}

impl<'a> Report<'a> {
    /// The report of a run, if it ended with one.
    pub(crate) fn of(ran: &'a Ran) -> Option<Report<'a>> {
        let Reported {
            report,
            cause,
            task,
            page,
        } = ran.result.report.as_ref()?;
        Some(Report {
            vcpu: report.vcpu,
            memslot: report.memslot,
            gfn: report.gfn,
            gpa: report.gpa.to_string(),
            rip: report.rip.to_string(),
            access: report.access,
            cause: Cause {
                kind: report.failure.cause.kind,
                text: cause,
            },
            attempts: report.failure.attempts,
            task: task.map(|task| task.get()),
            page: *page,
        })
    }
}

impl<'a> Stats<'a> {
    /// What was counted in a run.
    pub(crate) fn of(ran: &'a Ran) -> Stats<'a> {
        let RunStats {
            pages_done,
            tasks_finished,
            tasks_killed,
            wrong_sums,
            unchecked_sums,
            reports,
            healed,
            tokens_left,
            progress,
            returns,
            ref kvm,
            ref apf,
            ref pager,
            stopped,
            elapsed,
        } = ran.result.stats;
        Stats {
            pages_done,
            tasks_finished,
            tasks_killed,
            wrong_sums,
            unchecked_sums,
            reports,
            healed,
            tokens_left,
            progress,
            returns,
            stopped_ns: nanoseconds(stopped),
            elapsed_ns: nanoseconds(elapsed),
            kvm: (!kvm.is_empty()).then_some(kvm),
            apf: (!apf.is_empty()).then_some(apf),
            pager: (!pager.is_empty()).then_some(pager),
            sim: ran.counts.as_ref().map(|counts| Simulated {
                counts,
                told: ran.told,
            }),
        }
    }
}

/// As far as 584 years.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
