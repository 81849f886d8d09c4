//! A step by names that last: a page instead of a generation, so that a step can be written down,
//! and means the same to another build.

use core::fmt;

use surefault_core::policy::PolicyTimer;
use surefault_core::residency::{self, Fault};
use surefault_core::run::TaskId;
use surefault_core::{CauseKind, PageIndex, Persistence, VcpuId, faults};

use crate::machine::PagerStep;
use crate::source::cause;

/// Something that can happen to a [`World`](super::World).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Step {
    /// The vCPU's thread comes to the point before the guest: completions are served, pending
    /// interrupts delivered.
    Enter(VcpuId),
    /// The vCPU's task touches its next page.
    Touch(VcpuId),
    /// The vCPU's task, which has accessed its last page with interrupts off, turns them on:
    /// pending interrupts are delivered.
    IrqsOn(VcpuId),
    /// The scheduler of the vCPU's guest lets this task run.
    Switch(VcpuId, TaskId),
    /// The vCPU's timer interrupt: the end of an artificial halt, or of a time slice.
    Tick(VcpuId),
    /// The guest acknowledges "ready".
    Ack(VcpuId),
    /// A fetch comes back.
    Fetched {
        /// Its first page.
        page: PageIndex,
        /// Of the fetches that begin with it, the oldest is 0.
        nth: u8,
        /// What it says.
        answer: Answer,
    },
    /// A timer of the machine of pages fires.
    PageTimer(TimerKind, PageIndex),
    /// A timer of the machine of vCPUs fires: errors that nobody came back for get older.
    Unclaimed,
    /// A timer of the policy fires.
    PolicyTimer(u8),
    /// An incident: the guest turns asynchronous faults on or off on the vCPU.
    Apf(VcpuId, bool),
    /// An incident: a failing page is repaired.
    Repair(PageIndex),
    /// An incident: the source has a failing page again, from the next fetch on, and says nothing.
    Mend(PageIndex),
    /// An incident: a repaired page fails again, from the next fetch on.
    Relapse(PageIndex),
    /// An incident: the balloon takes the page.
    Remove(PageIndex),
    /// An incident: a task that does not run is killed.
    Kill(TaskId),
    /// An incident: a task that waits for its turn goes on on another vCPU.
    Migrate(TaskId, VcpuId),
    /// A step of the pager, of its successor, or of a thread that gives pages up.
    Pager(PagerStep),
    /// An incident: the worker that serves the pages is killed.
    Die,
}

impl Step {
    /// Whether it comes from outside: as often as its budget says, and never again and again.
    pub fn is_incident(&self) -> bool {
        match self {
            Step::Apf(..)
            | Step::Repair(_)
            | Step::Mend(_)
            | Step::Relapse(_)
            | Step::Remove(_)
            | Step::Kill(_)
            | Step::Migrate(..)
            | Step::Die => true,
            Step::Enter(_)
            | Step::Touch(_)
            | Step::IrqsOn(_)
            | Step::Switch(..)
            | Step::Tick(_)
            | Step::Ack(_)
            | Step::Fetched { .. }
            | Step::PageTimer(..)
            | Step::Unclaimed
            | Step::PolicyTimer(_)
            | Step::Pager(_) => false,
        }
    }
}

/// What a fetch says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Answer {
    /// Here is the page.
    Data,
    /// It failed; another attempt may succeed.
    Temporary,
    /// It failed for good.
    Permanent,
    /// The source ends before the page.
    Truncated,
}

impl Answer {
    /// All of them, with their words.
    pub const ALL: [(Answer, &'static str); 4] = [
        (Answer::Data, "data"),
        (Answer::Temporary, "temporary"),
        (Answer::Permanent, "permanent"),
        (Answer::Truncated, "truncated"),
    ];

    /// The same for the machine of pages.
    pub fn result(self) -> Result<(), Fault> {
        let (kind, persistence) = match self {
            Answer::Data => return Ok(()),
            Answer::Temporary => (CauseKind::Injected, Persistence::Temporary),
            Answer::Permanent => (CauseKind::Injected, Persistence::Permanent),
            Answer::Truncated => (CauseKind::Truncated, Persistence::Permanent),
        };
        Err(Fault {
            cause: cause(kind),
            persistence,
        })
    }

    /// The answer with this result.
    pub(crate) fn of(result: &Result<(), Fault>) -> Answer {
        match result {
            Ok(()) => Answer::Data,
            Err(fault) if fault.persistence == Persistence::Temporary => Answer::Temporary,
            Err(fault) if fault.cause.kind == CauseKind::Truncated => Answer::Truncated,
            Err(_) => Answer::Permanent,
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Answer::ALL.iter().find(|(answer, _)| answer == self);
        f.write_str(word.map_or("", |(_, word)| word))
    }
}

/// The timers of the machine of pages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum TimerKind {
    /// The page has been demanded for as long as it may.
    Deadline,
    /// The range that it is fetched in has had its time.
    Patience,
    /// The pause before its next attempt is over.
    Backoff,
    /// Its failure is old.
    FailureTtl,
}

impl TimerKind {
    /// All of them, with their words.
    pub const ALL: [(TimerKind, &'static str); 4] = [
        (TimerKind::Deadline, "deadline"),
        (TimerKind::Patience, "patience"),
        (TimerKind::Backoff, "backoff"),
        (TimerKind::FailureTtl, "failure-ttl"),
    ];

    /// What kind `timer` is of, and its page.
    pub(crate) fn of(timer: residency::Timer) -> (TimerKind, PageIndex) {
        let (kind, page) = match timer {
            residency::Timer::Deadline { page, .. } => (TimerKind::Deadline, page),
            residency::Timer::Patience { page, .. } => (TimerKind::Patience, page),
            residency::Timer::Retry { page, .. } => (TimerKind::Backoff, page),
            residency::Timer::FailureTtl { page, .. } => (TimerKind::FailureTtl, page),
        };
        (kind, page.index())
    }
}

impl fmt::Display for TimerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = TimerKind::ALL.iter().find(|(kind, _)| kind == self);
        f.write_str(word.map_or("", |(_, word)| word))
    }
}

/// The step of a timer of the machine of vCPUs.
pub(crate) fn of_faults_timer(timer: faults::Timer) -> Step {
    match timer {
        faults::Timer::Unclaimed => Step::Unclaimed,
        faults::Timer::Policy(PolicyTimer(number)) => Step::PolicyTimer(number),
    }
}

/// One line of a trace.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Step::Enter(vcpu) => write!(f, "enter {vcpu}"),
            Step::Touch(vcpu) => write!(f, "touch {vcpu}"),
            Step::IrqsOn(vcpu) => write!(f, "irqs-on {vcpu}"),
            Step::Switch(vcpu, task) => write!(f, "switch {vcpu} {task}"),
            Step::Tick(vcpu) => write!(f, "tick {vcpu}"),
            Step::Ack(vcpu) => write!(f, "ack {vcpu}"),
            Step::Fetched { page, nth, answer } => match nth {
                0 => write!(f, "fetched {page} {answer}"),
                nth => write!(f, "fetched {page} {answer} nth={nth}"),
            },
            Step::PageTimer(kind, page) => write!(f, "timer {kind} {page}"),
            Step::Unclaimed => write!(f, "timer unclaimed"),
            Step::PolicyTimer(number) => write!(f, "timer policy {number}"),
            Step::Apf(vcpu, true) => write!(f, "apf-on {vcpu}"),
            Step::Apf(vcpu, false) => write!(f, "apf-off {vcpu}"),
            Step::Repair(page) => write!(f, "repair {page}"),
            Step::Mend(page) => write!(f, "mend {page}"),
            Step::Relapse(page) => write!(f, "relapse {page}"),
            Step::Remove(page) => write!(f, "remove {page}"),
            Step::Kill(task) => write!(f, "kill {task}"),
            Step::Migrate(task, vcpu) => write!(f, "migrate {task} {vcpu}"),
            Step::Pager(PagerStep::Zap(page)) => write!(f, "zap {page}"),
            Step::Pager(step) => {
                let word = PagerStep::WORDS.iter().find(|(other, _)| *other == step);
                write!(f, "pager {}", word.map_or("", |(_, word)| word))
            }
            Step::Die => write!(f, "die"),
        }
    }
}
