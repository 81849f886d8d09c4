//! Traces: a machine and the steps that it takes, as a text that can be saved, edited and replayed.
//!
//! ```text
//! surefault trace 1
//! policy retry                # what the machine is; what is not said is as usual
//! vcpus 1
//! pages 1
//! task 0 0                    # task 0 reads page 0; 0w writes it, 0c calls into it
//! fail permanent 0
//! record no
//!
//! switch 0 0                  # what happens, one step a line
//! enter 0
//! switch 0 0
//! touch 0
//! enter 0
//! cycle                       # from here on again and again
//! fetched 0 permanent
//! enter 0
//! switch 0 0
//! touch 0
//! enter 0
//!
//! expect outcome looped       # what must come of it
//! ```
//!
//! The keys of the head are in `trace/keys.rs`, the words for steps are [`Step`]'s, both in one place
//! for reading and writing. A trace is replayed by [`World`](crate::world::World), so the same text
//! gives the same outcome in every build.

mod expect;
mod find;
mod keys;
mod parse;
mod replay;
mod shrink;
#[cfg(test)]
mod tests;
mod write;

use std::sync::Arc;

pub use expect::{Ending, Expected, Mismatch, Tally};
pub use find::{Runner, record};
pub use parse::TraceError;
pub use replay::{Line, ReplayError, Replayed, follow, replay};
pub use shrink::shrink;

use crate::machine::Setup;
use crate::world::Step;

/// A machine, the steps that it takes, and what must come of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trace {
    /// The machine.
    pub setup: Arc<Setup>,
    /// The steps.
    pub steps: Vec<Step>,
    /// The steps from this one on (counted from 0) go on again and again.
    pub cycle: Option<usize>,
    /// What must come of it.
    pub expected: Vec<Expected>,
    /// The line of each step in the file that it was read from; empty where it was not.
    pub lines: Vec<usize>,
}

impl Trace {
    /// A trace that says nothing of what comes of it.
    pub fn new(setup: Arc<Setup>, steps: Vec<Step>) -> Trace {
        Trace {
            setup,
            steps,
            cycle: None,
            expected: Vec::new(),
            lines: Vec::new(),
        }
    }
}
