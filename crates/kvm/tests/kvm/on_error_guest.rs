//! `--on-error guest`: the error goes to the task that made the access, and to nobody else; where the
//! guest cannot be told, the run ends with the report.

use std::time::Duration;

use surefault_core::plan::{FaultPlan, Latency};
use surefault_core::run::{ApfMode, Irqchip, OnError, Outcome, RunResult, RunSpec};
use surefault_core::workload::{FirstTouch, Touch, Workload};
use surefault_core::{PageCount, PageIndex};
use surefault_kvm::mce::Vendor;
use surefault_kvm::runner::run_workload;
use surefault_kvm::signals;
use surefault_kvm::vcpu::Vcpu;

use crate::Case;
use crate::rig::{assert_sums, failing, modes, pattern, spec};
use crate::stage::{Choices, Stage};

pub(crate) const CASES: &[Case] = &[
    (
        "tasks_that_touch_a_failing_page_are_killed_and_no_others",
        killed,
    ),
    ("tasks_that_share_a_failing_page_are_all_killed", shared),
    ("intel_guests_are_told_in_their_own_form", intel),
    ("a_guest_with_machine_checks_off_is_reported", off),
    ("a_guest_in_a_machine_check_is_reported", in_progress),
    ("a_guest_whose_bank_reports_nothing_is_reported", silent),
    (
        "an_intel_guest_of_several_cpus_is_told_on_all_of_them",
        everybody,
    ),
    (
        "an_intel_guest_one_of_whose_cpus_cannot_be_told_is_reported",
        not_everybody,
    ),
];

const TASKS: u32 = 12;
const KILLED: u32 = 8;
const TOUCHES: u32 = 12;

/// A run in which tasks 0 to 7 have a page that fails, somewhere among twelve of their own.
fn mixed(seed: u64) -> (RunSpec, Workload) {
    let first = [FirstTouch::Read, FirstTouch::Write];
    let touch = |task: u32, n: u32| Touch {
        page: PageIndex::new(task * TOUCHES + (n + seed as u32) % TOUCHES),
        first: first[(task + n) as usize % 2],
    };
    let list = |task| (0..TOUCHES).map(move |n| touch(task, n)).collect();
    let pages = PageCount::new(u64::from(TASKS * TOUCHES));
    let workload = Workload::new(pages, (0..TASKS).map(list).collect()).unwrap();
    let bad = (0..KILLED).map(|task| task * TOUCHES + (task * 5 + seed as u32) % TOUCHES);
    let bad: Vec<String> = bad.map(|page| page.to_string()).collect();
    let latency = Latency::new(Duration::from_micros(20), Duration::from_millis(1)).unwrap();
    let spec = RunSpec {
        seed,
        plan: FaultPlan::new(seed, latency),
        on_error: OnError::Guest,
        ..spec(pages.get(), TASKS as u16, 1)
    };
    (failing(spec, &bad.join(",")), workload)
}

/// Few seeds, or as many as the whole proof wants.
fn seeds() -> u64 {
    match std::env::var_os("SUREFAULT_FULL") {
        Some(_) => 20,
        None => 3,
    }
}

fn assert_killed(result: &RunResult, killed: u32, what: &str) {
    assert_eq!(result.outcome, Outcome::Finished, "{what}: {result:?}");
    assert_eq!(result.report, None, "{what}");
    assert_eq!(u32::from(result.stats.tasks_killed), killed, "{what}");
    let finished = TASKS - killed;
    assert_eq!(u32::from(result.stats.tasks_finished), finished, "{what}");
    assert_eq!(result.stats.tokens_left, 0, "{what}");
    assert_sums(result);
}

fn killed() {
    let signals = signals::install().unwrap();
    for seed in 0..seeds() {
        for (apf, irqchip) in [
            (ApfMode::Off, Irqchip::Kernel),
            (ApfMode::Off, Irqchip::User),
            (ApfMode::Kernel, Irqchip::Kernel),
            (ApfMode::User, Irqchip::Kernel),
            (ApfMode::User, Irqchip::User),
        ] {
            for vcpus in [1, 2] {
                let (spec, workload) = mixed(seed);
                let spec = RunSpec {
                    apf,
                    irqchip,
                    vcpus,
                    ..spec
                };
                let what = format!("seed {seed}, {apf:?}, {irqchip:?}, {vcpus} vCPUs");
                let result = run_workload(&spec, workload, pattern(&spec), signals, &mut ());
                assert_killed(&result.unwrap(), KILLED, &what);
            }
        }
    }
}

/// All tasks run the same code: they fail on one page, at one instruction, one after the other.
fn shared() {
    let signals = signals::install().unwrap();
    for apf in modes() {
        let list = |task: u32| {
            let touch = |page| Touch {
                page: PageIndex::new(page),
                first: FirstTouch::Read,
            };
            vec![touch(1 + task), touch(0)]
        };
        let pages = PageCount::new(u64::from(TASKS) + 1);
        let workload = Workload::new(pages, (0..TASKS).map(list).collect()).unwrap();
        let spec = RunSpec {
            apf,
            on_error: OnError::Guest,
            ..failing(spec(pages.get(), TASKS as u16, 1), "0")
        };
        let result = run_workload(&spec, workload, pattern(&spec), signals, &mut ());
        assert_killed(&result.unwrap(), TASKS, &format!("{apf:?}"));
    }
}

/// Runs [`mixed`] on a machine that `change` may change before it runs.
fn changed(apf: ApfMode, vcpus: u16, vendor: Option<Vendor>, change: impl Fn(&Vcpu)) -> RunResult {
    let (spec, workload) = mixed(1);
    let spec = RunSpec { apf, vcpus, ..spec };
    let choices = Choices {
        vendor,
        ..Choices::default()
    };
    let (stage, vcpus) = Stage::new(&spec, workload, choices);
    vcpus.iter().for_each(change);
    stage.run(vcpus, &mut ())
}

fn intel() {
    for apf in modes() {
        let result = changed(apf, 1, Some(Vendor::Intel), |_| ());
        assert_killed(&result, KILLED, &format!("one vCPU, {apf:?}"));
    }
}

/// A guest like that is told nothing, whoever takes its faults.
fn assert_reported(vcpus: u16, vendor: Option<Vendor>, change: impl Fn(&Vcpu)) {
    for apf in modes() {
        let result = changed(apf, vcpus, vendor, &change);
        assert_eq!(result.outcome, Outcome::Reported, "{apf:?}: {result:?}");
        let reported = result.report.as_ref().unwrap();
        let task = u32::from(reported.task.unwrap().get());
        assert_eq!(reported.page.get() / TOUCHES, task, "{apf:?}: {reported:?}");
        assert!(task < KILLED);
        assert_eq!(result.stats.tasks_killed, 0);
        assert_sums(&result);
    }
}

fn off() {
    const CR4_MCE: u64 = 1 << 6;
    assert_reported(1, None, |vcpu| {
        let mut sregs = vcpu.fd().get_sregs().unwrap();
        sregs.cr4 &= !CR4_MCE;
        vcpu.fd().set_sregs(&sregs).unwrap();
    });
}

fn set_msr(vcpu: &Vcpu, index: u32, data: u64) {
    let entry = kvm_bindings::kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    let msrs = kvm_bindings::Msrs::from_entries(&[entry]).unwrap();
    assert_eq!(vcpu.fd().set_msrs(&msrs).unwrap(), 1);
}

fn in_progress() {
    const MCIP: u64 = 1 << 2;
    assert_reported(1, None, |vcpu| set_msr(vcpu, 0x17a, MCIP));
}

fn silent() {
    assert_reported(1, None, |vcpu| set_msr(vcpu, 0x400, 0));
}

/// There are no local machine checks here (LMCE): the others take one that is not about them.
fn everybody() {
    for apf in modes() {
        for vcpus in [2, 3] {
            let result = changed(apf, vcpus, Some(Vendor::Intel), |_| ());
            assert_killed(&result, KILLED, &format!("{vcpus} vCPUs, {apf:?}"));
        }
    }
}

fn not_everybody() {
    assert_reported(2, Some(Vendor::Intel), |vcpu| {
        if vcpu.id().get() == 1 {
            set_msr(vcpu, 0x400, 0);
        }
    });
}
