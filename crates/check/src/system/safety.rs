//! What must never happen, judged at every step.

use surefault_core::faults::{Fault, WAKE_ALL};
use surefault_core::run::TaskId;
use surefault_core::{Failure, VcpuId};
use surefault_sim::machine::Happened;
use surefault_sim::world::World;

use super::{Safety, Situation, Taken};

/// What is wrong with this step, or with the state after it.
pub(super) fn broken(from: &Situation, taken: &Taken) -> u32 {
    let (before, after) = (&from.world, &taken.world);
    let mut broken = 0;
    let mut wrong = |safety: Safety, is_wrong: bool| {
        if is_wrong {
            broken |= safety.bit();
        }
    };
    wrong(Safety::Invariants, after.check_invariants().is_err());
    let mut claimed = 0;
    let mut unclaimed = 0;
    for happened in &taken.happened {
        match *happened {
            Happened::Reported {
                vcpu,
                fault,
                failure,
                task,
                ..
            } => {
                let page = fault.page.index();
                let setup = before.machine().setup();
                // A repair that comes with the step is one that follows from the report.
                let fails = setup.is_failing(page) && !before.machine().is_repaired(page);
                wrong(Safety::ReportPage, !fails);
                let at = |task: TaskId| {
                    let mut tasks = before.tasks();
                    let look = tasks.find(|look| look.id == task);
                    look.is_some_and(|look| {
                        look.wants == Some(page) && look.vcpu.get() as usize == vcpu
                    })
                };
                let right = task.is_some_and(at);
                wrong(Safety::ReportTask, !right);
                wrong(
                    Safety::ReportSame,
                    right && fails && !is_the_same(before, task, &fault, &failure),
                );
            }
            Happened::Unclaimed(_) => unclaimed += 1,
            Happened::Faulted { page, .. } => {
                claimed += usize::from(
                    before
                        .machine()
                        .faults()
                        .owed_pages()
                        .any(|owed| owed.index() == page),
                );
            }
            Happened::Ready { vcpu, token, .. } => {
                let faults = before.machine().faults();
                let is_due = faults.is_queued(VcpuId::new(vcpu as u32), token);
                wrong(Safety::TokenOnce, !is_due);
            }
            Happened::WrongPage { .. } => wrong(Safety::RightContents, true),
            Happened::Died | Happened::Attached => {}
            Happened::Queued { .. }
            | Happened::Waits { .. }
            | Happened::Halted(_)
            | Happened::Held(_)
            | Happened::Woken { .. }
            | Happened::Settled { .. }
            | Happened::Ended { .. } => {}
        }
    }
    let machine = after.machine();
    for task in after.tasks() {
        wrong(Safety::OneRetry, task.again > 1);
        if let Some(token) = task.sleeps_for {
            let ready = after.ready(task.vcpu);
            let kept = machine.faults().is_queued(task.vcpu, token)
                || ready == Some(token)
                || ready == Some(WAKE_ALL);
            wrong(Safety::TokenKept, !kept);
        }
    }
    let owed = |world: &World<_>| world.machine().faults().owed();
    wrong(
        Safety::ErrorKept,
        owed(before) > owed(after) + claimed + unclaimed,
    );
    let step = &taken.action.step;
    if !before.is_awaited(step) {
        let present = |world: &World<_>| world.machine().pages().present();
        let failed = |world: &World<_>| world.machine().pages().failed();
        wrong(
            Safety::NoStaleInstall,
            present(before) != present(after) || failed(before) != failed(after),
        );
    }
    broken
}

/// The report is what follows from the task and the page alone.
fn is_the_same<P: surefault_core::policy::Policy>(
    world: &World<P>,
    task: Option<TaskId>,
    fault: &Fault,
    failure: &Failure,
) -> bool {
    let setup = world.machine().setup();
    let page = fault.page.index();
    let gfn = setup.first_gfn.get() + u64::from(page.get());
    let rip = task.map(surefault_sim::machine::rip_of);
    fault.gfn.get() == gfn
        && Some(fault.rip) == rip
        && fault.memslot == setup.memslot
        && failure.cause.kind == surefault_core::CauseKind::Injected
        && failure.attempts == 1
}
