//! Combinations of flags that mean nothing, and what does not exist yet.

use surefault_core::PageIndex;
use surefault_core::plan::PageSet;

use crate::args::{Apf, MachineChoice, OnError, PagerChoice, RunArgs};
use crate::exit::Failure;

/// Refuses what cannot be run.
pub(crate) fn check(args: &RunArgs) -> Result<(), Failure> {
    let not_yet = |what: &str, instead: &str| {
        Err(Failure::usage(format_args!(
            "{what} is not available yet (there is {instead})"
        )))
    };
    match args.machine {
        MachineChoice::Auto | MachineChoice::Kvm => {}
        MachineChoice::Sim => return not_yet("--machine sim", "--machine kvm"),
    }
    match args.pager {
        PagerChoice::Surefault => {}
        PagerChoice::None => return not_yet("--pager none", "--pager surefault"),
    }
    if args.policy.is_some() && args.apf == Apf::Off {
        return Err(Failure::usage(
            "--policy means nothing with --apf off: it is about asynchronous faults",
        ));
    }
    match args.apf {
        Apf::Off => {}
        Apf::Kernel => return not_yet("--apf kernel", "--apf off"),
        Apf::User => return not_yet("--apf user", "--apf off"),
    }
    match args.on_error {
        OnError::Exit => {}
        OnError::Stop => return not_yet("--on-error stop", "--on-error exit"),
        OnError::Guest => return not_yet("--on-error guest", "--on-error exit"),
    }
    if let Some(page) = beyond(args) {
        let (pages, last) = (args.pages, args.pages - 1);
        return Err(Failure::usage(format_args!(
            "--fail names page {page}, but with --pages {pages} the last page is {last}"
        )));
    }
    Ok(())
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
