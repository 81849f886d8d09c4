//! What was found, for people: one screen.

use core::fmt::Write as _;
use core::time::Duration;
use std::io;

use surefault_core::run::ApfMode;
use surefault_kvm::probe::{
    Asynchronous, Experiment, HostPaging, Kvm, Mode, Probe, Problem, Refusal, Synchronous, Uffd,
};

use crate::text::{count, time};

pub(super) fn screen(found: &Probe) -> String {
    let mut text = format!("kernel       Linux {}\n", found.kernel);
    part(&mut text, "KVM", found.kvm.as_ref().map(kvm));
    part(
        &mut text,
        "userfaultfd",
        found.userfaultfd.as_ref().map(uffd),
    );
    match &found.experiment {
        Some(Ok(experiment)) => experimented(&mut text, experiment),
        Some(Err(error)) => {
            text += "\nA page that cannot be had, with Linux alone:\n";
            problem(&mut text, "", error);
        }
        None => {}
    }
    text += "\nSurefault, each mode tried with a page that cannot be had:\n";
    let told = [found.kvm.as_ref().err(), found.userfaultfd.as_ref().err()];
    for tried in &found.modes {
        mode(&mut text, tried, &told);
    }
    if !found.modes.iter().any(Mode::works) {
        text += "\nNothing works here. The simulated machine does: surefault demo --machine sim\n";
    }
    text
}

// Writing to a string does not fail, so what it says is of no interest below.

fn part(text: &mut String, name: &str, found: Result<String, &Problem>) {
    match found {
        Ok(found) => _ = writeln!(text, "{name:<13}{found}"),
        Err(error) => problem(text, &format!("{name:<13}"), error),
    }
}

fn problem(text: &mut String, name: &str, problem: &Problem) {
    let _ = writeln!(text, "{name}NO: {}", problem.what);
    if let Some(remedy) = &problem.remedy {
        let _ = writeln!(text, "{:<13}what to do: {remedy}", "");
    }
}

fn kvm(kvm: &Kvm) -> String {
    let names: Vec<&str> = kvm.modules.iter().map(|module| &*module.name).collect();
    let paging = match kvm.paging {
        HostPaging::TwoDimensional => "two-dimensional paging",
        HostPaging::Shadow => "shadow paging",
        HostPaging::Unknown => "paging of an unknown kind",
    };
    let lacking: Vec<&str> = (kvm.capabilities.iter())
        .filter(|capability| capability.value <= 0)
        .map(|capability| capability.name)
        .collect();
    let lacking = match lacking.is_empty() {
        true => "nothing that matters".to_owned(),
        false => lacking.join(", "),
    };
    let names = match names.is_empty() {
        true => "built in".to_owned(),
        false => names.join(", "),
    };
    format!("yes ({names}), {paging}; lacks {lacking}")
}

fn uffd(uffd: &Uffd) -> String {
    match uffd.poison {
        true => "yes, and failed pages can be poisoned".to_owned(),
        false => {
            "yes; failed pages are protected instead of poisoned (before Linux 6.6)".to_owned()
        }
    }
}

fn experimented(text: &mut String, experiment: &Experiment) {
    *text += "\nA page that cannot be had, with Linux alone:\n";
    let synchronous = match &experiment.synchronous {
        Synchronous::Refused(refusal) => refused(refusal),
        Synchronous::Endless => "KVM_RUN does not return".to_owned(),
    };
    let asynchronous = match &experiment.asynchronous {
        None => "this KVM has no asynchronous faults for a guest".to_owned(),
        Some(Asynchronous::Refused(refusal)) => format!("{}: no loop", refused(refusal)),
        Some(Asynchronous::Loops { faults, elapsed_ns }) => {
            let faults = count(*faults, "fault");
            let elapsed = time(Duration::from_nanos(*elapsed_ns));
            format!("THIS KERNEL LOOPS: {faults} in {elapsed}, and KVM_RUN did not return")
        }
        Some(Asynchronous::Undecided { faults }) => {
            let faults = count(*faults, "fault");
            format!("undecided: KVM_RUN did not return, after {faults}; try again on a quiet host")
        }
    };
    let _ = writeln!(text, "  synchronous   {synchronous}");
    let _ = writeln!(text, "  asynchronous  {asynchronous}");
}

fn refused(refusal: &Refusal) -> String {
    let error = io::Error::from_raw_os_error(refusal.errno);
    match refusal.named {
        Some(gpa) => format!("KVM_RUN fails: {error}, at gpa {gpa}"),
        None => format!("KVM_RUN fails: {error}, without saying where"),
    }
}

/// A mode; what stands in its way is not said again where it has been told.
fn mode(text: &mut String, mode: &Mode, told: &[Option<&Problem>]) {
    let name = match mode.apf {
        ApfMode::Off => "--apf off",
        ApfMode::Kernel => "--apf kernel",
        ApfMode::User => "--apf user",
    };
    let problems = || mode.problems.iter();
    let new = problems().find(|problem| !told.contains(&Some(problem)));
    match new {
        _ if mode.works() => _ = writeln!(text, "  {name:<14}works: the page is reported"),
        None => _ = writeln!(text, "  {name:<14}NO: see above"),
        Some(problem) => {
            let _ = writeln!(text, "  {name:<14}NO: {}", problem.what);
            if let Some(remedy) = &problem.remedy {
                let _ = writeln!(text, "  {:<14}what to do: {remedy}", "");
            }
        }
    }
}
