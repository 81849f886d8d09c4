//! What must hold of a random run.

use surefault_core::plan::FailureMode;
use surefault_core::policy::PolicyKind;
use surefault_core::run::{ApfMode, OnError, Outcome, RunSpec};
use surefault_core::workload::Workload;
use surefault_core::{CauseKind, PageIndex};

use super::drawn::{Reacting, may_loop};
use crate::machine::Ran;

/// What does not hold of a run.
pub(super) fn violation(spec: &RunSpec, ran: &Ran, reacting: &Reacting) -> Option<String> {
    let (result, stats) = (&ran.result, &ran.result.stats);
    let count = |name: &str| stats.pager.get(name).copied().unwrap_or(0);
    let unreachable = stats.apf.get("unreachable").copied().unwrap_or(0);
    let holds = [
        (ends_well(spec, ran), "it ended as it must not"),
        (stats.wrong_sums == 0, "a sum is wrong"),
        (stats.unchecked_sums == 0, "a sum could not be checked"),
        (
            reacting.reported.len() <= reacting.pages() + reacting.resumed,
            "a page was reported again after it had been repaired",
        ),
        (
            count("strange_events") == 0,
            "the pager met something strange",
        ),
        (
            unreachable == 0,
            "the guest's shared area could not be written",
        ),
    ];
    let (_, what) = holds.into_iter().find(|&(holds, _)| !holds)?;
    Some(format!("{what}: {result:?}"))
}

fn ends_well(spec: &RunSpec, ran: &Ran) -> bool {
    let (result, stats) = (&ran.result, &ran.result.stats);
    let fails = pages(spec).any(|page| mode(spec, page) != FailureMode::Healthy);
    let loops = spec.apf == ApfMode::User && may_loop(spec.policy.as_str());
    let tells = spec.apf == ApfMode::User && spec.policy == PolicyKind::GuestError;
    match result.outcome {
        Outcome::Finished => {
            let over = stats.tasks_finished + stats.tasks_killed;
            let killed = match spec.on_error {
                OnError::Guest => doomed(spec).is_none_or(|doomed| stats.tasks_killed == doomed),
                // It tells the guest whatever was asked for.
                OnError::Exit | OnError::Stop => tells || stats.tasks_killed == 0,
            };
            over == spec.tasks && stats.tokens_left == 0 && killed
        }
        // A guest that is stopped goes on, and the built-in one can be told.
        Outcome::Reported => {
            spec.on_error == OnError::Exit
                && result.report.as_ref().is_some_and(|reported| {
                    let late = reported.report.failure.cause.kind == CauseKind::Deadline;
                    fails && (late || mode(spec, reported.page) != FailureMode::Healthy)
                })
        }
        // A busy host may not get round often enough to call it a loop.
        Outcome::Looped | Outcome::TimedOut => loops && fails,
        Outcome::Cancelled => false,
    }
}

/// How many tasks have a page that never comes, where luck has no say in which pages those are.
fn doomed(spec: &RunSpec) -> Option<u16> {
    let certain = pages(spec).all(|page| match mode(spec, page) {
        FailureMode::Healthy | FailureMode::Permanent => true,
        FailureMode::Temporary { .. } | FailureMode::Stall | FailureMode::Truncate => false,
    });
    let workload = Workload::partition(spec.pages, spec.tasks, spec.seed);
    let fails = |page| mode(spec, page) == FailureMode::Permanent;
    let doomed = workload.tasks().iter();
    let doomed = doomed.filter(|list| list.iter().any(|touch| fails(touch.page)));
    certain.then_some(doomed.count() as u16)
}

fn mode(spec: &RunSpec, page: PageIndex) -> FailureMode {
    spec.plan.mode_of(page)
}

fn pages(spec: &RunSpec) -> impl Iterator<Item = PageIndex> {
    (0..spec.pages.get() as u32).map(PageIndex::new)
}
