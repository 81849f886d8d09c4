//! What can be written after `surefault check`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use surefault_check::system::Property;
use surefault_core::policy::PolicyKind;

use crate::args::Format;

#[derive(Args, Clone, Debug)]
pub(crate) struct CheckArgs {
    /// A policy, or all. May be given several times [default: all; with --deaths: exact].
    #[arg(long, value_name = "POLICY")]
    pub(crate) policy: Vec<PolicyChoice>,

    /// vCPUs.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) vcpus: u16,

    /// Tasks, dealt round-robin to the vCPUs. Task N wants page N, and so on around.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) tasks: u16,

    /// Pages.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) pages: u32,

    /// Pages that never come unless they are repaired: the first ones.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) failing: u32,

    /// Pages that come at the second attempt: those after the failing ones.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) healing: u32,

    /// Pages that each task wants, one after the other.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) touches: u32,

    /// Asynchronous faults that a vCPU may have queued.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) cap: u8,

    /// Addresses that error-gfn-table remembers for a vCPU.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) slots: u8,

    /// How the guest's page tables are walked.
    #[arg(long, value_enum, default_value_t = PagingChoice::Tdp)]
    pub(crate) paging: PagingChoice,

    /// Whether faults are asynchronous.
    #[arg(long, value_enum, default_value_t = OnOff::On)]
    pub(crate) apf: OnOff,

    /// Incidents in all, each kind once at most: a task is killed, a page is repaired, fails again,
    /// is removed, the guest turns asynchronous faults on or off, a task moves to another vCPU.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) incidents: u8,

    /// Deaths of the worker that serves the pages, between any two of its steps, on top of the
    /// incidents; another worker goes on from its records. Only exact remembers failures and can be
    /// gone on from.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    pub(crate) deaths: u8,

    /// A property to check. May be given several times [default: all].
    #[arg(long, value_name = "NAME")]
    pub(crate) property: Vec<Property>,

    /// Give up after so many states, with what is not violated by then `incomplete`.
    #[arg(long, value_name = "N", default_value_t = 20_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_states: u32,

    /// Write each counterexample into this directory, as a trace for `surefault replay`:
    /// POLICY-PROPERTY.trace.
    #[arg(long, value_name = "DIR")]
    pub(crate) traces: Option<PathBuf>,

    /// The form of the result on standard output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

/// One policy, or all of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PolicyChoice(Option<PolicyKind>);

impl PolicyChoice {
    pub(crate) fn policies(self) -> Vec<PolicyKind> {
        self.0
            .map_or_else(|| PolicyKind::ALL.to_vec(), |one| vec![one])
    }
}

impl std::str::FromStr for PolicyChoice {
    type Err = String;

    fn from_str(name: &str) -> Result<PolicyChoice, String> {
        match name {
            "all" => Ok(PolicyChoice(None)),
            name => name
                .parse()
                .map(|policy| PolicyChoice(Some(policy)))
                .map_err(|error: surefault_core::policy::UnknownPolicyError| {
                    format!("{error}, all")
                }),
        }
    }
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PagingChoice {
    /// Two-dimensional: by the hardware.
    Tdp,
    /// By KVM's shadow pages.
    Shadow,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OnOff {
    /// They are.
    On,
    /// They are not.
    Off,
}
