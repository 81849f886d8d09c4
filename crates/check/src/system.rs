//! The system that is checked: the production machines, closed with a guest, a source and a scheduler
//! that do whatever they may.
//!
//! It is the simulator's [`World`]: `surefault-core`'s `Faults`, `Residency` and policies, the same
//! types that serve VMs. What is left out, and why that is no loss:
//!
//! * A question of the guest's scheduler is no state of its own: its answer is part of the step that
//!   raised it.
//! * A deadline passes only where the source says nothing. A source that answers does so in time:
//!   without a clock any deadline could pass before any answer, and every page could fail.
//! * Incidents (deaths, repairs, ...) happen at any moment, as often as the [`Config`] says.
//! * Where the worker that serves the pages may die, its pager takes its steps one by one; otherwise at
//!   once. What is left out of the pager is said in `surefault_sim::machine`'s.
//!
//! | file | what is in it |
//! |---|---|
//! | `config` | how large it is, and what may befall it |
//! | `claims` | who is treated fairly |
//! | `safety` | what must never happen |
//! | `promises` | what must not stay open for ever |
//! | `property` | names for all that |
//! | `check` | a configuration, explored and judged |
//! | `trace` | counterexamples as files |

mod check;
mod claims;
mod config;
mod promises;
mod property;
mod safety;
mod trace;

use std::sync::Arc;

use surefault_core::policy::AnyPolicy;
use surefault_core::residency::ResidencyConfig;
use surefault_sim::SimError;
use surefault_sim::machine::{Happened, Setup};
use surefault_sim::world::{Step, TimerKind, World};

pub use check::{Checked, check, check_system};
pub use config::{Config, ConfigError};
pub use property::{Promise, Property, Safety};
pub use trace::{TraceError, trace_of};

use claims::Claims;
use promises::Promises;

use crate::model::{Class, Model, Next};

/// Steps of a state, or what comes of one: seldom are there more.
const ENOUGH: usize = 16;

/// A step, and what the schedulers that it raised questions of answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Action {
    step: Step,
    answers: Vec<Step>,
}

impl Action {
    /// All steps of it, in order.
    pub fn steps(&self) -> impl Iterator<Item = Step> + '_ {
        std::iter::once(self.step).chain(self.answers.iter().copied())
    }
}

/// A world, and how many incidents may still befall it.
#[derive(Clone, Debug)]
pub struct Situation {
    /// The world.
    pub world: Box<World<AnyPolicy>>,
    incidents: u8,
}

/// The system, as a [`Model`].
#[derive(Clone, Debug)]
pub struct System {
    config: Config,
    initial: Situation,
    claims: Claims,
    promises: Promises,
}

impl System {
    /// The system of this configuration, at its beginning.
    ///
    /// # Errors
    /// When the configuration contradicts itself.
    pub fn new(config: &Config) -> Result<System, ConfigError> {
        let setup = Arc::new(config.setup()?);
        let world = World::new(Arc::clone(&setup), config.budgets)?;
        Ok(System::of(config, world))
    }

    /// The same around a world made elsewhere, of the same setup.
    pub fn of(config: &Config, world: World<AnyPolicy>) -> System {
        System {
            config: config.clone(),
            claims: Claims::new(config),
            promises: Promises::new(config),
            initial: Situation {
                world: Box::new(world),
                incidents: config.incidents,
            },
        }
    }

    /// What it was made of.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Which promise an obligation, by its number, belongs to.
    pub fn promise(&self, obligation: usize) -> Promise {
        self.promises.promise(obligation)
    }

    /// Whether the step is one of those that are left out.
    fn is_left_out(&self, situation: &Situation, step: &Step) -> bool {
        match *step {
            Step::PageTimer(TimerKind::Deadline | TimerKind::Patience, page) => {
                let machine = situation.world.machine();
                let is_silent = machine.setup().is_silent(page) && !machine.is_repaired(page);
                !is_silent
            }
            // These have a budget of their own.
            Step::Die => false,
            _ => step.is_incident() && situation.incidents == 0,
        }
    }

    /// Answers the open question of a scheduler, if there is one, in every way; the last in `taken`,
    /// whose list of what happened it gives back, for the next one.
    fn answer(
        &self,
        from: &Situation,
        mut taken: Taken,
        into: &mut Vec<Next<Action, Situation>>,
        spare: &mut Vec<Situation>,
    ) -> Vec<Happened> {
        if taken.world.machine().pick().is_none() {
            let (next, happened) = self.judge(from, taken);
            into.push(next);
            return happened;
        }
        let mut answers = Vec::with_capacity(ENOUGH);
        taken.world.steps(&mut answers);
        let last = answers.pop();
        for answer in answers {
            let mut other = Taken {
                world: cloned(&taken.world, spare),
                action: taken.action.clone(),
                happened: taken.happened.clone(),
                ..taken
            };
            other.take(&self.claims, &answer);
            other.action.answers.push(answer);
            self.answer(from, other, into, spare);
        }
        match last {
            Some(answer) => {
                taken.take(&self.claims, &answer);
                taken.action.answers.push(answer);
                self.answer(from, taken, into, spare)
            }
            None => taken.happened,
        }
    }

    fn judge(&self, from: &Situation, taken: Taken) -> (Next<Action, Situation>, Vec<Happened>) {
        let broken = safety::broken(from, &taken);
        let step = taken.action.step;
        let incident = step.is_incident() && step != Step::Die;
        let next = Next {
            acts: taken.acts,
            offers: taken.offers,
            is_wreck: broken & Safety::Invariants.bit() != 0,
            broken,
            action: taken.action,
            state: Situation {
                incidents: from.incidents - u8::from(incident),
                world: taken.world,
            },
        };
        (next, taken.happened)
    }
}

/// The same world, in the memory of a spare one if there is one.
fn cloned(world: &World<AnyPolicy>, spare: &mut Vec<Situation>) -> Box<World<AnyPolicy>> {
    match spare.pop() {
        Some(mut situation) => {
            World::clone_from(&mut situation.world, world);
            situation.world
        }
        None => Box::new(world.clone()),
    }
}

/// An action that is being put together.
struct Taken {
    world: Box<World<AnyPolicy>>,
    action: Action,
    happened: Vec<Happened>,
    acts: u64,
    offers: u64,
}

impl Taken {
    fn take(&mut self, claims: &Claims, step: &Step) {
        self.acts |= claims.of(&self.world, step);
        self.offers |= claims.offers(step);
        self.world.advance_into(step, &mut self.happened);
    }
}

impl Model for System {
    type State = Situation;
    type Action = Action;

    fn initial(&self) -> Situation {
        self.initial.clone()
    }

    fn steps(
        &self,
        state: &Situation,
        into: &mut Vec<Next<Action, Situation>>,
        spare: &mut Vec<Situation>,
    ) {
        let mut steps = Vec::with_capacity(ENOUGH);
        state.world.steps(&mut steps);
        let mut happened = Vec::with_capacity(ENOUGH);
        for step in steps {
            if self.is_left_out(state, &step) {
                continue;
            }
            let mut taken = Taken {
                world: cloned(&state.world, spare),
                action: Action {
                    step,
                    answers: Vec::new(),
                },
                happened,
                acts: 0,
                offers: 0,
            };
            taken.take(&self.claims, &step);
            happened = self.answer(state, taken, into, spare);
            happened.clear();
        }
    }

    fn fingerprint(&self, state: &Situation) -> u64 {
        state.world.hash_view() ^ u64::from(state.incidents) << 56
    }

    fn safety(&self) -> &[&'static str] {
        &Safety::NAMES
    }

    fn obligations(&self) -> &[&'static str] {
        self.promises.names()
    }

    fn open(&self, state: &Situation) -> u32 {
        self.promises.open(&state.world)
    }

    fn classes(&self) -> &[Class] {
        self.claims.classes()
    }
}

/// Limits of the machine of pages, as far as the checker needs others than the simulator.
fn residency(attempts: u8, max_pending: usize) -> ResidencyConfig {
    ResidencyConfig {
        attempts,
        // Ranges only make more of the same.
        max_range: 1,
        max_fetches: 2 * max_pending,
        max_pending,
        max_failures: max_pending,
        ..ResidencyConfig::default()
    }
}

impl From<SimError> for ConfigError {
    fn from(error: SimError) -> ConfigError {
        ConfigError::Setup(error)
    }
}

/// How many bytes a situation takes, roughly: for the limit on memory.
pub fn weight(situation: &Situation) -> usize {
    let setup: &Setup = situation.world.machine().setup();
    let tasks = setup.workload.tasks().len();
    let vcpus = usize::from(setup.faults.vcpus);
    let items = usize::from(setup.faults.item_slots) * 120;
    900 + tasks * 110 + vcpus * (700 + items)
}
