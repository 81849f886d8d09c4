//! What can be written on the command line. The words mean the same in every command.

mod run;

use clap::{Args, Parser, Subcommand, ValueEnum};
use surefault_core::run as core;
use surefault_core::run::{ApfMode, PagerMode};

pub(crate) use run::{RunArgs, policy_parser, positive};

use crate::bench::BenchArgs;
use crate::watch::WatchArgs;

/// Memory on demand for KVM guests, in which every page fault ends: with the page, or with an error
/// that names it.
#[derive(Parser, Debug)]
#[command(name = "surefault", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run the built-in guest on demand-paged memory, until it is done or a page fails.
    ///
    /// Exit codes: 0 the guest finished; 2 bad usage or input; 3 a page failed and was reported;
    /// 4 the time limit was reached; 5 the host lacks something; 6 the run was stopped; 1 anything
    /// unexpected.
    Run(RunArgs),

    /// Show what happens when a page cannot be provided: with Linux alone, and with Surefault.
    ///
    /// One guest, one bad page, a few seconds. Exit codes: 0 the story went as told; 1 it did not;
    /// 5 the host lacks something.
    Demo(DemoArgs),

    /// Find out what this host can do, and whether its kernel loops on a page that fails.
    ///
    /// Takes about a second: each mode is tried with a page that fails. Exit codes: 0 something
    /// works; 5 nothing does, and what to do about it.
    Probe(ProbeArgs),

    /// Play the published error policies side by side, on the simulated machine.
    ///
    /// One row for each policy and workload. Exit codes: 0 it was played; 2 bad usage or input.
    Compare(crate::compare::CompareArgs),

    /// Explore every interleaving of a small system, and say which promises hold under each policy.
    ///
    /// The production machines in the simulated world. Exit codes: 0 everything holds; 2 bad usage or
    /// input; 3 something is violated; 6 a limit was reached before everything was seen.
    Check(crate::checker::CheckArgs),

    /// Play a saved trace, step by step, on the simulated machine.
    ///
    /// Exit codes: 0 it came to what the trace expects, if it expects anything; 2 bad usage or input; 3
    /// it came to something else.
    Replay(crate::replay::ReplayArgs),

    /// Find machines of this host, anybody's, that are stuck in a page fault or frozen on one, and
    /// say why.
    ///
    /// Exit codes: 0 nothing was found; 2 bad usage; 3 something was found; 5 the host lacks what is
    /// needed to look; 6 stopped before the time was over, and nothing found until then; 1 anything
    /// unexpected.
    Watch(WatchArgs),

    /// Serve the memory of microVMs that other processes run (Firecracker and its relatives).
    ///
    /// A VMM connects to a socket and hands over its page faults, which are then served from the
    /// socket's file; which page cannot be provided is told on standard error, once for each. SIGTERM
    /// or SIGINT: nobody else is accepted, and the daemon ends when its VMs have; a second one ends it
    /// at once, and kills VMs that lack pages, which they would read as zeros.
    ///
    /// Exit codes: 0 all VMs have ended; 2 bad usage or input; 5 the host lacks something; 6 it was
    /// stopped at once; 1 anything unexpected.
    Serve(crate::serve::ServeArgs),

    /// Tell a daemon, or a run that has stopped, something, by its control socket.
    ///
    /// Exit codes: 0 it did; 2 it did not, and why; 1 anything unexpected.
    Ctl(crate::ctl::CtlArgs),

    /// Play a VMM that is served by the daemon: every byte of every page is looked at.
    ///
    /// Exit codes: 0 all pages were right; 2 bad usage or input; 3 pages could not be read, or were
    /// wrong; 5 the host lacks something; 1 anything unexpected.
    AttachDemo(crate::attach_demo::AttachDemoArgs),

    /// Measure what serving page faults costs on this host.
    Bench(BenchArgs),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct DemoArgs {
    /// The machine to show it on. The first line of the output says which it is.
    #[arg(long, value_enum, default_value_t = MachineChoice::Auto)]
    pub(crate) machine: MachineChoice,

    /// The form of the story on standard output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ProbeArgs {
    /// The form of what was found on standard output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MachineChoice {
    /// KVM; simulated only where there is no /dev/kvm, and neither a --store, nor Linux itself
    /// (--pager none, --apf kernel), nor --irqchip user was asked for.
    Auto,
    /// A virtual machine on /dev/kvm.
    Kvm,
    /// The simulated machine: the same engine, with a guest, a source and a clock of its own.
    Sim,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PagerChoice {
    /// Surefault, from user space.
    Surefault,
    /// Linux alone: the source is mapped directly, and --deadline and --attempts mean nothing.
    None,
}

impl From<PagerChoice> for PagerMode {
    fn from(pager: PagerChoice) -> PagerMode {
        match pager {
            PagerChoice::Surefault => PagerMode::Surefault,
            PagerChoice::None => PagerMode::None,
        }
    }
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Apf {
    /// Nobody: every fault is synchronous.
    Off,
    /// Linux (the simulated machine plays its rules and its policy, retry).
    Kernel,
    /// Surefault, from user space, under --policy.
    User,
}

impl From<Apf> for ApfMode {
    fn from(apf: Apf) -> ApfMode {
        match apf {
            Apf::Off => ApfMode::Off,
            Apf::Kernel => ApfMode::Kernel,
            Apf::User => ApfMode::User,
        }
    }
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Irqchip {
    /// In KVM. Faults are kept synchronous by guest HLTs that do not exit, which on some hosts
    /// costs a core while the guest idles.
    Kernel,
    /// In this process: HLT exits, and the vCPU's thread sleeps. Linux then takes every fault
    /// synchronously, so not with --apf kernel.
    User,
}

impl From<Irqchip> for core::Irqchip {
    fn from(irqchip: Irqchip) -> core::Irqchip {
        match irqchip {
            Irqchip::Kernel => core::Irqchip::Kernel,
            Irqchip::User => core::Irqchip::User,
        }
    }
}

impl From<OnError> for core::OnError {
    fn from(on_error: OnError) -> core::OnError {
        match on_error {
            OnError::Exit => core::OnError::Exit,
            OnError::Stop => core::OnError::Stop,
            OnError::Guest => core::OnError::Guest,
        }
    }
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OnError {
    /// The run ends with the report.
    Exit,
    /// The guest is paused, the vCPU at the faulting instruction, until the page can be had after
    /// all, or `surefault ctl PATH resume` has it go on (--control PATH). Not on the simulated
    /// machine.
    Stop,
    /// The guest is told, by a machine check or by the error word of "page ready", and kills the
    /// task. Where it cannot be told the run ends with the report.
    Guest,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// One JSON object, whose fields docs/json.md describes.
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }
}
