//! The simulated machine as a set of choices: what can happen next, and what comes of it.
//!
//! A [`World`] is a [`Machine`] with nothing decided: no time, no seed. It says which [`Step`]s are
//! possible, and takes one of them. A model checker walks all of them, a trace names a few.
//!
//! ```
//! use std::sync::Arc;
//! use surefault_core::policy::PolicyKind;
//! use surefault_sim::workloads::{Size, WorkloadKind, spec};
//! use surefault_sim::world::{Budgets, World};
//!
//! let size = Size { tasks: 1, failing: 1, vcpus: 1 };
//! let spec = spec(WorkloadKind::One, size, PolicyKind::Exact, 1)?;
//! let mut world = World::new(Arc::new(spec.setup()), Budgets::NONE)?;
//! let mut steps = Vec::new();
//! for _ in 0..1000 {
//!     world.steps(&mut steps);
//!     let Some(step) = steps.first().copied() else { break };
//!     world.apply(&step)?;
//!     if world.machine().is_done() { break }
//! }
//! assert!(world.machine().is_done());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What holds
//! * The same steps from the same setup lead to the same world: in every run and every build, as long
//!   as the rules are the same. Nothing depends on the order of a hash map.
//! * [`steps`](World::steps) gives each possible step once, in a fixed order. None is left out but by
//!   the rules of the machine: while a guest's scheduler is asked, only its answers are possible; and
//!   time slices end only where another task could run.
//! * [`apply`](World::apply) takes possible steps only. [`Happened`] says what came of it: reports
//!   (right or wrong), accesses that ended and how, faults and how often they came again.
//! * Worlds with equal [`view`](World::view)s have the same steps, and equal views after each of them.
//! * A world in which nothing is outstanding and no step is possible is at its end. If then not every
//!   task is over, no vCPU is stopped with a report and the run was not ended by one
//!   ([`Machine::is_stopped`]), somebody was forgotten.
//! * [`fairness`] says which cycles are loops, and which only leave somebody out.
//!
//! # Incidents
//! Deaths of tasks and of the worker that serves the pages, repairs and relapses of the source, removals,
//! switching asynchronous faults on and off, and migrations happen as often as their [`Budgets`] say, at any moment at which they can.

pub mod fairness;
mod fingerprint;
pub(crate) mod ledger;
mod look;
mod step;
#[cfg(test)]
mod tests;
mod view;

use std::sync::Arc;

use surefault_core::policy::{AnyPolicy, Policy};
use surefault_core::run::{ApfMode, TaskId};
use surefault_core::{PageIndex, VcpuId, faults, residency};
use thiserror::Error;

use crate::machine::{Happened, Machine, Move, Place, Setup, TaskState, vcpu_id};
use crate::spec::SimError;

pub use ledger::Ledger;
pub use look::TaskLook;
pub use step::{Answer, Step, TimerKind};
pub use view::View;

/// How many incidents of each kind may still happen. [`u8::MAX`] is never used up.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Budgets {
    /// [`Step::Kill`].
    pub kills: u8,
    /// [`Step::Repair`].
    pub repairs: u8,
    /// [`Step::Mend`].
    pub mends: u8,
    /// [`Step::Relapse`].
    pub relapses: u8,
    /// [`Step::Remove`].
    pub removals: u8,
    /// [`Step::Apf`].
    pub apf_changes: u8,
    /// [`Step::Migrate`].
    pub migrations: u8,
    /// [`Step::Die`].
    pub deaths: u8,
}

impl Budgets {
    /// No incident at all.
    pub const NONE: Budgets = Budgets::all(0);
    /// As many as you like.
    pub const UNLIMITED: Budgets = Budgets::all(u8::MAX);

    const fn all(n: u8) -> Budgets {
        Budgets {
            kills: n,
            repairs: n,
            mends: n,
            relapses: n,
            removals: n,
            apf_changes: n,
            migrations: n,
            deaths: n,
        }
    }

    fn of(&mut self, step: &Step) -> Option<&mut u8> {
        match step {
            Step::Kill(_) => Some(&mut self.kills),
            Step::Repair(_) => Some(&mut self.repairs),
            Step::Mend(_) => Some(&mut self.mends),
            Step::Relapse(_) => Some(&mut self.relapses),
            Step::Remove(_) => Some(&mut self.removals),
            Step::Apf(..) => Some(&mut self.apf_changes),
            Step::Migrate(..) => Some(&mut self.migrations),
            Step::Die => Some(&mut self.deaths),
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
            | Step::Pager(_) => None,
        }
    }
}

/// A step that is not possible now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("'{0}' is not possible here")]
pub struct Impossible(pub Step);

/// A machine that is not sound any more.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Violation {
    /// The machine of vCPUs.
    #[error("the vCPUs: {0}")]
    Faults(faults::Violation),
    /// The machine of pages.
    #[error("the pages: {0}")]
    Pages(residency::Violation),
}

/// A machine with nothing decided. See the [module](self) for what holds.
#[derive(Debug)]
pub struct World<P> {
    pub(crate) machine: Machine<P, Ledger>,
    left: Budgets,
}

surefault_core::clone_in_place! { World<P> {
    machine, left,
} }

impl World<AnyPolicy> {
    /// The world of `setup`, under the policy that it names.
    ///
    /// # Errors
    /// When `setup` makes no sense.
    pub fn new(setup: Arc<Setup>, budgets: Budgets) -> Result<World<AnyPolicy>, SimError> {
        let policy = setup.policy.build(&setup.faults);
        World::with_policy(setup, budgets, policy)
    }
}

impl<P: Policy> World<P> {
    /// The same under a policy of one's own.
    ///
    /// # Errors
    /// When `setup` makes no sense.
    pub fn with_policy(
        setup: Arc<Setup>,
        budgets: Budgets,
        policy: P,
    ) -> Result<World<P>, SimError> {
        let mut world = World {
            machine: Machine::new(setup, policy, Ledger::default())?,
            left: budgets,
        };
        world.machine.listener.happened = Vec::new();
        Ok(world)
    }

    /// The same with a deliberate mistake in the machine of vCPUs, for tests that must notice.
    #[cfg(any(test, feature = "defects"))]
    pub fn with_faults_defect(mut self, defect: faults::Defect) -> World<P> {
        self.machine.faults = self.machine.faults.with_defect(defect);
        self
    }

    /// The same with one in the machine of pages.
    #[cfg(any(test, feature = "defects"))]
    pub fn with_pages_defect(mut self, defect: residency::Defect) -> World<P> {
        self.machine.pages = self.machine.pages.with_defect(defect);
        self
    }

    /// The same with one in the pager. One that keeps no records has none.
    #[cfg(any(test, feature = "defects"))]
    pub fn with_pager_mistake(mut self, mistake: crate::machine::Mistake) -> World<P> {
        if let Some(pager) = &mut self.machine.pager {
            pager.mistake = Some(mistake);
        }
        self
    }

    /// The machine, to look at.
    pub fn machine(&self) -> &Machine<P, Ledger> {
        &self.machine
    }

    /// The incidents that may still happen.
    pub fn budgets(&self) -> Budgets {
        self.left
    }

    /// Puts the steps that are possible now into `into`, in a fixed order.
    pub fn steps(&self, into: &mut Vec<Step>) {
        into.clear();
        let machine = &self.machine;
        if machine.is_stopped() {
            return;
        }
        if let Some(pick) = machine.pick() {
            let able = (0..machine.guest.able(pick.vcpu))
                .filter_map(|nth| machine.guest.nth_able(pick.vcpu, nth));
            into.extend(able.map(|task| Step::Switch(vcpu_id(pick.vcpu), task)));
            into.sort_unstable();
            return;
        }
        for (v, thread) in machine.threads.iter().enumerate() {
            let vcpu = vcpu_id(v);
            match thread.next {
                Some(Move::Enter) => into.push(Step::Enter(vcpu)),
                Some(Move::Touch) => into.push(Step::Touch(vcpu)),
                Some(Move::IrqsOn) => into.push(Step::IrqsOn(vcpu)),
                None => {}
            }
            if machine.can_tick(v) {
                into.push(Step::Tick(vcpu));
            }
            if thread.acks_due > 0 {
                into.push(Step::Ack(vcpu));
            }
        }
        machine.listener.steps(into);
        if let Some(pager) = &machine.pager {
            let mut steps = Vec::new();
            pager.steps(&mut steps);
            into.extend(steps.into_iter().map(Step::Pager));
        }
        if !machine.is_done() {
            self.incidents(into);
        }
    }

    /// Takes a step that [`steps`](Self::steps) gives.
    ///
    /// # Errors
    /// When it does not: nothing has happened then.
    pub fn apply(&mut self, step: &Step) -> Result<Vec<Happened>, Impossible> {
        let mut possible = Vec::new();
        self.steps(&mut possible);
        match possible.contains(step) {
            true => Ok(self.advance(step)),
            false => Err(Impossible(*step)),
        }
    }

    /// The same for a step that `steps` has just given: it is not looked for again.
    pub fn advance(&mut self, step: &Step) -> Vec<Happened> {
        let mut happened = Vec::new();
        self.advance_into(step, &mut happened);
        happened
    }

    /// The same, and adds what came of it to a list.
    pub fn advance_into(&mut self, step: &Step, happened: &mut Vec<Happened>) {
        if let Some(left) = self.left.of(step)
            && *left != u8::MAX
        {
            *left = left.saturating_sub(1);
        }
        let machine = &mut self.machine;
        std::mem::swap(&mut machine.listener.happened, happened);
        if let Some(input) = machine.listener.take(*step) {
            machine.apply(input);
        }
        machine.listener.prune(&machine.pages);
        std::mem::swap(&mut machine.listener.happened, happened);
    }

    /// Holds both machines against their invariants.
    ///
    /// # Errors
    /// The first that is broken.
    pub fn check_invariants(&self) -> Result<(), Violation> {
        self.machine
            .faults
            .check_invariants()
            .map_err(Violation::Faults)?;
        self.machine
            .pages
            .check_invariants()
            .map_err(Violation::Pages)
    }

    fn incidents(&self, into: &mut Vec<Step>) {
        let machine = &self.machine;
        for task in &machine.guest.tasks {
            let waits_for_turn = task.state == TaskState::Runnable && !machine.guest.runs(task);
            let sleeps = matches!(task.state, TaskState::Waiting(_));
            if self.left.kills > 0 && (waits_for_turn || sleeps && !task.doomed) {
                into.push(Step::Kill(task.id));
            }
            if self.left.migrations > 0 && waits_for_turn {
                let others = (0..machine.threads.len()).filter(|&v| v != task.cpu);
                into.extend(others.map(|v| Step::Migrate(task.id, vcpu_id(v))));
            }
        }
        if self.left.deaths > 0 && machine.pager.as_ref().is_some_and(|pager| pager.is_alive()) {
            into.push(Step::Die);
        }
        let pages = 0..machine.setup.workload.pages().get() as u32;
        for page in pages.map(PageIndex::new) {
            if self.left.repairs > 0 && machine.can_repair(page) {
                into.push(Step::Repair(page));
            }
            if self.left.mends > 0 && machine.can_mend(page) {
                into.push(Step::Mend(page));
            }
            let relapses = machine.setup.is_failing(page) && machine.is_repaired(page);
            if self.left.relapses > 0 && relapses {
                into.push(Step::Relapse(page));
            }
            if self.left.removals > 0 && machine.can_remove(page) {
                into.push(Step::Remove(page));
            }
        }
        for (v, thread) in machine.threads.iter().enumerate() {
            let can = self.left.apf_changes > 0 && machine.setup.apf != ApfMode::Off;
            if can && thread.place == Place::Guest {
                into.extend([false, true].map(|on| Step::Apf(vcpu_id(v), on)));
            }
        }
    }

    /// The task that a vCPU runs; `None` for the counting one.
    pub fn running(&self, vcpu: VcpuId) -> Option<TaskId> {
        let current = self.machine.guest.current(vcpu.get() as usize)?;
        Some(current.id)
    }
}
