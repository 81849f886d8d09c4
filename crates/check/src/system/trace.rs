//! Counterexamples as traces: files that `surefault replay` plays to the same end.

use std::sync::Arc;

use surefault_sim::trace::{Ending, Expected, ReplayError, Trace, replay};
use surefault_sim::world::Step;

use super::{Config, ConfigError};
use crate::verdict::Counterexample;

/// A counterexample that is no trace: a bug in the checker, which has just found it.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// Its machine.
    #[error("the machine of the configuration")]
    Config(#[from] ConfigError),
    /// One of its steps, or its cycle.
    #[error("the counterexample does not replay")]
    Replay(#[from] ReplayError),
}

/// The trace of a counterexample that was found in the system of `config`, its cycle marked.
///
/// It expects the end that it has, and what was counted up to there: `looped` on a cycle that can go
/// on for ever, which is held once more against the simulator's own rule when it is replayed.
///
/// # Errors
/// When it cannot be replayed.
pub fn trace_of(config: &Config, way: &Counterexample<Step>) -> Result<Trace, TraceError> {
    let steps = way.stem.iter().chain(&way.cycle).copied().collect();
    let mut trace = Trace::new(Arc::new(config.setup()?), steps);
    if !way.cycle.is_empty() {
        trace.cycle = Some(way.stem.len());
    }
    let replayed = replay(&trace)?;
    let tally = replayed.tally;
    trace.expected = vec![
        Expected::Ending(match trace.cycle {
            Some(_) => Ending::Looped,
            None => replayed.ending,
        }),
        Expected::Fact("retries", Some(tally.retries)),
        Expected::Fact("reports", Some(tally.reports)),
        Expected::Fact("wrong-reports", Some(tally.wrong_reports)),
        Expected::Fact("off", Some(tally.off)),
    ];
    if trace.setup.records {
        let wrong = Some(tally.wrong_pages);
        trace.expected.push(Expected::Fact("wrong-pages", wrong));
    }
    Ok(trace)
}
