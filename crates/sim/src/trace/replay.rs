//! Plays a trace.

use core::fmt::{self, Write as _};
use std::sync::Arc;

use surefault_core::policy::{Policy, PolicyKind};
use thiserror::Error;

use super::Trace;
use super::expect::{Ending, Mismatch, Tally};
use super::find::Runner;
use crate::machine::{Happened, Setup};
use crate::spec::SimError;
use crate::world::fairness::{NoLoop, check_cycle};
use crate::world::{Budgets, Impossible, Step, World};

/// Steps after which a run that was left to itself is given up.
const GIVE_UP: usize = 5_000;

/// What came of a trace.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// Its steps, and what each did.
    pub lines: Vec<Line>,
    /// Steps that the lines from this one on repeat for ever.
    pub cycle: Option<usize>,
    /// How it ends.
    pub ending: Ending,
    /// Why its cycle is no loop, where it has one.
    pub no_loop: Option<NoLoop>,
    /// What was counted.
    pub tally: Tally,
}

/// A step, and what it did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// The step.
    pub step: Step,
    /// What came of it; `None` when it was not possible and passed over.
    pub happened: Option<Vec<Happened>>,
    /// The trace does not have it: it was left to itself.
    pub added: bool,
}

/// A trace that cannot be played.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// A step is not possible where it stands.
    #[error("step {number}{}: {step}; possible: {}", at_line(.line), listed(.possible))]
    Impossible {
        /// The step, counted from 1.
        number: usize,
        /// Its line, where the trace was read from a file.
        line: Option<usize>,
        /// Which.
        step: Impossible,
        /// What would have been possible.
        possible: Vec<Step>,
    },
    /// Its machine makes no sense.
    #[error("the trace's machine")]
    Setup(#[from] SimError),
}

/// FNV-1a of a text (Fowler, Noll, Vo 1991), 64 bits.
struct Digest(u64);

impl fmt::Write for Digest {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        Ok(())
    }
}

fn at_line(line: &Option<usize>) -> String {
    line.map_or_else(String::new, |line| format!(" (line {line})"))
}

fn listed(steps: &[Step]) -> String {
    let steps = steps.iter().filter(|step| !step.is_incident());
    let steps: Vec<String> = steps.map(|step| format!("'{step}'")).collect();
    match steps.is_empty() {
        true => "nothing".to_owned(),
        false => steps.join(", "),
    }
}

impl Replayed {
    /// Holds what came of a trace against what it expects.
    ///
    /// # Errors
    /// The first that is otherwise.
    pub fn check(&self, trace: &Trace) -> Result<(), Mismatch> {
        self.differences(trace)
            .into_iter()
            .next()
            .map_or(Ok(()), Err)
    }

    /// All that is otherwise than `trace` expects.
    pub fn differences(&self, trace: &Trace) -> Vec<Mismatch> {
        let expected = trace.expected.iter();
        let checked = expected.map(|expected| expected.check(self));
        checked.filter_map(Result::err).collect()
    }

    /// A number for everything that came of it: each step with all that happened, to the last field, and
    /// the ending. Any build of the same rules comes to the same (FNV-1a over what `Debug` writes).
    pub fn digest(&self) -> u64 {
        let mut digest = Digest(0xcbf2_9ce4_8422_2325);
        for line in &self.lines {
            // Writing to it cannot fail.
            let _ = write!(digest, "{} {:?};", line.step, line.happened);
        }
        let _ = write!(digest, "{:?}", self.ending);
        digest.0
    }

    /// The steps that were played.
    pub fn steps(&self) -> Vec<Step> {
        let played = self.lines.iter().filter(|line| line.happened.is_some());
        played.map(|line| line.step).collect()
    }

    /// Which of them the cycle begins with.
    pub fn cycle_of_steps(&self) -> Option<usize> {
        let before = &self.lines[..self.cycle?];
        Some(before.iter().filter(|line| line.happened.is_some()).count())
    }
}

/// Plays `trace` step by step, as it stands.
///
/// # Errors
/// When a step is not possible.
pub fn replay(trace: &Trace) -> Result<Replayed, ReplayError> {
    let policy = trace.setup.policy.build(&trace.setup.faults);
    replay_with(trace, policy)
}

/// The same under a policy of one's own.
pub(super) fn replay_with<P: Policy>(trace: &Trace, policy: P) -> Result<Replayed, ReplayError> {
    let mut world = World::with_policy(trace.setup.clone(), Budgets::UNLIMITED, policy)?;
    let mut tally = Tally::default();
    let mut lines = Vec::new();
    let mut turn = None;
    for (at, step) in trace.steps.iter().enumerate() {
        if trace.cycle == Some(at) {
            turn = Some(check_cycle(&world, &trace.steps[at..]));
        }
        let happened = world.apply(step).map_err(|step| {
            let mut possible = Vec::new();
            world.steps(&mut possible);
            ReplayError::Impossible {
                number: at + 1,
                line: trace.lines.get(at).copied(),
                step,
                possible,
            }
        })?;
        tally.count(&happened, &world);
        lines.push(Line {
            step: *step,
            happened: Some(happened),
            added: false,
        });
    }
    let ending = match turn {
        Some(Ok(())) => Ending::Looped,
        Some(Err(_)) | None => ending_of(&world),
    };
    Ok(Replayed {
        lines,
        cycle: trace.cycle,
        ending,
        no_loop: turn.and_then(Result::err),
        tally,
    })
}

fn ending_of<P: Policy>(world: &World<P>) -> Ending {
    match (world.machine().is_stopped(), world.machine().is_done()) {
        (true, _) => Ending::Reported,
        (false, true) => Ending::Finished,
        (false, false) => Ending::Open,
    }
}

/// Plays `trace` under another policy: steps that are not possible then are passed over, and when the
/// trace is over the machine is left to itself, in a fair order, until it ends or loops.
///
/// # Errors
/// When the machine makes no sense.
pub fn follow(trace: &Trace, policy: PolicyKind) -> Result<Replayed, ReplayError> {
    let setup = Setup {
        policy,
        // That is what it is made of.
        keeps_record: trace.setup.keeps_record || policy == PolicyKind::Exact,
        ..(*trace.setup).clone()
    };
    let mut world = World::new(Arc::new(setup), Budgets::UNLIMITED)?;
    let mut tally = Tally::default();
    let mut lines = Vec::new();
    for step in &trace.steps {
        let happened = world.apply(step).ok();
        tally.count(happened.as_deref().unwrap_or(&[]), &world);
        lines.push(Line {
            step: *step,
            happened,
            added: false,
        });
    }
    let before = lines.len();
    let run = Runner::default().run(&world, GIVE_UP);
    for step in run.steps {
        let happened = world.advance(&step);
        tally.count(&happened, &world);
        lines.push(Line {
            step,
            happened: Some(happened),
            added: true,
        });
    }
    Ok(Replayed {
        lines,
        cycle: run.cycle.map(|at| before + at),
        ending: match run.cycle {
            Some(_) => Ending::Looped,
            None => ending_of(&world),
        },
        no_loop: None,
        tally,
    })
}
