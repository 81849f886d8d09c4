use std::time::Duration;

use serde_json::Value;
use surefault_core::run::{RunResult, TaskId};
use surefault_core::{Cause, CauseId, Failure, FaultReport, Gpa, Gva};
use surefault_kvm::apf::counter_names;
use surefault_pager::PagerStats;

use super::fields::{DOCS, assert_described};
use super::*;

const GOLDEN: &str = include_str!("reported.json");
/// What the simulated machine has in `stats.sim`.
const GOLDEN_SIM: &str = include_str!("sim.json");

pub(crate) fn reported() -> Ran {
    let result = RunResult {
        outcome: Outcome::Reported,
        report: Some(Reported {
            report: FaultReport {
                vcpu: VcpuId::new(0),
                memslot: SlotId::new(1),
                gfn: Gfn::new(1_048_581),
                gpa: Gpa::new(0x1_0000_5000),
                rip: Gva::new(0x40_1020),
                access: Access::Read,
                failure: Failure {
                    cause: Cause {
                        kind: CauseKind::Truncated,
                        id: CauseId::new(1),
                    },
                    attempts: 1,
                },
            },
            cause: "mem.img is too short: it has 20480 bytes, and 24576 are needed".to_owned(),
            task: Some(TaskId::new(3)),
            page: PageIndex::new(5),
        }),
        stats: RunStats {
            pages_done: 17,
            tasks_finished: 1,
            tasks_killed: 6,
            wrong_sums: 0,
            unchecked_sums: 2,
            reports: 1,
            healed: 0,
            progress: 1234,
            tokens_left: 8,
            returns: 9,
            kvm: [("exits".into(), 31), ("pf_taken".into(), 30)].into(),
            apf: (counter_names().zip(60..))
                .map(|(name, value)| (name.into(), value))
                .collect(),
            pager: (PagerStats::default().named().zip(40..))
                .map(|((name, _), value)| (name.into(), value))
                .collect(),
            stopped: Duration::from_micros(2500),
            elapsed: Duration::from_micros(1500),
        },
    };
    Ran {
        result,
        counts: None,
        told: 0,
    }
}

pub(crate) fn simulated() -> Ran {
    Ran {
        counts: Some(Counts {
            steps: 901,
            faults: 19,
            asynchronous: 18,
            synchronous: 1,
            refused_healthy: 0,
            halts: 2,
            readies: 18,
            held: 9,
            reports: 1,
            wrong_reports: 0,
            unclaimed: 3,
            killed: 4,
            deaths: 0,
            wrong_pages: 0,
            max_attempts: 5,
            max_retries: 6,
            max_asked_again: 7,
        }),
        told: 8,
        ..reported()
    }
}

#[test]
fn a_report_as_ever() {
    let written = serde_json::to_value(Output::of_run(Machine::Kvm, &reported())).unwrap();
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    assert_eq!(written, golden);
    let written = serde_json::to_value(Output::of_run(Machine::Simulated, &simulated())).unwrap();
    let mut on_simulated = golden;
    on_simulated["machine"] = "simulated".into();
    on_simulated["stats"]["sim"] = serde_json::from_str(GOLDEN_SIM).unwrap();
    assert_eq!(written, on_simulated);
}

#[test]
fn without_a_report() {
    let ran = Ran {
        result: RunResult {
            outcome: Outcome::Finished,
            report: None,
            stats: RunStats::default(),
        },
        counts: None,
        told: 0,
    };
    let written = serde_json::to_value(Output::of_run(Machine::Kvm, &ran)).unwrap();
    assert_eq!(written["outcome"], "finished");
    assert_eq!(written["report"], Value::Null);
}

#[test]
fn every_field_is_described() {
    let value = serde_json::to_value(Output::of_run(Machine::Simulated, &simulated())).unwrap();
    // KVM's own counters are Linux's to name.
    assert_described("surefault run", &value, &["stats.kvm"]);
}

/// Every word that an enum may become is in the document.
#[test]
fn every_word_is_described() {
    let outcomes = [
        Outcome::Finished,
        Outcome::Reported,
        Outcome::Looped,
        Outcome::TimedOut,
        Outcome::Cancelled,
    ];
    let kinds = [
        CauseKind::Truncated,
        CauseKind::Io,
        CauseKind::Unavailable,
        CauseKind::Permission,
        CauseKind::Corrupt,
        CauseKind::Deadline,
        CauseKind::Install,
        CauseKind::Injected,
        CauseKind::BadAddress,
    ];
    let accesses = [Access::Read, Access::Write, Access::Fetch, Access::Unknown];
    let words = outcomes
        .iter()
        .map(|outcome| serde_json::to_value(outcome).unwrap())
        .chain(kinds.iter().map(|kind| serde_json::to_value(kind).unwrap()))
        .chain(
            accesses
                .iter()
                .map(|access| serde_json::to_value(access).unwrap()),
        );
    for word in words {
        let quoted = format!("`\"{}\"`", word.as_str().unwrap());
        assert!(DOCS.contains(&quoted), "{quoted}");
    }
}
