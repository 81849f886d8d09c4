use surefault_core::run::{RunResult, TaskId};
use surefault_core::{
    Access, Cause, CauseId, Failure, FaultReport, Gfn, Gpa, Gva, PageIndex, SlotId, VcpuId,
};

use clap::Parser as _;

use super::*;
use crate::args::{Cli, Command};

fn args(line: &str) -> RunArgs {
    let line = format!("surefault run {line}");
    match Cli::parse_from(line.split_whitespace()).command {
        Command::Run(args) => args,
        other => panic!("{other:?}"),
    }
}

fn on_kvm(result: RunResult) -> Ran {
    Ran {
        result,
        counts: None,
        told: 0,
    }
}

#[test]
fn a_report_says_which_page_which_access_why_and_what_next() {
    let reported = Reported {
        report: FaultReport {
            vcpu: VcpuId::new(0),
            memslot: SlotId::new(1),
            gfn: Gfn::new(1_048_581),
            gpa: Gpa::new(0x1_0000_5000),
            rip: Gva::new(0x40_1020),
            access: Access::Write,
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
    };
    let ran = on_kvm(RunResult {
        outcome: Outcome::Reported,
        report: Some(reported),
        stats: RunStats {
            pages_done: 17,
            tasks_finished: 1,
            elapsed: Duration::from_micros(15_730),
            ..RunStats::default()
        },
    });
    assert_eq!(
        result(&ran, &args("--tasks 4")),
        "\
page 5 cannot be provided: mem.img is too short: it has 20480 bytes, and 24576 are needed
  page    gfn 1048581, gpa 0x100005000, memory slot 1
  access  write by vCPU 0 at rip 0x401020, task 3
  cause   truncated, after 1 attempt
  next    restore the end of the source, and run again
  run     17 page visits, 1 of 4 tasks finished, 15.7 ms
  sums    all that was read is right
"
    );
}

#[test]
fn wrong_sums_are_not_passed_over() {
    let ran = on_kvm(RunResult {
        outcome: Outcome::Finished,
        report: None,
        stats: RunStats {
            wrong_sums: 2,
            ..RunStats::default()
        },
    });
    assert!(result(&ran, &args("")).contains("2 sums WRONG"));
}

#[test]
fn times_are_short() {
    for (micros, written) in [
        (7, "7 us"),
        (1234, "1.2 ms"),
        (2_345_678, "2.35 s"),
        (60_000_000, "60 s"),
    ] {
        assert_eq!(time(Duration::from_micros(micros)).to_string(), written);
    }
}
