//! A configuration, explored and judged.

use std::time::Duration;

use surefault_sim::world::Step;

use super::{Action, Config, ConfigError, Promise, Property, Safety, System, weight};
use crate::explore::{Limits, Progress, explore};
use crate::liveness;
use crate::verdict::{Counterexample, Verdict};

/// What came of a configuration.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Which.
    pub config: Config,
    /// Every property, in their order, and whether it holds.
    pub verdicts: Vec<(Property, Verdict<Step>)>,
    /// States found.
    pub states: usize,
    /// Steps between them.
    pub edges: usize,
    /// Steps to the state that is farthest from the beginning.
    pub depth: usize,
    /// Bytes that they took.
    pub bytes: usize,
    /// The most bytes that states in full took beside that, roughly.
    pub peak_waiting: usize,
    /// How long it took to find them.
    pub explored_in: Duration,
    /// How long it took in all.
    pub elapsed: Duration,
}

/// Explores the system of `config` as far as `limits` allow, and judges every property.
///
/// # Errors
/// When the configuration contradicts itself.
pub fn check(
    config: &Config,
    limits: &Limits,
    progress: impl FnMut(&Progress),
) -> Result<Checked, ConfigError> {
    Ok(check_system(&System::new(config)?, limits, progress))
}

/// The same for a system made elsewhere.
pub fn check_system(system: &System, limits: &Limits, progress: impl FnMut(&Progress)) -> Checked {
    let started = std::time::Instant::now();
    let explored = explore(system, limits, weight, progress);
    let judged = liveness::judge(system, &explored);
    let unbroken = match explored.is_complete {
        true => Verdict::Holds,
        false => Verdict::Incomplete,
    };
    let safety = Safety::ALL.iter().zip(&explored.broken);
    let safety = safety.map(|(&safety, way)| {
        let verdict = match way {
            Some(way) => Verdict::Violated(steps_of(way)),
            None => unbroken.clone(),
        };
        (Property::Safety(safety), verdict)
    });
    let promises = Promise::ALL.iter().map(|&promise| {
        let own = judged.iter().enumerate();
        let own = own.filter(|&(n, _)| system.promise(n) == promise);
        let verdict = own.fold(unbroken.clone(), |worst, (_, verdict)| {
            worse(worst, verdict)
        });
        (Property::Promise(promise), verdict)
    });
    Checked {
        config: system.config().clone(),
        verdicts: safety.chain(promises).collect(),
        states: explored.graph.states(),
        edges: explored.graph.edges(),
        depth: explored.graph.deepest(),
        bytes: explored.graph.bytes(),
        peak_waiting: explored.peak_waiting,
        explored_in: explored.elapsed,
        elapsed: started.elapsed(),
    }
}

/// The worse of two verdicts; of two counterexamples the shorter one.
fn worse(a: Verdict<Step>, b: &Verdict<Action>) -> Verdict<Step> {
    match (a, b) {
        (Verdict::Violated(a), Verdict::Violated(b)) => {
            let b = steps_of(b);
            Verdict::Violated(if b.len() < a.len() { b } else { a })
        }
        (Verdict::Violated(a), _) => Verdict::Violated(a),
        (_, Verdict::Violated(b)) => Verdict::Violated(steps_of(b)),
        (a, _) => a,
    }
}

fn steps_of(way: &Counterexample<Action>) -> Counterexample<Step> {
    let flat = |actions: &[Action]| actions.iter().flat_map(Action::steps).collect();
    Counterexample {
        stem: flat(&way.stem),
        cycle: flat(&way.cycle),
    }
}
