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
mod on_error_guest;
mod on_error_stop;
mod probe;
mod reports;
mod rig;
mod ring0;
mod stage;
mod user_apf;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};
use surefault_core::run::Irqchip;
use surefault_kvm::vm::{Faults, Vm};
use surefault_uffd::{Options, Userfaultfd};

/// A test: its name, and what it does.
pub(crate) type Case = (&'static str, fn());

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let lacking = lacking();
    let unkickable = rig::from_user_space().err().map(|error| ("kvm", error));
    let everywhere = [
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
        on_error_guest::CASES,
        on_error_stop::CASES,
    ]
    .concat();
    let from_user_space = [user_apf::CASES, ring0::FROM_USER_SPACE].concat();
    let trials = trials(everywhere, lacking.as_ref())
        .chain(trials(
            from_user_space,
            lacking.as_ref().or(unkickable.as_ref()),
        ))
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    match left_behind() {
        0 => conclusion.exit_code(),
        threads => {
            eprintln!("{threads} threads are left behind by the tests");
            ExitCode::FAILURE
        }
    }
}

/// Threads that are still there beside this one, after a time in which they could have ended.
fn left_behind() -> usize {
    let begun = Instant::now();
    loop {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let left = tasks.count() - 1;
        if left == 0 || begun.elapsed() > Duration::from_secs(10) {
            return left;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The cases, or why they cannot run.
fn trials<'a>(
    cases: Vec<Case>,
    lacking: Option<&'a (&'static str, String)>,
) -> impl Iterator<Item = Trial> + use<'a> {
    let required = std::env::var("SUREFAULT_REQUIRE").unwrap_or_default();
    let required = move |what: &str| required.split(',').any(|word| word == what);
    cases.into_iter().map(move |(name, case)| match lacking {
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
}

/// What this host lacks, and in which words.
fn lacking() -> Option<(&'static str, String)> {
    if let Err(error) = Vm::new(Faults::Synchronous, Irqchip::Kernel) {
        return Some(("kvm", error.to_string()));
    }
    let uffd = Userfaultfd::create(Options::default());
    uffd.err().map(|error| ("uffd", error.to_string()))
}
