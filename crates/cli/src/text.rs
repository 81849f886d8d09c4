//! What came of a run, for people.

#[cfg(test)]
mod tests;

use core::fmt::{self, Display, Write as _};
use core::time::Duration;
use std::path::Path;

use surefault_core::run::{Outcome, Reported, RunStats};
use surefault_core::{CauseKind, PageSize};
use surefault_sim::Counts;

use crate::args::{Apf, Irqchip, PagerChoice, RunArgs};
use crate::machine::{Machine, Ran};

/// What runs: the first line.
pub(crate) fn header(
    machine: Machine,
    args: &RunArgs,
    page_size: PageSize,
    source: &str,
) -> String {
    let machine = machine.as_str();
    let pager = match args.pager {
        PagerChoice::Surefault => "",
        PagerChoice::None => "Linux alone, ",
    };
    let apf = match args.apf {
        Apf::Off if args.irqchip == Irqchip::User => {
            "every fault synchronous, interrupt controllers in user space".to_owned()
        }
        Apf::Off => "every fault synchronous".to_owned(),
        Apf::Kernel => "Linux's asynchronous faults".to_owned(),
        Apf::User => {
            let policy = args.policy.unwrap_or_default();
            format!("asynchronous faults under the policy {policy}")
        }
    };
    format!(
        "machine: {machine}, {}, {}, {pager}{apf}; {} of {page_size} from {source}\n",
        count(args.vcpus.into(), "vCPU"),
        count(args.tasks.into(), "task"),
        count(args.pages, "page"),
    )
}

/// How it ended.
pub(crate) fn result(ran: &Ran, args: &RunArgs) -> String {
    let stats = &ran.result.stats;
    let mut text = match (ran.result.outcome, &ran.result.report) {
        (Outcome::Reported, Some(reported)) => report(reported),
        (outcome, _) => ending(outcome, args.timeout),
    };
    let tasks = args.tasks;
    let finished = stats.tasks_finished;
    let pages = count(stats.pages_done, "page visit");
    let clock = match ran.counts {
        Some(_) => " of simulated time",
        None => "",
    };
    let elapsed = time(stats.elapsed);
    line(
        &mut text,
        "run",
        format_args!("{pages}, {finished} of {tasks} tasks finished, {elapsed}{clock}"),
    );
    match &ran.counts {
        Some(counts) => {
            line(&mut text, "faults", faults(counts));
            for what in policy(counts, ran.told) {
                line(&mut text, "policy", what);
            }
        }
        None => {
            line(&mut text, "sums", sums(stats));
            for what in from_user_space(stats) {
                line(&mut text, "apf", what);
            }
            if stats.tasks_killed > 0 {
                line(&mut text, "guest", killed(stats.tasks_killed.into()));
            }
        }
    }
    if let Some(counted) = kvm(stats) {
        line(&mut text, "kvm", counted);
    }
    text
}

/// What the policy did that is not seen elsewhere.
fn policy(counts: &Counts, told: u64) -> impl Iterator<Item = String> {
    let told = (told > 0).then(|| killed(told));
    let wrong = (counts.wrong_reports > 0).then(|| {
        let reports = count(counts.wrong_reports, "report");
        format!("WRONG: {reports} with a task on the vCPU that did not touch the page")
    });
    told.into_iter().chain(wrong)
}

/// What became of faults whose guest was told of them from user space.
fn from_user_space(stats: &RunStats) -> impl Iterator<Item = String> {
    let of = |name| stats.apf.get(name).copied();
    let faults = of("announced").map(|told| {
        let waited = of("waits").unwrap_or(0);
        let spared = of("spared").unwrap_or(0);
        format!("{told} faults told to the guest, {waited} waited for, {spared} over at once")
    });
    let again = of("most_asked_again")
        .filter(|&times| times > 0)
        .map(|times| {
            let times = count(times, "time");
            format!("one page asked for again after \"ready\" {times}")
        });
    [faults, again].into_iter().flatten()
}

fn killed(tasks: u64) -> String {
    let tasks = count(tasks, "task");
    format!("{tasks} killed by the guest, which was told that there is no page")
}

/// What KVM says of the faults, where it says anything.
fn kvm(stats: &RunStats) -> Option<String> {
    let taken = stats.kvm.get("pf_taken")?;
    let fixed = stats.kvm.get("pf_fixed")?;
    let returned = count(stats.returns, "time");
    Some(format!(
        "{taken} faults taken, {fixed} fixed; KVM_RUN returned {returned}"
    ))
}

fn sums(stats: &RunStats) -> String {
    match (stats.wrong_sums, stats.unchecked_sums) {
        (0, 0) => "all that was read is right".to_owned(),
        (0, unchecked) => {
            let tasks = count(unchecked, "task");
            format!("all that could be checked is right; of {tasks} the source could not be read")
        }
        (wrong, _) => format!("{} WRONG: this is a bug of surefault", count(wrong, "sum")),
    }
}

/// What a run on the simulated machine is about: which way the faults went.
fn faults(counts: &Counts) -> String {
    let Counts {
        faults,
        asynchronous,
        synchronous,
        refused_healthy,
        max_asked_again,
        ..
    } = counts;
    let mut text = format!("{faults}: {asynchronous} asynchronous, {synchronous} synchronous");
    if *refused_healthy > 0 {
        text += &format!(" ({refused_healthy} of healthy pages)");
    }
    if *max_asked_again > 0 {
        let times = count(*max_asked_again, "time");
        text += &format!("; one access asked again after \"ready\" {times}");
    }
    text
}

fn ending(outcome: Outcome, timeout: Duration) -> String {
    match outcome {
        Outcome::Finished => "finished\n".to_owned(),
        Outcome::Reported => "stopped with a report\n".to_owned(),
        Outcome::Looped => format!(
            "looped: after {} (--timeout) one page was still asked for again and again\n",
            time(timeout)
        ),
        Outcome::TimedOut => format!("not finished within {} (--timeout)\n", time(timeout)),
        Outcome::Cancelled => "stopped from outside\n".to_owned(),
    }
}

/// Which page, which access, why, after how many attempts, and what to do next.
pub(crate) fn report(reported: &Reported) -> String {
    let Reported {
        report,
        cause,
        task,
        page,
    } = reported;
    let mut text = format!("page {page} cannot be provided: {cause}\n");
    line(
        &mut text,
        "page",
        format_args!(
            "gfn {}, gpa {}, memory slot {}",
            report.gfn, report.gpa, report.memslot
        ),
    );
    let task = match task {
        Some(task) => format!("task {task}"),
        None => "no task".to_owned(),
    };
    line(
        &mut text,
        "access",
        format_args!(
            "{} by vCPU {} at rip {}, {task}",
            report.access, report.vcpu, report.rip
        ),
    );
    let attempts = match report.failure.attempts {
        0 => "before any attempt at it alone".to_owned(),
        attempts => format!("after {}", count(attempts.into(), "attempt")),
    };
    let kind = report.failure.cause.kind;
    line(&mut text, "cause", format_args!("{kind}, {attempts}"));
    line(&mut text, "next", next_step(kind));
    text
}

/// The report of a run that waits there.
pub(crate) fn paused(reported: &Reported, control: Option<&Path>) -> String {
    let mut text = report(reported);
    let by_hand = match control {
        Some(path) => format!(", or on `surefault ctl {} resume`", path.display()),
        None => String::new(),
    };
    line(
        &mut text,
        "stopped",
        format_args!("the guest goes on when the page can be had{by_hand}"),
    );
    text
}

/// What to do about a cause.
fn next_step(kind: CauseKind) -> &'static str {
    match kind {
        CauseKind::Truncated => "restore the end of the source, and run again",
        CauseKind::Io => "look for errors of the source's device (dmesg), and run again",
        CauseKind::Unavailable => "bring the source back, and run again",
        CauseKind::Permission => "allow this process to read the source, and run again",
        CauseKind::Corrupt => "replace the source: its contents are damaged",
        CauseKind::Deadline => "see why the source does not answer, or give it a longer --deadline",
        CauseKind::Install => "free memory on the host (or in its cgroup), and run again",
        CauseKind::Injected => "nothing is broken: --fail or --fault-plan asked for this",
        CauseKind::BadAddress => "run with --pager surefault, which knows the reason",
        _ => "run again",
    }
}

fn line(text: &mut String, name: &str, what: impl Display) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "  {name:<8}{what}");
}

pub(crate) fn count(n: u64, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}

pub(crate) fn time(duration: Duration) -> impl Display {
    struct Time(Duration);
    impl Display for Time {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let seconds = self.0.as_secs_f64();
            match seconds {
                1.0.. => write!(f, "{} s", (seconds * 100.0).round() / 100.0),
                0.001.. => write!(f, "{} ms", (seconds * 1e4).round() / 10.0),
                _ => write!(f, "{} us", (seconds * 1e6).round()),
            }
        }
    }
    Time(duration)
}
