//! `--on-error guest`: the error goes to the task that made the access, and to nobody else; where the
//! guest cannot be told, the run ends with the report.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use surefault_core::plan::{FaultPlan, Latency};
use surefault_core::run::{ApfMode, Irqchip, OnError, Outcome, RunResult, RunSpec};
use surefault_core::workload::{FirstTouch, Touch, Workload};
use surefault_core::{PageCount, PageIndex, PageSize};
use surefault_kvm::machine::{Machine, MachineSpec};
use surefault_kvm::mce::Vendor;
use surefault_kvm::memory::Mapping;
use surefault_kvm::pages::{PageSource, Paged};
use surefault_kvm::runner::{Limits, drive, run_workload};
use surefault_kvm::signals;
use surefault_kvm::vcpu::Vcpu;
use surefault_kvm::vm::Faults;
use surefault_pager::PagerConfig;
use surefault_store::PlannedStore;

use crate::Case;
use crate::rig::{PAGE, assert_sums, failing, pattern, spec};

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
        "an_intel_guest_of_several_cpus_without_lmce_is_reported",
        no_lmce,
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
    for apf in [ApfMode::Off, ApfMode::Kernel, ApfMode::User] {
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

/// Runs [`mixed`] without asynchronous faults, on a machine that `change` may change before it runs.
fn changed(vcpus: u16, vendor: Option<Vendor>, change: impl Fn(&Vcpu)) -> RunResult {
    let (spec, workload) = mixed(1);
    let source = pattern(&spec);
    let data = Arc::new(Mapping::on_demand((spec.pages.get() * PAGE) as usize).unwrap());
    let store = PlannedStore::new(source.clone(), spec.plan.clone(), PageSize::KIB_4);
    let config = PagerConfig::default();
    let paged = Paged::start(
        data.clone(),
        PageSize::KIB_4,
        Arc::new(store),
        &config,
        None,
    );
    let pages: Arc<dyn PageSource> = Arc::new(paged.unwrap());
    let machine_spec = MachineSpec {
        vcpus,
        workload: Arc::new(workload),
        page_size: PageSize::KIB_4,
        yield_every: NonZeroU32::MIN,
        faults: Faults::Synchronous,
        irqchip: Irqchip::Kernel,
        apf: None,
        on_error: OnError::Guest,
        vendor,
    };
    let signals = signals::install().unwrap();
    let (machine, vcpus) = Machine::new(&machine_spec, data, &pages, signals).unwrap();
    vcpus.iter().for_each(change);
    let limits = Limits {
        timeout: spec.timeout,
        patience: Duration::from_secs(60),
    };
    let heal = |_| Ok(());
    drive(&machine, vcpus, &*pages, &*source, &heal, limits, &mut ()).unwrap()
}

fn intel() {
    let result = changed(1, Some(Vendor::Intel), |_| ());
    assert_killed(&result, KILLED, "one vCPU");
}

fn assert_reported(result: &RunResult) {
    assert_eq!(result.outcome, Outcome::Reported, "{result:?}");
    let reported = result.report.as_ref().unwrap();
    let task = u32::from(reported.task.unwrap().get());
    assert_eq!(reported.page.get() / TOUCHES, task, "{reported:?}");
    assert!(task < KILLED);
    assert_eq!(result.stats.tasks_killed, 0);
    assert_sums(result);
}

fn off() {
    const CR4_MCE: u64 = 1 << 6;
    assert_reported(&changed(1, None, |vcpu| {
        let mut sregs = vcpu.fd().get_sregs().unwrap();
        sregs.cr4 &= !CR4_MCE;
        vcpu.fd().set_sregs(&sregs).unwrap();
    }));
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
    assert_reported(&changed(1, None, |vcpu| set_msr(vcpu, 0x17a, MCIP)));
}

fn silent() {
    assert_reported(&changed(1, None, |vcpu| set_msr(vcpu, 0x400, 0)));
}

fn no_lmce() {
    assert_reported(&changed(2, Some(Vendor::Intel), |_| ()));
}
