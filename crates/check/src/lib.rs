//! Explores every interleaving of a small machine, and says which promises hold on all of them.
//!
//! ```text
//!   Model ──────── steps ────────► explore ────► Graph ────► liveness ────► Verdict
//!             breadth first, both cores     states, edges     fair cycles      │
//!                                                                              ▼
//!                                                     Counterexample: stem, and cycle
//! ```
//!
//! | room | what is in it |
//! |---|---|
//! | [`model`] | what can be checked: states, actions, properties, fairness |
//! | [`explore`](mod@explore) | breadth-first search over all cores, safety on the way |
//! | [`graph`] | the states and edges that were found, in few bytes each |
//! | [`liveness`] | cycles on which an obligation stays open although everybody is treated fairly |
//! | [`verdict`] | what came of it |
//! | [`system`] | the model that matters: the production machines in the simulator's world |
//!
//! **Safety** is judged at every step, and breadth-first search makes the counterexample a shortest
//! one. **Liveness** is judged on the stored graph: an obligation is a predicate of states that must
//! not stay true for ever, so its counterexample is a *lasso*, a way to a cycle on which it is true
//! throughout, and which is fair. Endless retry is such a cycle.
//!
//! States are told apart by a fingerprint of 64 bits. Two different ones among `n` share one with a
//! probability of about `n² / 2⁶⁵`: 3 in a million for ten million states. Then part of the graph
//! would be missed; what is reported as violated is replayed and is always real.

pub mod explore;
mod fingerprints;
pub mod graph;
pub mod liveness;
pub mod model;
pub mod system;
pub mod verdict;

pub use explore::{Explored, Limits, Progress, explore};
pub use model::{Class, Fairness, Model, Next};
pub use verdict::{Counterexample, Verdict};
