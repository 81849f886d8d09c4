//! Which cycles are loops. Replay and shrinker ask here; the model checker searches by the same rule: who
//! acts by a step ([`acted`]), and how fairly each is treated ([`Claim::is_strong`]), as numbers
//! (`surefault_check`'s claims). Who *could* act it sees by the steps that are possible, so its tests hold
//! every cycle that it finds against this one.
//!
//! Steps that lead from a world back to the same world are a loop only if the world could go on like
//! that for ever. It could not if somebody who can act all the time never does: a source that has an
//! answer gives it some day, a timer fires, a runnable task gets its turn. A cycle that leaves one of
//! them out shows nothing about the machine, only about an unfair choice of steps.
//!
//! | who | must act if it can |
//! |---|---|
//! | the source (a fetch comes back), timers, the timer interrupt | *all through* the cycle (weak fairness) |
//! | a vCPU's thread (its next move), the guest's ack, a pending interrupt that the guest has not turned off, the end of a stretch with interrupts off | at *any* point of it (strong) |
//! | a runnable task: it gets to run, and a task that runs gets to its next touch | at any point |
//! | a pager's reader and its hands, a thread that gives pages up, who begins another worker | at any point |
//! | an intermittent page: both of its answers | at any point at which both are possible |
//!
//! A stretch with interrupts off ends when its task wants no more of its pages. One whose access never ends is
//! a loop like any other, and what waits for its end is not left out by whoever chose the steps.
//!
//! The timer that ages unclaimed errors is left out: it only decides when they are logged, and nothing
//! depends on them.
//!
//! A cycle that contains an incident is no loop either: nobody repairs, kills or removes for ever.

use std::collections::BTreeSet;

use surefault_core::policy::Policy;
use surefault_core::run::TaskId;
use surefault_core::{PageIndex, VcpuId};
use thiserror::Error;

use super::ledger::Planned;
use super::step::{Answer, Step, TimerKind, of_faults_timer};
use super::{Impossible, World};
use crate::machine::{Move, PagerParty, TaskState, vcpu_id};

/// Somebody who must not be left out for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Claim {
    /// A fetch that begins with this page comes back.
    Fetch(PageIndex),
    /// It comes back with this answer, of two that are possible.
    Answer(PageIndex, Answer),
    /// A timer of the machine of pages fires.
    PageTimer(TimerKind, PageIndex),
    /// This timer of the machine of vCPUs fires.
    FaultsTimer(Step),
    /// The timer interrupt comes.
    Tick(VcpuId),
    /// The thread makes its next move.
    Move(VcpuId),
    /// A stretch with interrupts off ends.
    IrqsOn(VcpuId),
    /// The guest acknowledges "ready".
    Ack(VcpuId),
    /// A pending interrupt is delivered.
    Interrupt(VcpuId),
    /// The task runs.
    Run(TaskId),
    /// The task that runs touches its page.
    Touch(TaskId),
    /// A part of the pager takes its next step.
    Pager(PagerParty),
}

impl Claim {
    /// Whether it must be met if it can be at any point of a cycle; otherwise if it can all through it.
    pub fn is_strong(&self) -> bool {
        match self {
            Claim::Fetch(_) | Claim::PageTimer(..) | Claim::FaultsTimer(_) | Claim::Tick(_) => {
                false
            }
            Claim::Answer(..) | Claim::Move(_) | Claim::IrqsOn(_) | Claim::Ack(_) => true,
            Claim::Interrupt(_) | Claim::Run(_) | Claim::Touch(_) | Claim::Pager(_) => true,
        }
    }
}

/// Why a cycle is no loop.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum NoLoop {
    /// There is nothing in it.
    #[error("the cycle is empty")]
    Empty,
    /// A step of it is not possible.
    #[error("step {at} of the cycle: {step}")]
    Impossible {
        /// The step, counted from 1.
        at: usize,
        /// Which.
        step: Impossible,
    },
    /// It leads elsewhere.
    #[error("the cycle does not lead back to where it began")]
    LeadsElsewhere,
    /// It needs something from outside, again and again.
    #[error("'{0}' does not happen again and again")]
    Incident(Step),
    /// It leaves somebody out who could act.
    #[error("the cycle is unfair: {} is left out for ever", describe(.0))]
    Unfair(Claim),
}

fn describe(claim: &Claim) -> String {
    match claim {
        Claim::Fetch(page) => format!("the fetch of page {page}"),
        Claim::Answer(page, answer) => format!("the answer '{answer}' for page {page}"),
        Claim::PageTimer(kind, page) => format!("the timer '{kind}' of page {page}"),
        Claim::FaultsTimer(step) => format!("'{step}'"),
        Claim::Tick(vcpu) => format!("the timer interrupt of vCPU {vcpu}"),
        Claim::Move(vcpu) => format!("the next move of vCPU {vcpu}"),
        Claim::IrqsOn(vcpu) => format!("the end of interrupts off on vCPU {vcpu}"),
        Claim::Ack(vcpu) => format!("the ack of vCPU {vcpu}"),
        Claim::Interrupt(vcpu) => format!("the pending interrupt of vCPU {vcpu}"),
        Claim::Run(task) => format!("task {task}, which could run,"),
        Claim::Touch(task) => format!("the next touch of task {task}"),
        Claim::Pager(PagerParty::Reader) => "the pager's reader".to_owned(),
        Claim::Pager(PagerParty::Hands) => "the pager's next piece of work".to_owned(),
        Claim::Pager(PagerParty::Remover(page)) => format!("the thread that gives page {page} up"),
        Claim::Pager(PagerParty::Supervisor) => "another worker".to_owned(),
    }
}

/// Whether `cycle` leads from `start` back to a world of the same view, and is fair.
///
/// # Errors
/// Why it is no loop.
pub fn check_cycle<P: Policy>(start: &World<P>, cycle: &[Step]) -> Result<(), NoLoop> {
    if cycle.is_empty() {
        return Err(NoLoop::Empty);
    }
    if let Some(&incident) = cycle.iter().find(|step| step.is_incident()) {
        return Err(NoLoop::Incident(incident));
    }
    let mut world = start.clone();
    let mut turn = Turn::default();
    for (at, step) in (1..).zip(cycle) {
        turn.see(&world);
        turn.act(&world, step);
        let impossible = |step| NoLoop::Impossible { at, step };
        world.apply(step).map_err(impossible)?;
    }
    if world.view() != start.view() {
        return Err(NoLoop::LeadsElsewhere);
    }
    turn.left_out()
        .map_or(Ok(()), |claim| Err(NoLoop::Unfair(claim)))
}

/// One turn of a cycle: who could act, and who did.
#[derive(Default)]
struct Turn {
    /// Could act at every point so far.
    always: Option<BTreeSet<Claim>>,
    /// Could act at some point.
    sometimes: BTreeSet<Claim>,
    acted: BTreeSet<Claim>,
}

impl Turn {
    fn see<P: Policy>(&mut self, world: &World<P>) {
        let weak = weak(world);
        debug_assert!(!weak.iter().any(Claim::is_strong));
        self.always = Some(match self.always.take() {
            Some(always) => always.intersection(&weak).copied().collect(),
            None => weak,
        });
        let machine = &world.machine;
        for fetch in &world.machine.listener.fetches {
            if fetch.planned == Planned::Either {
                for answer in [Answer::Data, Answer::Temporary] {
                    self.sometimes.insert(Claim::Answer(fetch.first, answer));
                }
            }
        }
        if let Some(pager) = &machine.pager {
            let mut steps = Vec::new();
            pager.steps(&mut steps);
            let parties = steps.iter().map(|step| Claim::Pager(step.party()));
            self.sometimes.extend(parties);
        }
        for (v, thread) in machine.threads.iter().enumerate() {
            let vcpu = vcpu_id(v);
            if thread.next.is_some() {
                self.sometimes.insert(Claim::Move(vcpu));
            }
            if thread.next == Some(Move::IrqsOn) {
                self.sometimes.insert(Claim::IrqsOn(vcpu));
            }
            if let (Some(Move::Touch), Some(task)) = (thread.next, machine.guest.current(v)) {
                self.sometimes.insert(Claim::Touch(task.id));
            }
            if thread.acks_due > 0 {
                self.sometimes.insert(Claim::Ack(vcpu));
            }
            match machine.guest.cpus[v].ready {
                Some(_) if thread.irqs_off => {}
                Some(_) => drop(self.sometimes.insert(Claim::Interrupt(vcpu))),
                None => drop(self.acted.insert(Claim::Interrupt(vcpu))),
            }
        }
        for task in &machine.guest.tasks {
            if machine.guest.runs(task) {
                self.acted.insert(Claim::Run(task.id));
            } else if task.state == TaskState::Runnable {
                self.sometimes.insert(Claim::Run(task.id));
            }
        }
    }

    fn act<P: Policy>(&mut self, world: &World<P>, step: &Step) {
        self.acted.extend(acted(world, step));
    }

    fn left_out(&self) -> Option<Claim> {
        let always = self.always.iter().flatten();
        let mut claims = always.chain(&self.sometimes);
        claims.find(|claim| !self.acted.contains(claim)).copied()
    }
}

/// Who acts by a step that is taken in `world`.
pub fn acted<P: Policy>(world: &World<P>, step: &Step) -> impl Iterator<Item = Claim> {
    let claims = match *step {
        Step::Enter(vcpu) => [Some(Claim::Move(vcpu)), None],
        Step::Touch(vcpu) => [
            Some(Claim::Move(vcpu)),
            world.running(vcpu).map(Claim::Touch),
        ],
        Step::IrqsOn(vcpu) => [Some(Claim::Move(vcpu)), Some(Claim::IrqsOn(vcpu))],
        Step::Switch(_, task) => [Some(Claim::Run(task)), None],
        Step::Tick(vcpu) => [Some(Claim::Tick(vcpu)), None],
        Step::Ack(vcpu) => [Some(Claim::Ack(vcpu)), None],
        Step::Fetched { page, answer, .. } => {
            [Some(Claim::Fetch(page)), Some(Claim::Answer(page, answer))]
        }
        Step::PageTimer(kind, page) => [Some(Claim::PageTimer(kind, page)), None],
        Step::Unclaimed | Step::PolicyTimer(_) => [Some(Claim::FaultsTimer(*step)), None],
        Step::Pager(step) => [Some(Claim::Pager(step.party())), None],
        // Nobody repairs, kills or removes because he must.
        Step::Apf(..) | Step::Repair(_) | Step::Mend(_) | Step::Relapse(_) => [None, None],
        Step::Remove(_) | Step::Kill(_) | Step::Migrate(..) | Step::Die => [None, None],
    };
    claims.into_iter().flatten()
}

/// Who must act if it can all through a cycle. While a scheduler is asked they can, too: the question
/// takes no time.
fn weak<P: Policy>(world: &World<P>) -> BTreeSet<Claim> {
    let fetches = world.machine.listener.fetches.iter();
    let answered = fetches.filter(|fetch| fetch.planned != Planned::Silent);
    let mut claims: BTreeSet<Claim> = answered.map(|fetch| Claim::Fetch(fetch.first)).collect();
    let timers = world
        .machine
        .listener
        .timers
        .iter()
        .copied()
        .map(TimerKind::of);
    claims.extend(timers.map(|(kind, page)| Claim::PageTimer(kind, page)));
    // Nothing depends on the errors that nobody came back for, so nothing on their age.
    let timers = world.machine.listener.faults_timers.iter().copied();
    let timers = timers
        .map(of_faults_timer)
        .filter(|&timer| timer != Step::Unclaimed);
    claims.extend(timers.map(Claim::FaultsTimer));
    let ticking = (0..world.machine.threads.len()).filter(|&v| world.machine.can_tick(v));
    claims.extend(ticking.map(|v| Claim::Tick(vcpu_id(v))));
    claims
}
