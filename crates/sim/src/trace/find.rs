//! Finds traces: from a simulated run, and by leaving a machine to itself.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use surefault_core::policy::{AnyPolicy, Policy};
use surefault_core::run::Outcome;

use super::Trace;
use super::expect::{Ending, Expected};
use crate::spec::{SimError, SimSpec};
use crate::world::fairness::check_cycle;
use crate::world::{Budgets, Step, World};
use crate::{Sim, SimResult};

/// Steps of a simulated run in which a loop is looked for, and as many to find one from there.
const LOOK_FOR_LOOP: usize = 500;

/// Runs `spec` to its end, and writes down up to `limit` steps of it. A run that looped becomes a trace
/// with a cycle where one is found.
///
/// # Errors
/// When `spec` makes no sense.
pub fn record(spec: &SimSpec, limit: usize) -> Result<(SimResult, Trace), SimError> {
    let policy = spec.effective_policy().build(&spec.faults_config());
    let (result, sim) = Sim::recorded(spec, policy, limit)?.run_and_keep();
    let trace = trace_of(&result, &sim, spec)?;
    Ok((result, trace))
}

/// The trace of a recorded run.
///
/// # Errors
/// When `spec` makes no sense.
pub(crate) fn trace_of(
    result: &SimResult,
    sim: &Sim<AnyPolicy>,
    spec: &SimSpec,
) -> Result<Trace, SimError> {
    let mut trace = Trace::new(Arc::new(spec.setup()), sim.steps().to_vec());
    if result.run.outcome == Outcome::Looped {
        let world = World::new(trace.setup.clone(), Budgets::UNLIMITED)?;
        let known = &trace.steps[..trace.steps.len().min(LOOK_FOR_LOOP)];
        let run = Runner::default().run_after(&world, known, LOOK_FOR_LOOP);
        if run.cycle.is_some() {
            (trace.steps, trace.cycle) = (run.steps, run.cycle);
        }
    }
    // What was cut off has no end.
    if let Ok(replayed) = super::replay(&trace) {
        trace.expected.push(Expected::Ending(replayed.ending));
        if replayed.ending == Ending::Reported {
            let tally = &replayed.tally;
            let facts = super::expect::FACTS.iter();
            let named = facts.filter(|(name, _)| ["page", "task", "wrong-reports"].contains(name));
            let expected = named.map(|(name, value)| Expected::Fact(name, value(tally)));
            trace.expected.extend(expected);
        }
    }
    Ok(trace)
}

/// Steps, and where they begin to repeat themselves.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Run {
    /// The steps.
    pub steps: Vec<Step>,
    /// The steps from this one on are a loop.
    pub cycle: Option<usize>,
}

/// Leaves a machine to itself, in a fair order: of the steps that are possible, the one that has
/// waited longest, where timers and sources take their time. No incidents.
#[derive(Clone, Debug, Default)]
pub struct Runner {
    now: u64,
    /// Since when each step waits for its turn.
    since: BTreeMap<Step, u64>,
}

impl Runner {
    /// Takes steps from `world` until it ends, a loop is found, or `limit` steps are taken.
    pub fn run<P: Policy>(self, world: &World<P>, limit: usize) -> Run {
        self.run_after(world, &[], limit)
    }

    /// The same after steps that are known; a loop among those is found as well.
    pub(super) fn run_after<P: Policy>(
        mut self,
        start: &World<P>,
        known: &[Step],
        limit: usize,
    ) -> Run {
        let mut world = start.clone();
        let mut run = Run::default();
        let mut seen: HashMap<u64, Vec<usize>> = HashMap::new();
        let mut worlds = Vec::new();
        let mut possible = Vec::new();
        loop {
            let now = run.steps.len();
            let before = seen.entry(world.hash_view()).or_default();
            // Whoever comes back again and again is asked ever less often.
            if before.len().is_power_of_two() {
                // The shortest cycle first; one that is unfair may be part of one that is fair.
                for &at in before.iter().rev().take(2).chain(before.first()) {
                    if check_cycle(&worlds[at], &run.steps[at..]).is_ok() {
                        run.cycle = Some(at);
                        return run;
                    }
                }
            }
            before.push(now);
            world.steps(&mut possible);
            possible.retain(|step| !step.is_incident());
            let step = match known.get(now) {
                Some(&step) => Some(step),
                None if now >= known.len() + limit || world.machine().is_done() => None,
                None => self.choose(&possible),
            };
            let Some(step) = step else { return run };
            worlds.push(world.clone());
            world.advance(&step);
            run.steps.push(step);
        }
    }

    fn choose(&mut self, possible: &[Step]) -> Option<Step> {
        self.now += 1;
        // Whoever can only act all the time or not at all begins anew.
        self.since
            .retain(|step, _| waits_on(step) || possible.contains(step));
        for &step in possible {
            self.since.entry(step).or_insert(self.now);
        }
        let due = |step: &&Step| self.since.get(step).map(|since| since + patience(step));
        let step = *possible.iter().min_by_key(due)?;
        self.since.insert(step, self.now);
        Some(step)
    }
}

/// How many steps something takes, more or less, before it is due.
fn patience(step: &Step) -> u64 {
    match step {
        Step::Switch(..) | Step::Enter(_) | Step::Touch(_) | Step::Ack(_) => 0,
        Step::Pager(_) => 1,
        // Long enough for something to come meanwhile.
        Step::IrqsOn(_) => 2,
        Step::Fetched { .. } => 4,
        Step::Tick(_) => 12,
        Step::PageTimer(crate::world::TimerKind::Backoff, _) => 6,
        Step::PageTimer(..) | Step::Unclaimed | Step::PolicyTimer(_) => 200,
        Step::Apf(..)
        | Step::Repair(_)
        | Step::Mend(_)
        | Step::Relapse(_)
        | Step::Remove(_)
        | Step::Kill(_)
        | Step::Migrate(..)
        | Step::Die => u64::MAX / 2,
    }
}

/// Whether its turn comes nearer while it is not possible, too.
fn waits_on(step: &Step) -> bool {
    matches!(
        step,
        Step::Switch(..)
            | Step::Enter(_)
            | Step::Touch(_)
            | Step::IrqsOn(_)
            | Step::Ack(_)
            | Step::Pager(_)
    )
}

/// The world after these steps, all of which are possible.
pub(super) fn after<P: Policy>(start: &World<P>, steps: &[Step]) -> World<P> {
    let mut world = start.clone();
    for step in steps {
        world.advance(step);
    }
    world
}
