//! A replayed trace, for people.

use std::fmt::Write as _;

use surefault_sim::trace::{Ending, Line};

use super::Played;

/// Each step with what it did, and what came of all of them.
pub(super) fn played(played: &Played) -> String {
    let setup = &played.trace.setup;
    let mut text = String::new();
    let _ = writeln!(
        text,
        "machine: simulated, policy {}, {} vCPU(s), {} task(s), {} pages",
        played.policy,
        setup.faults.vcpus,
        setup.workload.tasks().len(),
        setup.workload.pages().get(),
    );
    let replayed = &played.replayed;
    let mut added = false;
    for (at, line) in replayed.lines.iter().enumerate() {
        if line.added && !added {
            added = true;
            text.push_str("left to itself:\n");
        }
        if replayed.cycle == Some(at) {
            text.push_str("cycle:\n");
        }
        step(&mut text, at + 1, line);
    }
    ending(&mut text, played);
    text
}

fn step(text: &mut String, number: usize, line: &Line) {
    let happened = line.happened.iter().flatten();
    let mut happened: Vec<String> = happened.map(|what| what.to_string()).collect();
    if line.happened.is_none() {
        happened.push("not possible, passed over".to_owned());
    }
    let step = format!("{number:>4}  {:<22}", line.step.to_string());
    let _ = writeln!(
        text,
        "{}",
        format!("{step}  {}", happened.join("; ")).trim_end()
    );
}

fn ending(text: &mut String, played: &Played) {
    let replayed = &played.replayed;
    let what = match replayed.ending {
        Ending::Finished => "every task is over",
        Ending::Reported => "a vCPU stopped with the report",
        Ending::Looped => "the cycle leads back to where it began, and goes on for ever",
        Ending::Open => "the steps are over, and nothing else is",
    };
    let _ = writeln!(text, "digest {:016x}", replayed.digest());
    let _ = writeln!(text, "{}: {what}", replayed.ending.as_str());
    if let Some(reason) = &replayed.no_loop {
        let _ = writeln!(text, "no loop: {reason}");
    }
    for mismatch in &played.differs {
        let _ = writeln!(text, "differs: {mismatch}");
    }
    let own = played.policy == played.trace.setup.policy;
    if played.differs.is_empty() && own && !played.trace.expected.is_empty() {
        text.push_str("as expected\n");
    }
}
