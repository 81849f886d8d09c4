//! What can be written after `surefault replay`.

use std::path::PathBuf;

use clap::Args;
use surefault_core::policy::PolicyKind;

use crate::args::{Format, policy_parser};

#[derive(Args, Clone, Debug)]
pub(crate) struct ReplayArgs {
    /// The trace, as `run --trace`, `compare --traces` or a model checker writes it.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,

    /// Play it under this policy instead of its own: steps that are not possible then are passed over,
    /// and the machine is left to itself after the last, in a fair order, until it ends or loops.
    #[arg(long, value_name = "POLICY", value_parser = policy_parser())]
    pub(crate) policy: Option<PolicyKind>,

    /// Make it as short as possible first, so that it still shows the same; as text, the short trace
    /// is all that is printed.
    #[arg(long)]
    pub(crate) shrink: bool,

    /// The form of the result on standard output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}
