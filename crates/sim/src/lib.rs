//! A simulated machine around Surefault's two pure machines.
//!
//! The production types themselves ([`Residency`] and [`Faults`]) are driven by a small world that
//! has no time but its own:
//!
//! ```text
//!   Guest: tasks, run queues, waiters
//!      │ touches, acks        ▲ #PF, ready
//!      ▼                      │                              fetch
//!   Faults ──── work, wait ───────────────►  Residency  ◄────────────► Source: the fault plan
//!          ◄─── settled ───────────────────                data, error, silence
//!   └────────────────── Machine ────────────────────┘
//!          ▲ Input             │ Output, Pick
//!          │                   ▼
//!   Sim: time, a seed                 World: whoever asks
//! ```
//!
//! [`machine`] is the state, without time and choice. [`Sim`] chooses by simulated time and a seed,
//! and counts; [`world`] leaves the choice to a model checker or to a trace.
//!
//! It takes the same [`RunSpec`](surefault_core::run::RunSpec) as the runner on real KVM and gives
//! the same [`RunResult`](surefault_core::run::RunResult), with [`Counts`] beside it. The same
//! [`SimSpec`] gives the same result anywhere: nothing is random but by seed. Every run is bounded,
//! in simulated time by `timeout`, and in steps.
//!
//! [`Residency`]: surefault_core::residency::Residency
//! [`Faults`]: surefault_core::faults::Faults

mod agenda;
pub mod compare;
pub mod machine;
mod result;
mod scheduler;
mod sim;
mod source;
mod spec;
#[cfg(test)]
mod tests;
pub mod trace;
pub mod workloads;
pub mod world;

pub use result::{Counts, Histogram, Measured, SimResult};
pub use sim::Sim;
pub use spec::{Deaths, Host, OnReport, Scheduling, SimError, SimSpec};

use surefault_core::policy::AnyPolicy;

/// Runs `spec` to its end, under the policy it names.
///
/// # Errors
/// When `spec` makes no sense.
pub fn run(spec: &SimSpec) -> Result<SimResult, SimError> {
    Ok(Sim::<AnyPolicy>::new(spec)?.run())
}
