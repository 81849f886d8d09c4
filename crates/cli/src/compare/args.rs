//! What can be written after `surefault compare`.

use std::path::PathBuf;

use clap::Args;
use surefault_core::policy::PolicyKind;

use crate::args::{Format, MachineChoice, policy_parser};

#[derive(Args, Clone, Debug)]
pub(crate) struct CompareArgs {
    /// The machine to play on: simulated, or real vCPUs with asynchronous faults from user space,
    /// which can play one, crowd, ghost, collide, flaky and repair.
    #[arg(long, value_enum, default_value_t = MachineChoice::Sim)]
    pub(crate) machine: MachineChoice,

    /// A workload by name (one, crowd, ghost, collide, flaky, kernel, migrate, shadow, repair, masked,
    /// storm) or a TOML file that changes one. May be given several times [default: all that ship].
    #[arg(long, value_name = "NAME|FILE")]
    pub(crate) workload: Vec<String>,

    /// Tasks [default: the workload's own].
    #[arg(long, value_name = "N")]
    pub(crate) tasks: Option<u16>,

    /// Pages that fail, dealt round-robin to the tasks [default: the workload's own].
    #[arg(long, value_name = "N")]
    pub(crate) failing: Option<u32>,

    /// vCPUs, to which the tasks are dealt round-robin [default: the workload's own].
    #[arg(long, value_name = "N")]
    pub(crate) vcpus: Option<u16>,

    /// Runs of each policy, with the seeds 0 to N-1.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(crate) seeds: u64,

    /// A policy to play. May be given several times [default: all].
    #[arg(long, value_name = "POLICY", value_parser = policy_parser())]
    pub(crate) policy: Vec<PolicyKind>,

    /// Also draw figures for each workload: how the retries are distributed the more tasks fail, and
    /// progress over time around an error. The ending decides the form: .svg or .html.
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,

    /// Also write the run of each policy with seed 0 down, step by step, for `surefault replay`:
    /// DIR/WORKLOAD-POLICY.trace.
    #[arg(long, value_name = "DIR")]
    pub(crate) traces: Option<PathBuf>,

    /// The form of the result on standard output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}
