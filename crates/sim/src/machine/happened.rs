//! What a machine says of a step: what is due next, and what came about.

use core::fmt;
use std::time::Duration;

use surefault_core::faults::{self, Fault};
use surefault_core::residency::{self, FetchRange, Generation, PageOutcome};
use surefault_core::run::TaskId;
use surefault_core::{Access, Failure, PageIndex, Token};

use super::{PagerStep, Vcpu};

/// A step of the machine, by the exact names that the machines of `surefault-core` deal out.
/// [`Step`](crate::world::Step) is the same by names that last.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Input {
    /// The vCPU's thread comes to the point before the guest.
    Enter(Vcpu),
    /// The vCPU's task touches its next page.
    Touch(Vcpu),
    /// The vCPU's task turns interrupts on again.
    IrqsOn(Vcpu),
    /// The scheduler of the vCPU's guest lets this task run. The answer to [`Pick`].
    Switch(Vcpu, TaskId),
    /// The vCPU's timer interrupt: the end of an artificial halt, or of a time slice.
    Tick(Vcpu),
    /// The guest acknowledges "ready".
    Ack(Vcpu),
    /// A fetch has come back.
    Fetched(Generation, Result<(), residency::Fault>),
    /// A timer of the machine of pages has fired.
    PageTimer(residency::Timer),
    /// A timer of the machine of vCPUs has fired.
    FaultsTimer(faults::Timer),
    /// The guest turns asynchronous faults on or off. Only while the vCPU runs the guest.
    Apf(Vcpu, bool),
    /// The source can provide the page again, for good, and says so.
    Repair(PageIndex),
    /// It can again, and says nothing.
    Mend(PageIndex),
    /// It cannot any more.
    Relapse(PageIndex),
    /// The balloon takes the page: it reads as zeros from now on.
    Remove(PageIndex),
    /// Somebody kills the task, which is asleep or waits for its turn.
    Kill(TaskId),
    /// The task, which waits for its turn, goes on on this vCPU.
    Migrate(TaskId, Vcpu),
    /// The pager takes a step.
    Pager(PagerStep),
    /// The worker that serves the pages is killed.
    Die,
}

/// The move that a vCPU's thread makes next.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Move {
    /// [`Input::Enter`].
    Enter,
    /// [`Input::Touch`].
    Touch,
    /// [`Input::IrqsOn`].
    IrqsOn,
}

/// The scheduler of a guest has to say which task runs: [`Input::Switch`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Pick {
    /// Where.
    pub vcpu: Vcpu,
    /// Why.
    pub why: Why,
}

/// Why a scheduler is asked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Why {
    /// Nobody runs, or whoever ran cannot go on.
    Free,
    /// The time slice is over.
    Tick,
    /// Somebody was woken and might take over; whoever runs can go on.
    Woken,
}

/// What follows from a step, in this order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Output {
    /// The vCPU's thread makes this move next, in place of any other.
    Go(Vcpu, Move),
    /// The source is asked. Answered by [`Input::Fetched`], however late.
    Fetch(FetchRange),
    /// The machine of pages arms a timer.
    PageTimer(residency::Timer, Duration),
    /// The machine of vCPUs arms one.
    FaultsTimer(faults::Timer, Duration),
    /// The guest will acknowledge "ready": [`Input::Ack`].
    AckDue(Vcpu),
    /// The vCPU's counting task runs, or runs no more.
    Idle(Vcpu, bool),
    /// The worker is dead: what the source was asked, and the timers of the machine of pages, are
    /// gone with it.
    Died,
    /// Something came about.
    Happened(Happened),
}

/// Something that came about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Happened {
    /// A task faulted.
    Faulted {
        /// Where.
        vcpu: Vcpu,
        /// Who.
        task: TaskId,
        /// On which page.
        page: PageIndex,
        /// The page has failed.
        failed: bool,
        /// How often this access has met its page failed, after its first try.
        retries: u64,
        /// The same since its page was repaired or removed last: how often for this failure.
        again: u8,
        /// How often it was taken again after "ready".
        asked_again: u64,
    },
    /// The fault goes the asynchronous way.
    Queued {
        /// Where.
        vcpu: Vcpu,
        /// The page.
        page: PageIndex,
    },
    /// The vCPU waits for the page: the synchronous way.
    Waits {
        /// Where.
        vcpu: Vcpu,
        /// The page.
        page: PageIndex,
        /// Nothing but the policy stood in the asynchronous way.
        refused: bool,
    },
    /// The vCPU is halted artificially.
    Halted(Vcpu),
    /// The guest was told "ready".
    Ready {
        /// Where.
        vcpu: Vcpu,
        /// Who is woken.
        token: Token,
        /// With the error word.
        error: bool,
    },
    /// "Ready" waits, because the guest has interrupts off.
    Held(Vcpu),
    /// A task can go on.
    Woken {
        /// Who.
        task: TaskId,
        /// Where.
        vcpu: Vcpu,
    },
    /// A demand for the page has ended.
    Settled {
        /// The page.
        page: PageIndex,
        /// How.
        outcome: PageOutcome,
    },
    /// A task's access has ended.
    Ended {
        /// Whose.
        task: TaskId,
        /// To which page.
        page: PageIndex,
        /// How.
        how: Ended,
        /// The retries that it took.
        retries: u64,
        /// The page had failed for it.
        met_failure: bool,
    },
    /// A vCPU stopped with a report.
    Reported {
        /// Where.
        vcpu: Vcpu,
        /// Of what.
        fault: Fault,
        /// Why.
        failure: Failure,
        /// The task whose registers the vCPU has.
        task: Option<TaskId>,
        /// What that task wanted.
        access: Access,
        /// The page fails, and that task wanted it.
        right: bool,
    },
    /// An error that nobody came back for.
    Unclaimed(PageIndex),
    /// The worker that serves the pages is killed.
    Died,
    /// Another one goes on.
    Attached,
    /// What was put in place is wrong.
    WrongPage {
        /// Where.
        page: PageIndex,
        /// Data that was given up; otherwise zeros, where there was data.
        stale: bool,
    },
}

/// How an access ended. Reports are [`Happened::Reported`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Ended {
    /// With the page.
    Mapped,
    /// Its task was told that there is none, and died of it.
    Told,
    /// Its task was killed.
    Killed,
}

/// What a person would say of it.
impl fmt::Display for Happened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Happened::Faulted {
                task,
                page,
                failed,
                again,
                ..
            } => {
                write!(f, "task {task} faults on page {page}")?;
                match (failed, again) {
                    (false, _) => Ok(()),
                    (true, 0) => write!(f, ", which has failed"),
                    (true, again) => write!(f, ", which has failed (retry {again})"),
                }
            }
            Happened::Queued { page, .. } => write!(f, "page {page} goes the asynchronous way"),
            Happened::Waits { vcpu, page, .. } => write!(f, "vCPU {vcpu} waits for page {page}"),
            Happened::Halted(vcpu) => write!(f, "vCPU {vcpu} is halted"),
            Happened::Ready { error: false, .. } => write!(f, "the guest is told \"ready\""),
            Happened::Ready { error: true, .. } => {
                write!(f, "the guest is told \"ready\", with an error")
            }
            Happened::Held(vcpu) => {
                write!(f, "vCPU {vcpu} has interrupts off: \"ready\" waits")
            }
            Happened::Woken { task, .. } => write!(f, "task {task} is woken"),
            Happened::Settled { page, outcome } => match outcome {
                PageOutcome::Present => write!(f, "page {page} is there"),
                PageOutcome::Failed(failure) => {
                    write!(f, "page {page} has failed ({})", failure.cause.kind)
                }
                PageOutcome::Cancelled => write!(f, "page {page} was taken away"),
            },
            Happened::Ended {
                task, page, how, ..
            } => match how {
                Ended::Mapped => write!(f, "task {task} has page {page}"),
                Ended::Told => write!(f, "task {task} is told, and dies"),
                Ended::Killed => write!(f, "task {task} is dead"),
            },
            Happened::Reported {
                vcpu,
                fault,
                failure,
                task,
                right,
                ..
            } => {
                let page = fault.page.index();
                write!(
                    f,
                    "vCPU {vcpu} reports page {page} ({})",
                    failure.cause.kind
                )?;
                match task {
                    Some(task) => write!(f, ", at task {task}")?,
                    None => write!(f, ", at no task")?,
                }
                f.write_str(if right { "" } else { ": wrong" })
            }
            Happened::Unclaimed(page) => {
                write!(f, "nobody came back for the error of page {page}")
            }
            Happened::Died => write!(f, "the worker is killed"),
            Happened::Attached => write!(f, "another worker goes on"),
            Happened::WrongPage { page, stale: true } => {
                write!(f, "page {page} has old data: wrong")
            }
            Happened::WrongPage { page, stale: false } => {
                write!(f, "page {page} has zeros instead of its data: wrong")
            }
        }
    }
}
