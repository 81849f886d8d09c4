//! What came of a run, for programs. `docs/json.md` says what the fields mean; fields are added,
//! never renamed.

#[cfg(test)]
mod tests;

use serde::Serialize;
use surefault_core::run::{Outcome, Reported, RunResult, RunStats};
use surefault_core::{Access, CauseKind, Gfn, PageIndex, SlotId, VcpuId};

/// The form of the object.
const SCHEMA: u32 = 1;

/// The one object that a command writes.
#[derive(Serialize, Debug)]
pub(crate) struct Output<'a> {
    schema: u32,
    command: &'static str,
    machine: &'static str,
    outcome: Outcome,
    report: Option<Report<'a>>,
    stats: Stats,
}

#[derive(Serialize, Debug)]
struct Report<'a> {
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
struct Stats {
    pages_done: u64,
    tasks_finished: u16,
    wrong_sums: u64,
    unchecked_sums: u64,
    healed: u64,
    progress: u64,
    elapsed_ns: u64,
}

impl<'a> Output<'a> {
    /// The result of `surefault run` on KVM.
    pub(crate) fn of_run(result: &'a RunResult) -> Output<'a> {
        Output {
            schema: SCHEMA,
            command: "run",
            machine: "kvm",
            outcome: result.outcome,
            report: result.report.as_ref().map(Report::of),
            stats: Stats::of(&result.stats),
        }
    }
}

impl<'a> Report<'a> {
    fn of(reported: &'a Reported) -> Report<'a> {
        let Reported {
            report,
            cause,
            task,
            page,
        } = reported;
        Report {
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
        }
    }
}

impl Stats {
    fn of(stats: &RunStats) -> Stats {
        let RunStats {
            pages_done,
            tasks_finished,
            wrong_sums,
            unchecked_sums,
            healed,
            progress,
            elapsed,
            ..
        } = *stats;
        Stats {
            pages_done,
            tasks_finished,
            wrong_sums,
            unchecked_sums,
            healed,
            progress,
            // 584 years.
            elapsed_ns: u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX),
        }
    }
}
