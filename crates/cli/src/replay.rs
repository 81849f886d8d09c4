//! The command `replay`: a saved trace, step by step.

mod args;
mod json;
mod text;

use std::sync::Arc;

use surefault_core::policy::PolicyKind;
use surefault_sim::machine::Setup;
use surefault_sim::trace::{Mismatch, Replayed, Trace, follow, replay, shrink};

pub(crate) use args::ReplayArgs;

use crate::args::Format;
use crate::exit::{Exit, Failure};
use crate::output::{print, print_json};

/// What came of a trace.
pub(crate) struct Played {
    policy: PolicyKind,
    trace: Trace,
    replayed: Replayed,
    /// What must have come of it, and did not.
    differs: Vec<Mismatch>,
}

/// Replays, and says what came of it.
pub(crate) fn run(args: &ReplayArgs) -> Result<Exit, Failure> {
    let mut trace = Trace::load(&args.file).map_err(usage)?;
    let name = args.file.display().to_string();
    let failed = |error| Failure::new(Exit::Usage, anyhow::Error::new(error).context(name.clone()));
    if args.shrink {
        trace = shrunk(&trace, args.policy).map_err(failed)?;
    }
    let policy = args.policy.unwrap_or(trace.setup.policy);
    let replayed = match policy == trace.setup.policy {
        true => replay(&trace),
        false => follow(&trace, policy),
    }
    .map_err(failed)?;
    let differs = match policy == trace.setup.policy {
        true => replayed.differences(&trace),
        // What is expected is said of the policy in the file.
        false => Vec::new(),
    };
    let played = Played {
        policy,
        trace,
        replayed,
        differs,
    };
    match (args.format, args.shrink) {
        // To be saved as it is.
        (Format::Text, true) => print(&played.trace.to_string())?,
        (Format::Text, false) => print(&text::played(&played))?,
        (Format::Json, _) => print_json(&json::Output::of(&played))?,
    }
    Ok(match played.differs.is_empty() {
        true => Exit::Ran,
        false => Exit::Found,
    })
}

/// A shorter trace that shows the same; under another policy, of what the trace is there.
fn shrunk(
    trace: &Trace,
    policy: Option<PolicyKind>,
) -> Result<Trace, surefault_sim::trace::ReplayError> {
    let mut trace = trace.clone();
    if let Some(policy) = policy
        && policy != trace.setup.policy
    {
        let followed = follow(&trace, policy)?;
        trace.setup = Arc::new(Setup {
            policy,
            ..(*trace.setup).clone()
        });
        trace.steps = followed.steps();
        trace.cycle = followed.cycle_of_steps();
        trace.expected.clear();
        trace.lines.clear();
    }
    let policy = trace.setup.policy.build(&trace.setup.faults);
    shrink(&trace, &policy)
}

fn usage(error: surefault_sim::trace::TraceError) -> Failure {
    Failure::new(Exit::Usage, error)
}
