//! `run --soak`: random runs for as long as asked, with everything held that must hold of any run.
//!
//! Each run is a command line made from its seed, so that the command that is printed for a failure
//! is what was run.

use std::time::{Duration, Instant};

use clap::Parser as _;
use surefault_core::plan::{FailureMode, mix};
use surefault_core::policy::PolicyKind;
use surefault_core::run::{ApfMode, Outcome, RunSpec};

use crate::args::{Cli, Command, RunArgs};
use crate::exit::{Exit, Failure};
use crate::machine::Ran;
use crate::output::print;
use crate::{kvm, run, store};

/// Runs one random run after the other until `length` is over or something does not hold.
pub(crate) fn soak(args: &RunArgs, length: Duration) -> Result<Exit, Failure> {
    let started = Instant::now();
    let first = args.seed.unwrap_or_default();
    let mut seed = first;
    while seed == first || started.elapsed() < length {
        let flags = flags(seed);
        let threads = threads();
        let held = match Cli::try_parse_from(&flags).map(|cli| cli.command) {
            Ok(Command::Run(args)) => {
                let spec = run::spec(&args)?;
                let source = store::open(&args, run::host_page_size())?;
                let ran = kvm::run(&spec, source, &mut ())?;
                violation(&spec, &ran).or_else(|| left_behind(threads))
            }
            other => Some(format!("the soak's own flags make no run: {other:?}")),
        };
        if let Some(what) = held {
            print(&format!(
                "seed {seed}: {what}\n  to repeat it: {}\n",
                flags.join(" ")
            ))?;
            return Ok(Exit::Found);
        }
        seed += 1;
    }
    let (runs, took) = (seed - first, crate::text::time(started.elapsed()));
    print(&format!(
        "{runs} runs, seeds {first} to {}, {took}: everything held\n",
        seed - 1
    ))?;
    Ok(Exit::Ran)
}

/// The command line of one run.
fn flags(seed: u64) -> Vec<String> {
    let mut drawn = 0;
    let mut draw = |of: u64| {
        drawn += 1;
        mix(seed ^ mix(drawn)) % of
    };
    let mut pick = |of: &[&str]| of[draw(of.len() as u64) as usize].to_owned();
    let apf = pick(&["off", "kernel", "user", "user"]);
    let vcpus = pick(&["1", "2"]);
    let tasks = pick(&["1", "2", "5", "8", "12"]);
    let pages = pick(&["16", "64", "200"]);
    let latency = pick(&["0ms", "20us..200us", "20us..2ms", "1ms", "20us..10ms"]);
    let fail = pick(&[
        "none",
        "none",
        "p=0.05",
        "p=0.2:temporary=1",
        "p=0.1:temporary=5",
        "p=0.02:truncate",
    ]);
    let attempts = pick(&["1", "3"]);
    let policies: Vec<&str> = PolicyKind::ALL.iter().map(|kind| kind.as_str()).collect();
    let policy = pick(&policies);
    let mut flags = vec!["surefault".to_owned(), "run".to_owned()];
    let seed = seed.to_string();
    for (flag, value) in [
        ("--machine", "kvm"),
        ("--apf", &apf),
        ("--vcpus", &vcpus),
        ("--tasks", &tasks),
        ("--pages", &pages),
        ("--latency", &latency),
        ("--fail", &fail),
        ("--attempts", &attempts),
        ("--seed", &seed),
    ] {
        flags.extend([flag.to_owned(), value.to_owned()]);
    }
    if apf == "user" {
        flags.extend(["--policy".to_owned(), policy.clone()]);
    }
    // A loop is told at the limit; nothing else comes near one.
    let loops = apf == "user" && may_loop(&policy);
    let timeout = if loops { "5s" } else { "60s" };
    flags.extend(["--timeout".to_owned(), timeout.to_owned()]);
    flags
}

/// These end in a loop: by design, or where luck does not have it otherwise.
fn may_loop(policy: &str) -> bool {
    policy == PolicyKind::Retry.as_str() || policy == PolicyKind::ErrorGfn.as_str()
}

/// What does not hold of a run.
fn violation(spec: &RunSpec, ran: &Ran) -> Option<String> {
    let (result, stats) = (&ran.result, &ran.result.stats);
    let fails = (0..spec.pages.get() as u32)
        .map(surefault_core::PageIndex::new)
        .any(|page| spec.plan.mode_of(page) != FailureMode::Healthy);
    let loops = spec.apf == ApfMode::User && may_loop(spec.policy.as_str());
    let ends_well = match result.outcome {
        Outcome::Finished => {
            let over = stats.tasks_finished + stats.tasks_killed;
            over == spec.tasks && stats.tokens_left == 0
        }
        Outcome::Reported => result.report.as_ref().is_some_and(|reported| {
            fails && spec.plan.mode_of(reported.page) != FailureMode::Healthy
        }),
        // A busy host may not get round often enough to call it a loop.
        Outcome::Looped | Outcome::TimedOut => loops && fails,
        Outcome::Cancelled => false,
    };
    let count = |name: &str| stats.pager.get(name).copied().unwrap_or(0);
    let holds = [
        (ends_well, "it ended as it must not"),
        (stats.wrong_sums == 0, "a sum is wrong"),
        (stats.unchecked_sums == 0, "a sum could not be checked"),
        (
            count("strange_events") == 0,
            "the pager met something strange",
        ),
        (
            stats.apf.get("unreachable").copied().unwrap_or(0) == 0,
            "the guest's shared area could not be written",
        ),
    ];
    let (_, what) = holds.into_iter().find(|&(holds, _)| !holds)?;
    Some(format!("{what}: {result:?}"))
}

/// A thread that a run has left behind.
fn left_behind(before: usize) -> Option<String> {
    let now = threads();
    (now > before).then(|| format!("{} threads are left behind", now - before))
}

/// Threads of this process; 0 where nobody says.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_makes_a_command_line() {
        for seed in 0..500 {
            let flags = flags(seed);
            let cli = Cli::try_parse_from(&flags);
            assert!(cli.is_ok(), "{flags:?}: {cli:?}");
            assert_eq!(flags, super::flags(seed));
        }
    }
}
