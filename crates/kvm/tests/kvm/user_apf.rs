//! Asynchronous faults from user space: every policy on real vCPUs, held to what the laboratory
//! says of it.
#![expect(unsafe_code, reason = "registers a page of a test's own, to poison it")]

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use surefault_core::plan::{FaultPlan, Latency};
use surefault_core::policy::PolicyKind;
use surefault_core::residency::PageState;
use surefault_core::run::{ApfMode, Irqchip, OnError, Outcome, RunResult, RunSpec};
use surefault_core::workload::{FirstTouch, Touch, Workload};
use surefault_core::{Access, Cause, Hva, PageCount, PageId, PageIndex, PageSize, RegionId};
use surefault_guest::Idle;
use surefault_kvm::apf::{Apf, ApfSpec};
use surefault_kvm::machine::{Machine, MachineSpec};
use surefault_kvm::memory::Mapping;
use surefault_kvm::pages::PageSource;
use surefault_kvm::runner::{Limits, RunError, drive, run_workload};
use surefault_kvm::signals;
use surefault_kvm::vcpu::VcpuError;
use surefault_kvm::vm::Faults;
use surefault_sim::SimSpec;
use surefault_store::PatternStore;
use surefault_uffd::{
    Address, Options, Outcome as Installed, PageRange, RegisterMode, Userfaultfd, Wake,
};

use crate::Case;
use crate::many_faults::{many, many_in};
use crate::rig::{
    PAGE, assert_finished, assert_sums, failing, go, go_blocked, pattern, run_blocked, spec,
};
use crate::stage::{Choices, Stage};

pub(crate) const CASES: &[Case] = &[
    (
        "policies_end_two_failing_tasks_as_in_the_laboratory",
        || verdicts(2),
    ),
    (
        "policies_end_eight_failing_tasks_as_in_the_laboratory",
        || verdicts(8),
    ),
    ("many_faults_from_user_space_on_one_vcpu", || {
        many(ApfMode::User, 1)
    }),
    ("many_faults_from_user_space_on_two_vcpus", || {
        many(ApfMode::User, 2)
    }),
    ("many_faults_in_which_vcpus_wait_on_one_vcpu", || {
        many_in(ApfMode::User, 1, go_blocked)
    }),
    ("many_faults_in_which_vcpus_wait_on_two_vcpus", || {
        many_in(ApfMode::User, 2, go_blocked)
    }),
    (
        "a_second_task_on_an_outstanding_page_halts_nobody",
        second_task,
    ),
    ("quick_pages_are_not_worth_a_kick", || patience(go_blocked)),
    ("quick_pages_are_not_worth_telling", || {
        patience(|spec| go(spec, &mut ()))
    }),
    ("nobody_is_kicked_who_is_refused_what_is_not_there", refused),
    (
        "a_failing_page_kills_its_task_alone_whether_waited_for_or_not",
        killed,
    ),
    ("a_demand_for_which_there_is_no_room_is_made_again", no_room),
    ("a_page_source_that_lies_does_not_make_a_loop", guard),
];

const TASKS: u16 = 8;
const PAGES: u64 = 96;
/// Which touch of a failing task is the one that fails.
const AT: usize = 5;

fn count(result: &RunResult, name: &str) -> u64 {
    result.stats.apf[name]
}

/// Runs `spec`; again with more time where a busy host has not got anywhere.
fn play(spec: &RunSpec) -> RunResult {
    let results = [2, 10, 60]
        .map(Duration::from_secs)
        .into_iter()
        .map(|timeout| {
            let spec = RunSpec {
                timeout,
                ..spec.clone()
            };
            go(&spec, &mut ())
        });
    let mut last = None;
    for result in results {
        let over = result.outcome != Outcome::TimedOut;
        last = Some(result);
        if over {
            break;
        }
    }
    last.expect("three tries")
}

fn verdicts(failing: usize) {
    let healthy = RunSpec {
        apf: ApfMode::User,
        attempts: 1,
        plan: FaultPlan::new(1, Latency::fixed(Duration::from_millis(1))),
        ..spec(PAGES, TASKS, 1)
    };
    let workload = Workload::partition(healthy.pages, TASKS, healthy.seed);
    let bad: Vec<PageIndex> = (workload.tasks().iter().take(failing))
        .map(|touches| touches[AT].page)
        .collect();
    let mut plan = healthy.plan.clone();
    for page in &bad {
        plan.push(page.to_string().parse().unwrap());
    }
    for &policy in PolicyKind::ALL {
        let spec = RunSpec {
            policy,
            plan: plan.clone(),
            ..healthy.clone()
        };
        let real = play(&spec);
        // Simulated time, in which a loop goes round every few microseconds.
        let model = SimSpec::new(RunSpec {
            timeout: Duration::from_millis(50),
            ..spec
        });
        let model = surefault_sim::run(&model).unwrap().run;
        // Two tasks that keep overwriting each other's slot loop; luck ends it, here and there.
        let by_luck = policy == PolicyKind::ErrorGfn && real.outcome == Outcome::Looped;
        if by_luck {
            assert!(count(&real, "most_asked_again") >= 100);
            continue;
        }
        assert_eq!(real.outcome, model.outcome, "{policy}: {real:?}");
        assert_eq!(
            real.stats.tasks_killed, model.stats.tasks_killed,
            "{policy}"
        );
        assert_sums(&real);
        assert!(count(&real, "announced") > 0, "{policy}: {real:?}");
        match policy {
            PolicyKind::Retry => {
                assert_eq!(real.outcome, Outcome::Looped);
                assert!(count(&real, "most_asked_again") >= 100);
                assert_eq!(real.stats.tasks_finished, TASKS - failing as u16);
            }
            PolicyKind::GuestError => {
                assert_eq!(real.outcome, Outcome::Finished);
                assert_eq!(usize::from(real.stats.tasks_killed), failing);
                assert_eq!(real.stats.tasks_finished, TASKS - failing as u16);
                assert_eq!(real.stats.tokens_left, 0);
            }
            PolicyKind::ErrorGfn
            | PolicyKind::ErrorPending
            | PolicyKind::ErrorGfnTable
            | PolicyKind::ExitOnCompletion
            | PolicyKind::Exact => {
                assert_eq!(real.outcome, Outcome::Reported, "{policy}");
                let reported = real.report.unwrap();
                let owner = bad.iter().position(|&page| page == reported.page);
                let owner = owner.unwrap_or_else(|| panic!("{policy}: {reported:?}"));
                if policy != PolicyKind::ExitOnCompletion {
                    let task = reported.task.expect("the task that touched it");
                    assert_eq!(usize::from(task.get()), owner, "{policy}");
                    assert_ne!(reported.report.access, Access::Unknown, "{policy}");
                }
            }
        }
    }
}

/// Two tasks want one page, and the third task of the guest counts on meanwhile. Linux would halt
/// the vCPU at the second.
fn second_task() {
    let touch = Touch {
        page: PageIndex::new(0),
        first: FirstTouch::Read,
    };
    let workload = Workload::new(PageCount::new(1), vec![vec![touch]; 2]).unwrap();
    let spec = RunSpec {
        apf: ApfMode::User,
        plan: FaultPlan::new(0, Latency::fixed(Duration::from_millis(300))),
        ..spec(1, 2, 1)
    };
    let signals = signals::install().unwrap();
    let refused = run_workload(&spec, workload.clone(), pattern(&spec), signals, &mut ()).unwrap();
    for result in [refused, run_blocked(&spec, workload)] {
        assert_eq!(result.outcome, Outcome::Finished);
        assert_sums(&result);
        assert_eq!(result.stats.tasks_finished, 2);
        assert_eq!(count(&result, "announced"), 2, "{result:?}");
        assert_eq!(count(&result, "waits"), 0, "{result:?}");
        // Between the two announcements and the page it had the vCPU to itself.
        assert!(result.stats.progress > 100_000, "{result:?}");
    }
}

/// A vCPU's own thread learns of each fault, whatever comes of it, where the host can poison pages.
fn refused() {
    let spec = RunSpec {
        apf: ApfMode::User,
        plan: FaultPlan::new(1, Latency::fixed(Duration::from_millis(1))),
        ..spec(256, 4, 1)
    };
    let result = go(&spec, &mut ());
    assert_finished(&result, &spec);
    if count(&result, "refused") == 0 {
        println!("skipped: this kernel cannot poison pages");
        return;
    }
    assert!(count(&result, "refused") >= 256, "{result:?}");
    assert_eq!(count(&result, "blocked"), 0, "{result:?}");
    assert_eq!(count(&result, "kicks"), 0, "{result:?}");
    let blocked = go_blocked(&spec);
    assert_finished(&blocked, &spec);
    assert_eq!(count(&blocked, "refused"), 0, "{blocked:?}");
    assert!(count(&blocked, "kicks") > 0, "{blocked:?}");
}

fn killed() {
    let spec = RunSpec {
        apf: ApfMode::User,
        on_error: OnError::Guest,
        ..failing(spec(PAGES, TASKS, 2), "5,50")
    };
    for result in [go(&spec, &mut ()), go_blocked(&spec)] {
        assert_eq!(result.outcome, Outcome::Finished, "{result:?}");
        assert_sums(&result);
        assert_eq!(result.stats.tasks_killed, 2, "{result:?}");
        assert_eq!(result.stats.tasks_finished, TASKS - 2, "{result:?}");
    }
}

/// Pages that come at once are there before anybody is kicked, or told.
fn patience(go: impl Fn(&RunSpec) -> RunResult) {
    let spec = RunSpec {
        apf: ApfMode::User,
        ..spec(256, 4, 1)
    };
    let result = go(&spec);
    assert_finished(&result, &spec);
    assert_eq!(count(&result, "kicks"), 0, "{result:?}");
    assert_eq!(count(&result, "announced"), 0, "{result:?}");
    assert!(count(&result, "spared") > 0, "{result:?}");
}

/// Two pages may be on their way, and eight tasks want one each.
fn no_room() {
    for refuse_absent in [true, false] {
        let spec = RunSpec {
            apf: ApfMode::User,
            plan: FaultPlan::new(1, Latency::fixed(Duration::from_millis(2))),
            ..spec(PAGES, TASKS, 1)
        };
        let choices = Choices {
            refuse_absent,
            max_pending: 2,
            ..Choices::default()
        };
        let workload = Workload::partition(spec.pages, TASKS, spec.seed);
        let (stage, vcpus) = Stage::new(&spec, workload, choices);
        let result = stage.run(vcpus, &mut ());
        assert_finished(&result, &spec);
        // Nobody had to wait for a timer of somebody else's page.
        assert!(result.stats.elapsed < spec.deadline / 2, "{result:?}");
    }
}

/// Says of a page that fails that it is there.
struct Liar(Arc<Mapping>);

impl PageSource for Liar {
    fn page_size(&self) -> PageSize {
        PageSize::KIB_4
    }

    fn page_of(&self, hva: Hva) -> Option<PageId> {
        let offset = hva.checked_offset_from(self.0.hva())?;
        (offset < self.0.len() as u64)
            .then(|| PageId::new(RegionId::new(0), PageIndex::new((offset / PAGE) as u32)))
    }

    fn demand(&self, _: PageId) -> PageState {
        PageState::Present
    }

    fn cause_text(&self, cause: Cause) -> String {
        cause.kind.to_string()
    }
}

fn guard() {
    let data = Arc::new(Mapping::on_demand(PAGE as usize).unwrap());
    let uffd = Userfaultfd::create(Options::default()).unwrap();
    let range = PageRange::new(Address::new(data.hva().get()), PAGE, PAGE).unwrap();
    // SAFETY: private memory that nobody has references into.
    unsafe { uffd.register(range, RegisterMode::MISSING) }.unwrap();
    assert_eq!(uffd.poison(range, Wake::Now).unwrap(), Installed::Done);

    let apf = Arc::new(Apf::new(ApfSpec::new(1, PolicyKind::Exact)).unwrap());
    let pages: Arc<dyn PageSource> = Arc::new(Liar(Arc::clone(&data)));
    let machine_spec = MachineSpec {
        vcpus: 1,
        workload: Arc::new(Workload::partition(PageCount::new(1), 1, 0)),
        page_size: PageSize::KIB_4,
        yield_every: NonZeroU32::MIN,
        idle: Idle::Count,
        faults: Faults::FromUserSpace { error_word: false },
        irqchip: Irqchip::Kernel,
        apf: Some(apf),
        on_error: OnError::Exit,
        vendor: None,
    };
    let signals = signals::install().unwrap();
    let (machine, vcpus) = Machine::new(&machine_spec, data, &pages, signals).unwrap();
    let limits = Limits {
        timeout: Duration::from_secs(100),
        patience: Duration::from_secs(10),
    };
    let source = PatternStore::new(0, PAGE);
    let nothing = |_| Ok(());
    let ended = drive(&machine, vcpus, &*pages, &source, &nothing, limits, &mut ());
    assert!(
        matches!(ended, Err(RunError::Vcpu(VcpuError::NoProgress { .. }))),
        "{ended:?}"
    );
}
