//! The checker's system, as stateright's [`Model`].
//!
//! The checker takes all steps of a state at once. Here they are taken when stateright asks for actions,
//! and an action carries the state that it leads to, so that no step is taken twice.

use std::cell::RefCell;
use std::hash::{Hash, Hasher};

use stateright::{Model, Property};
use surefault_check::model::Model as _;
use surefault_check::system::{Action, Situation, System};

/// Worlds that a thread keeps to clone into: as many as the checker's own engine.
const SPARE: usize = 2048;

thread_local! {
    static POOL: RefCell<Vec<Situation>> = const { RefCell::new(Vec::new()) };
}

/// The system.
pub struct Shared {
    system: System,
    spares: bool,
}

impl Shared {
    /// With `spares`, worlds are cloned into those that were dropped.
    pub fn new(system: System, spares: bool) -> Shared {
        Shared { system, spares }
    }
}

/// A state: equal to those of the same fingerprint, with the same things broken on the way.
#[derive(Clone)]
pub struct Reached {
    /// There until it is dropped.
    situation: Option<Situation>,
    print: u64,
    broken: u32,
    is_wreck: bool,
    spares: bool,
}

impl PartialEq for Reached {
    fn eq(&self, other: &Reached) -> bool {
        (self.print, self.broken) == (other.print, other.broken)
    }
}

impl Hash for Reached {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (self.print, self.broken).hash(hasher);
    }
}

impl Drop for Reached {
    fn drop(&mut self) {
        let Some(situation) = self.situation.take().filter(|_| self.spares) else {
            return;
        };
        // A thread that ends has no pool any more; then the world is just given back.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            if pool.len() < SPARE {
                pool.push(situation);
            }
        });
    }
}

/// A step, and what comes of it.
#[derive(Clone)]
pub struct Step {
    action: Action,
    to: Reached,
}

impl PartialEq for Step {
    fn eq(&self, other: &Step) -> bool {
        self.action == other.action
    }
}

impl Model for Shared {
    type State = Reached;
    type Action = Step;

    fn init_states(&self) -> Vec<Reached> {
        let situation = self.system.initial();
        vec![Reached {
            print: self.system.fingerprint(&situation),
            situation: Some(situation),
            broken: 0,
            is_wreck: false,
            spares: self.spares,
        }]
    }

    fn actions(&self, state: &Reached, actions: &mut Vec<Step>) {
        let Some(situation) = state.situation.as_ref().filter(|_| !state.is_wreck) else {
            return;
        };
        let mut steps = Vec::new();
        POOL.with_borrow_mut(|pool| self.system.steps(situation, &mut steps, pool));
        actions.extend(steps.into_iter().map(|next| Step {
            action: next.action,
            to: Reached {
                print: self.system.fingerprint(&next.state),
                situation: Some(next.state),
                broken: next.broken,
                is_wreck: next.is_wreck,
                spares: self.spares,
            },
        }));
    }

    fn next_state(&self, _: &Reached, step: Step) -> Option<Reached> {
        Some(step.to)
    }

    fn properties(&self) -> Vec<Property<Shared>> {
        /// Property `N` was not broken on the way.
        fn holds<const N: u32>(_: &Shared, state: &Reached) -> bool {
            state.broken >> N & 1 == 0
        }
        let holds: [fn(&Shared, &Reached) -> bool; 9] = [
            holds::<0>, holds::<1>, holds::<2>, holds::<3>, holds::<4>, holds::<5>, holds::<6>,
            holds::<7>, holds::<8>,
        ];
        let names = self.system.safety();
        assert_eq!(names.len(), holds.len(), "each property has its function");
        let each = names.iter().zip(holds);
        each.map(|(name, holds)| Property::always(name, holds))
            .collect()
    }
}
