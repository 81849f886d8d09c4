//! Who explores.

use std::error::Error;
use std::str::FromStr;

use stateright::{Checker, Model as _};
use surefault_check::system::{Config, System, weight};
use surefault_check::{Limits, explore};
use surefault_core::policy::PolicyKind;

use crate::measure::{Measured, measure};
use crate::reached::Shared;

/// An explorer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Engine {
    /// The checker's own.
    Surefault,
    /// stateright's, breadth first.
    Stateright,
    /// The same, with worlds cloned into those that it has dropped, as the checker's own does. It has
    /// no such thing itself: this tells the engine from the model.
    StaterightSpare,
}

impl Engine {
    /// All of them; the one that the others are held against comes first.
    pub const ALL: [Engine; 3] = [
        Engine::Surefault,
        Engine::Stateright,
        Engine::StaterightSpare,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Surefault => "surefault-check",
            Engine::Stateright => "stateright",
            Engine::StaterightSpare => "stateright-spare",
        }
    }

    /// Explores the system, in so many threads.
    pub fn explore(self, threads: usize) -> Result<Measured, Box<dyn Error>> {
        let system = System::new(&Config::one_vcpu(PolicyKind::Exact))?;
        match self {
            Engine::Surefault => {
                let limits = Limits {
                    threads,
                    ..Limits::default()
                };
                let mut fine = false;
                let measured = measure(|| {
                    let found = explore(&system, &limits, weight, |_| {});
                    fine = found.is_complete && found.broken.iter().all(Option::is_none);
                    (found.graph.states(), found.graph.edges(), found)
                })?;
                fine.then_some(measured).ok_or_else(not_fine)
            }
            Engine::Stateright | Engine::StaterightSpare => {
                let shared = Shared::new(system, self == Engine::StaterightSpare);
                let mut fine = false;
                let measured = measure(|| {
                    let found = shared.checker().threads(threads).spawn_bfs().join();
                    fine = found.is_done() && found.discoveries().is_empty();
                    // It counts the state that it began with as one that a step led to.
                    (found.unique_state_count(), found.state_count() - 1, found)
                })?;
                fine.then_some(measured).ok_or_else(not_fine)
            }
        }
    }
}

fn not_fine() -> Box<dyn Error> {
    "the exploration is incomplete, or a property is violated".into()
}

impl FromStr for Engine {
    type Err = String;

    fn from_str(word: &str) -> Result<Engine, String> {
        let mut all = Engine::ALL.into_iter();
        let engine = all.find(|engine| engine.name() == word);
        engine.ok_or_else(|| format!("no engine is called {word:?}"))
    }
}
