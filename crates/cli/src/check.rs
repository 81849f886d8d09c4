//! Combinations of flags that mean nothing.

use surefault_core::PageIndex;
use surefault_core::plan::PageSet;

use crate::args::{Apf, Irqchip, OnError, PagerChoice, RunArgs};
use crate::exit::Failure;
use crate::machine::Machine;

/// Refuses what cannot be run.
pub(crate) fn check(args: &RunArgs, machine: Machine) -> Result<(), Failure> {
    policy(args)?;
    if (args.pager, args.apf) == (PagerChoice::None, Apf::User) {
        return Err(Failure::usage(
            "--apf user means nothing with --pager none: Linux alone runs its own asynchronous \
             faults (--apf kernel), or none (--apf off)",
        ));
    }
    match machine {
        Machine::Kvm => on_kvm(args)?,
        Machine::Simulated => on_simulated(args)?,
    }
    if args.control.is_some() && args.on_error != OnError::Stop {
        return Err(Failure::usage(
            "--control means nothing without --on-error stop: only a run that has stopped can be told \
             to go on",
        ));
    }
    match args.on_error {
        OnError::Exit => {}
        OnError::Stop => {}
        OnError::Guest if args.pager == PagerChoice::None => {
            return Err(Failure::usage(
                "--on-error guest means nothing with --pager none: Linux alone tells no guest that \
                 a page has failed",
            ));
        }
        OnError::Guest => {}
    }
    if let Some(page) = beyond(args) {
        let (pages, last) = (args.pages, args.pages - 1);
        return Err(Failure::usage(format_args!(
            "--fail names page {page}, but with --pages {pages} the last page is {last}"
        )));
    }
    Ok(())
}

fn policy(args: &RunArgs) -> Result<(), Failure> {
    match args.apf {
        _ if args.policy.is_none() => Ok(()),
        Apf::Off => Err(Failure::usage(
            "--policy means nothing with --apf off: it is about asynchronous faults",
        )),
        Apf::Kernel => Err(Failure::usage(
            "--policy means nothing with --apf kernel: Linux runs the asynchronous faults, and has \
             one policy, retry (to try others: --apf user)",
        )),
        Apf::User => Ok(()),
    }
}

fn on_kvm(args: &RunArgs) -> Result<(), Failure> {
    if args.trace.is_some() {
        return Err(Failure::usage(
            "--trace writes down the steps of the simulated machine; KVM does not tell its own (use \
             --machine sim)",
        ));
    }
    if (args.apf, args.irqchip) == (Apf::Kernel, Irqchip::User) {
        return Err(Failure::usage(
            "--apf kernel means nothing with --irqchip user: Linux takes a fault asynchronously only \
             for a guest whose interrupt controllers are in KVM (use --irqchip kernel, or --apf off)",
        ));
    }
    Ok(())
}

fn on_simulated(args: &RunArgs) -> Result<(), Failure> {
    if args.irqchip == Irqchip::User {
        return Err(Failure::usage(
            "--irqchip means nothing with --machine sim: the simulated machine has no interrupt \
             controllers",
        ));
    }
    if args.on_error == OnError::Stop {
        return Err(Failure::usage(
            "--on-error stop means nothing with --machine sim: a simulated run has nobody outside who \
             could have it go on",
        ));
    }
    match args.store {
        None => Ok(()),
        Some(_) => Err(Failure::usage(
            "--store means nothing with --machine sim: simulated pages have no contents",
        )),
    }
}

/// A page named by `--fail` that the guest does not have.
fn beyond(args: &RunArgs) -> Option<PageIndex> {
    let rules = args.fail.iter().filter_map(|fail| fail.0.as_ref());
    let mut lasts = rules.flat_map(|rule| match &rule.pages {
        PageSet::Ranges(ranges) => ranges.iter().map(|&(_, last)| last).collect(),
        PageSet::Random(_) => Vec::new(),
    });
    lasts.find(|last| u64::from(last.get()) >= args.pages)
}
