//! `run --soak`: random runs for as long as asked, with everything held that must hold of any run.
//!
//! Each run is a command line made from its seed, and so is what is done about its reports: a soak
//! of one run with that seed is the same run again.

mod drawn;
mod holds;
mod json;

use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe};
use std::time::{Duration, Instant};

use clap::Parser as _;
use surefault_core::run::{ApfMode, Outcome, RunSpec};

use crate::args::{Cli, Command, Format, RunArgs};
use crate::exit::{Exit, Failure};
use crate::machine::Ran;
use crate::output::{print, print_json};
use crate::progress::ProgressLine;
use crate::{kvm, run, store, text};

use drawn::Reacting;

/// What came of a soak.
#[derive(Default)]
struct Soak {
    first: u64,
    runs: u64,
    /// How the runs ended, by the words of their outcomes.
    outcomes: BTreeMap<&'static str, u64>,
    /// Runs for which the host lacks something, and what.
    skipped: (u64, Option<String>),
    violation: Option<Violation>,
    elapsed: Duration,
}

/// Something that must hold, and did not.
struct Violation {
    seed: u64,
    what: String,
    run: String,
    repeat: String,
}

/// Runs one random run after the other until `length` is over or something does not hold.
pub(crate) fn soak(args: &RunArgs, length: Duration) -> Result<Exit, Failure> {
    let started = Instant::now();
    let first = args.seed.unwrap_or_default();
    let mut soak = Soak {
        first,
        ..Soak::default()
    };
    let mut line = ProgressLine::new();
    while soak.runs == 0 || started.elapsed() < length {
        let seed = first.wrapping_add(soak.runs);
        line.show(&format!("seed {seed}, {}", text::time(started.elapsed())));
        let flags = drawn::flags(seed);
        soak.runs += 1;
        if let Some(what) = one(seed, &flags, &mut soak)? {
            soak.violation = Some(Violation {
                seed,
                what,
                run: flags.join(" "),
                repeat: format!("surefault run --soak 1ms --seed {seed}"),
            });
            break;
        }
    }
    line.clear();
    soak.elapsed = started.elapsed();
    match args.format {
        Format::Text => print(&soak.text())?,
        Format::Json => print_json(&json::Output::of(&soak))?,
    }
    Ok(match soak.violation {
        Some(_) => Exit::Found,
        None => Exit::Ran,
    })
}

/// Makes the run of `seed`, and says what does not hold of it.
fn one(seed: u64, flags: &[String], soak: &mut Soak) -> Result<Option<String>, Failure> {
    let threads = threads();
    let args = match Cli::try_parse_from(flags).map(|cli| cli.command) {
        Ok(Command::Run(args)) => args,
        other => return Ok(Some(format!("its own flags make no run: {other:?}"))),
    };
    let spec = run::spec(&args)?;
    let mut reacting = Reacting::new(seed, spec.on_error);
    let ran = panic::catch_unwind(AssertUnwindSafe(|| played(&args, &spec, &mut reacting)));
    let ran = match ran {
        Ok(Ok(ran)) => ran,
        // An older kernel; without KVM or userfaultfd there is nothing to soak.
        Ok(Err(failure)) if failure.exit == Exit::Host && spec.apf == ApfMode::User => {
            soak.skipped.0 += 1;
            soak.skipped.1 = Some(failure.to_string());
            return Ok(None);
        }
        Ok(Err(failure)) if failure.exit == Exit::Host => return Err(failure),
        Ok(Err(failure)) => return Ok(Some(failure.to_string())),
        Err(_) => return Ok(Some("it panicked".to_owned())),
    };
    *soak.outcomes.entry(word(ran.result.outcome)).or_default() += 1;
    Ok(holds::violation(&spec, &ran, &reacting).or_else(|| left_behind(threads)))
}

fn played(args: &RunArgs, spec: &RunSpec, reacting: &mut Reacting) -> Result<Ran, Failure> {
    let source = store::open(args, run::host_page_size())?;
    kvm::run(spec, source, reacting)
}

impl Soak {
    fn text(&self) -> String {
        let took = text::time(self.elapsed);
        if let Some(violation) = &self.violation {
            return format!(
                "seed {}: {}\n  the run: {}\n  to repeat it: {}\n",
                violation.seed, violation.what, violation.run, violation.repeat
            );
        }
        let mut text = format!(
            "{} runs, seeds {} to {}, {took}: everything held\n",
            self.runs,
            self.first,
            self.first.wrapping_add(self.runs - 1)
        );
        let outcomes = self.outcomes.iter();
        let outcomes: Vec<_> = outcomes.map(|(word, n)| format!("{n} {word}")).collect();
        text += &format!("  {}\n", outcomes.join(", "));
        if let (skipped, Some(reason)) = &self.skipped {
            text += &format!("  skipped: {skipped} with --apf user: {reason}\n");
        }
        text
    }
}

/// The word for it, as in JSON.
const fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Finished => "finished",
        Outcome::Reported => "reported",
        Outcome::Looped => "looped",
        Outcome::TimedOut => "timed-out",
        Outcome::Cancelled => "cancelled",
    }
}

/// A thread that a run has left behind.
fn left_behind(before: usize) -> Option<String> {
    let begun = Instant::now();
    // One that has been joined may still be on its way out.
    while threads() > before && begun.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let now = threads();
    (now > before).then(|| format!("{} threads are left behind", now - before))
}

/// Threads of this process; 0 where nobody says.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}
