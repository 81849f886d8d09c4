//! What can be said of a run.

use core::time::Duration;
use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use surefault_core::plan::{Latency, Rule, parse_duration};
use surefault_core::policy::PolicyKind;

use super::{Apf, Format, Irqchip, MachineChoice, OnError, PagerChoice};

#[derive(Args, Clone, Debug)]
pub(crate) struct RunArgs {
    /// The machine to run on. The first line of the output says which it is.
    #[arg(long, value_enum, default_value_t = MachineChoice::Auto)]
    pub(crate) machine: MachineChoice,

    /// Who provides the pages.
    #[arg(long, value_enum, default_value_t = PagerChoice::Surefault)]
    pub(crate) pager: PagerChoice,

    /// Who runs the guest's asynchronous page faults.
    #[arg(long, value_enum, default_value_t = Apf::Off)]
    pub(crate) apf: Apf,

    /// Where the guest's interrupt controllers are. Not on the simulated machine, which has none.
    #[arg(long, value_enum, default_value_t = Irqchip::Kernel)]
    pub(crate) irqchip: Irqchip,

    /// What is done about the error of an asynchronous fault, with --apf user [default: exact].
    /// With --apf kernel it is Linux that decides, and it has one policy: retry.
    #[arg(long, value_name = "POLICY", value_parser = policy_parser())]
    pub(crate) policy: Option<PolicyKind>,

    /// What happens when a page has failed.
    #[arg(long, value_enum, default_value_t = OnError::Exit)]
    pub(crate) on_error: OnError,

    /// A socket through which the run can be told to go on, with --on-error stop (`surefault ctl
    /// PATH resume`).
    #[arg(long, value_name = "PATH")]
    pub(crate) control: Option<PathBuf>,

    /// The file or block device that the pages come from [default: a seeded pattern]. Not on the
    /// simulated machine, whose pages have no contents.
    #[arg(long, value_name = "PATH")]
    pub(crate) store: Option<PathBuf>,

    /// Pages that fail, and how: `5`, `5,9-12:stall`, `p=0.01:temporary=2`, or `none`. May be given
    /// several times; the first that names a page decides.
    ///
    /// Ways to fail: permanent (the default), temporary=N (the first N attempts), stall (no answer),
    /// truncate (the source ends before the page). Pages are counted from 0 in the demand-paged
    /// region; p is each page's probability, drawn from the seed.
    #[arg(long, value_name = "SPEC", value_parser = fail)]
    pub(crate) fail: Vec<Fail>,

    /// A TOML file with more rules like those of --fail, which come first.
    #[arg(long, value_name = "FILE")]
    pub(crate) fault_plan: Option<PathBuf>,

    /// Tasks of the guest that touch pages, dealt round-robin to the vCPUs.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) tasks: u16,

    /// vCPUs.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) vcpus: u16,

    /// Pages of the demand-paged region.
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=MAX_PAGES))]
    pub(crate) pages: u64,

    /// Decides the order of touches, the pattern, and whatever a fault plan leaves to chance
    /// [default: 0, or the fault plan's].
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,

    /// How long the source takes for a page: `1ms`, or between two: `20us..5ms` [default: 0, or the
    /// fault plan's]. A time is a number and a unit: ns, us,
    /// ms or s.
    #[arg(long, value_name = "TIME")]
    pub(crate) latency: Option<Latency>,

    /// How long a page may take, all attempts together, before it has failed.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = positive)]
    pub(crate) deadline: Duration,

    /// Attempts at a page before it has failed.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) attempts: u8,

    /// How long the whole run may take, by the clock of its machine.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = positive)]
    pub(crate) timeout: Duration,

    /// Also write the run down, step by step, for `surefault replay`. On the simulated machine only.
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,

    /// Instead: random runs on KVM for this long, of all modes, policies and error actions, with
    /// everything checked that must hold; --seed is the first one's seed, and of the other flags only
    /// --format means anything. Stops at a run that does not hold (exit code 3), and prints the
    /// command that repeats it.
    #[arg(long, value_name = "TIME", value_parser = positive)]
    pub(crate) soak: Option<Duration>,

    /// The form of the result on standard output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

/// 64 GiB of 4 KiB pages: what the lists of touches of a run still fit into memory for.
const MAX_PAGES: u64 = 1 << 24;

/// A value of `--fail`: a rule, or none.
#[derive(Clone, Debug)]
pub(crate) struct Fail(pub(crate) Option<Rule>);

fn fail(spec: &str) -> Result<Fail, surefault_core::plan::ParsePlanError> {
    match spec {
        "none" => Ok(Fail(None)),
        spec => spec.parse().map(|rule| Fail(Some(rule))),
    }
}

pub(crate) fn positive(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("must be longer than 0".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

pub(crate) fn policy_parser() -> impl TypedValueParser<Value = PolicyKind> {
    let names = PolicyKind::ALL
        .iter()
        .map(|kind| PossibleValue::new(kind.as_str()).help(kind.help()));
    PossibleValuesParser::new(names).map(|name| name.parse().expect("one of the names"))
}
