//! The steps of a run, written down by names that last.

use surefault_core::policy::Policy;

use crate::machine::{Around, Input, Listener, Machine, Output};
use crate::world::Step;
use crate::world::ledger::Ledger;

/// The first steps of a run.
#[derive(Clone, Debug)]
pub(super) struct Recording {
    ledger: Ledger,
    steps: Vec<Step>,
    /// From here on nothing is recorded.
    limit: usize,
    /// A time slice ends that nobody else wants: not a step.
    skips: bool,
}

impl Recording {
    pub(super) fn new(limit: usize) -> Recording {
        Recording {
            ledger: Ledger::default(),
            steps: Vec::new(),
            limit,
            skips: false,
        }
    }

    pub(super) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The machine is about to take this step.
    pub(super) fn record<P: Policy, L: Listener>(&mut self, input: Input, machine: &Machine<P, L>) {
        self.ledger.prune(machine.pages());
        self.skips = match input {
            Input::Tick(v) => !machine.can_tick(v),
            Input::Switch(..) => self.skips,
            _ => false,
        };
        let step = self.ledger.name(input);
        if let (Some(step), false) = (step, self.skips)
            && self.steps.len() < self.limit
        {
            self.steps.push(step);
        }
    }

    /// This followed from it.
    pub(super) fn note(&mut self, output: Output, around: Around<'_>) {
        self.ledger.hear(output, around);
    }
}
