//! Runs of the built-in guest on the host's KVM.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod accesses;
mod broken;
mod healthy;
mod irqchip;
mod kernel_apf;
mod limits;
mod linux_alone;
mod many_faults;
mod no_poison;
mod probe;
mod reports;
mod rig;
mod ring0;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use surefault_core::run::Irqchip;
use surefault_kvm::vm::{Faults, Vm};
use surefault_uffd::{Options, Userfaultfd};

/// A test: its name, and what it does.
pub(crate) type Case = (&'static str, fn());

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let lacking = lacking();
    let required = std::env::var("SUREFAULT_REQUIRE").unwrap_or_default();
    let required = |what: &str| required.split(',').any(|word| word == what);
    let trials = [
        healthy::CASES,
        reports::CASES,
        accesses::CASES,
        broken::CASES,
        limits::CASES,
        no_poison::CASES,
        ring0::CASES,
        many_faults::CASES,
        probe::CASES,
        linux_alone::CASES,
        kernel_apf::CASES,
        irqchip::CASES,
    ]
    .concat()
    .into_iter()
    .map(|(name, case)| match &lacking {
        None => Trial::test(name, move || {
            case();
            Ok(())
        }),
        Some((what, reason)) if required(what) => {
            let reason = format!("required: {reason}");
            Trial::test(name, move || Err(reason.into()))
        }
        Some((_, reason)) => Trial::test(name, || Ok(()))
            .with_kind(format!("skipped: {reason}"))
            .with_ignored_flag(true),
    })
    .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// What this host lacks, and in which words.
fn lacking() -> Option<(&'static str, String)> {
    if let Err(error) = Vm::new(Faults::Synchronous, Irqchip::Kernel) {
        return Some(("kvm", error.to_string()));
    }
    let uffd = Userfaultfd::create(Options::default());
    uffd.err().map(|error| ("uffd", error.to_string()))
}
