mod deaths;
mod modes;
mod policies;
mod promises;

use std::time::Duration;

use surefault_core::plan::{FailureMode, FaultPlan, Latency, PageSet, Probability, Rule};
use surefault_core::policy::PolicyKind;
use surefault_core::run::{ApfMode, Irqchip, OnError, Outcome, PagerMode, RunSpec};
use surefault_core::workload::{FirstTouch, Touch, Workload};
use surefault_core::{PageCount, PageIndex};

use crate::{Host, SimResult, SimSpec};

const MS: Duration = Duration::from_millis(1);

/// Tasks that read these pages, one list each; the pages of `failing` never come.
fn lists(lists: &[&[u32]], failing: &[u32]) -> SimSpec {
    let reads = |pages: &&[u32]| {
        let read = |&page: &u32| Touch {
            page: PageIndex::new(page),
            first: FirstTouch::Read,
        };
        pages.iter().map(read).collect()
    };
    let pages = PageCount::new(64);
    let workload = Workload::new(pages, lists.iter().map(reads).collect()).expect("only reads");
    let mut plan = FaultPlan::new(1, Latency::fixed(MS));
    for &page in failing {
        plan.push(rule(page, FailureMode::Permanent));
    }
    SimSpec {
        workload: Some(workload),
        ..SimSpec::new(RunSpec {
            tasks: lists.len() as u16,
            vcpus: 1,
            pages,
            seed: 1,
            plan,
            deadline: Duration::from_secs(5),
            attempts: 3,
            timeout: 200 * MS,
            pager: PagerMode::Surefault,
            apf: ApfMode::User,
            irqchip: Irqchip::Kernel,
            on_error: OnError::Exit,
            policy: PolicyKind::default(),
        })
    }
}

fn rule(page: u32, mode: FailureMode) -> Rule {
    let page = PageIndex::new(page);
    Rule {
        pages: PageSet::Ranges(vec![(page, page)]),
        mode,
        latency: None,
    }
}

fn run(spec: &SimSpec) -> SimResult {
    crate::run(spec).expect("a spec that makes sense")
}

fn under(policy: PolicyKind, spec: &SimSpec) -> SimResult {
    run(&SimSpec {
        policy,
        ..spec.clone()
    })
}

/// It ended with the report of one of these pages, at the first retry of the access.
fn assert_retried_once(result: &SimResult, pages: &[u32]) {
    assert_eq!(result.run.outcome, Outcome::Reported, "{result:?}");
    let page = result.run.report.as_ref().expect("a report").page;
    assert!(pages.contains(&page.get()), "{result:?}");
    assert_eq!(result.counts.max_retries, 1, "{result:?}");
    assert_eq!(result.counts.wrong_reports, 0);
}
