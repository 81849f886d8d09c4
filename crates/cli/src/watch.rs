//! The command `watch`.

mod args;
mod json;

use core::ops::ControlFlow;
use core::time::Duration;
use std::time::Instant;

use surefault_watch::{Case, Change, Hook, WatchError, Watcher};

pub(crate) use self::args::WatchArgs;
use crate::args::Format;
use crate::exit::{Exit, Failure};
use crate::metrics::MetricsServer;
use crate::output::{print, print_json, print_on};
use crate::signals;

/// How long to go on after the first case with `--once`, so that those beside it are found too.
const AFTER_FIRST: Duration = Duration::from_secs(1);
/// How often what is served on `--metrics` is made anew.
const METRICS_EVERY: Duration = Duration::from_secs(1);
/// How long commands may go on that still run, or wait for their turn, at the end.
const COMMANDS: Duration = Duration::from_secs(10);

pub(crate) fn watch(args: &WatchArgs) -> Result<Exit, Failure> {
    signals::stop_on_signals()?;
    let mut watcher = Watcher::open(args.options()).map_err(failure)?;
    for lack in watcher.lacks() {
        eprintln!("surefault: not watched: {lack}");
    }
    let server = match args.metrics {
        Some(address) => Some(MetricsServer::start(address)?),
        None => None,
    };
    let mut watching = Watching {
        hook: args.on_stuck.as_deref().map(hook),
        format: args.format,
        found: false,
    };
    let limit = args.limit.or(args.once.then(|| watcher.settles_after()));
    let mut end = limit.map(|limit| Instant::now() + limit);
    let mut metrics_due = Instant::now();
    while !signals::is_stopped() && end.is_none_or(|end| Instant::now() < end) {
        let left = end.map_or(METRICS_EVERY, |end| end - Instant::now().min(end));
        let changes = watcher.step(left.min(METRICS_EVERY)).map_err(failure)?;
        let first = !watching.found;
        if watching.take(changes)?.is_break() {
            break;
        }
        if args.once && watching.found && first {
            let soon = Instant::now() + AFTER_FIRST;
            end = end.map(|end| end.min(soon));
        }
        if let Some(server) = &server
            && Instant::now() >= metrics_due
        {
            metrics_due = Instant::now() + METRICS_EVERY;
            server.show(surefault_watch::metrics::render(&watcher.snapshot()));
        }
    }
    watching.await_commands();
    let snapshot = watcher.snapshot();
    match args.format {
        Format::Text => print(&format!("{}\n", snapshot.summary()))?,
        Format::Json => print_json(&json::Watched::of(&snapshot, watching.found))?,
    }
    let early = end.is_some_and(|end| Instant::now() < end);
    Ok(match watching.found {
        true => Exit::Found,
        // Whether there is anything could not be said yet.
        false if early => Exit::Incomplete,
        false => Exit::Ran,
    })
}

/// Standard output belongs to the result: what the command prints goes elsewhere.
fn hook(command: &str) -> Hook {
    Hook::new(format!("exec 1>&2\n{command}"))
}

struct Watching {
    hook: Option<Hook>,
    format: Format,
    found: bool,
}

impl Watching {
    /// Hears of changes. Breaks when nobody reads on.
    fn take(&mut self, changes: Vec<Change>) -> Result<ControlFlow<()>, Failure> {
        for change in changes {
            let text = match &change {
                Change::Began(case) => {
                    self.found = true;
                    self.run_hook(case);
                    format!("{case}\n\n")
                }
                Change::Ended(case) => format!(
                    "{} no more: process {}, thread {}\n\n",
                    case.word(),
                    case.pid(),
                    case.tid()
                ),
            };
            if self.format == Format::Text && print_on(&text)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        self.tend();
        Ok(ControlFlow::Continue(()))
    }

    fn tend(&mut self) {
        if let Some(hook) = &mut self.hook
            && let Err(error) = hook.tend()
        {
            eprintln!("surefault: --on-stuck: {error}");
        }
    }

    /// Commands that wait for their turn have it, and those that run may come to their end.
    fn await_commands(&mut self) {
        let end = Instant::now() + COMMANDS;
        while self.hook.as_ref().is_some_and(Hook::is_busy) {
            if Instant::now() >= end {
                eprintln!("surefault: --on-stuck: commands are still running");
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
            self.tend();
        }
    }

    /// A command that cannot be run is no reason to stop watching.
    fn run_hook(&mut self, case: &Case) {
        if let Some(hook) = &mut self.hook
            && let Err(error) = hook.run(case)
        {
            eprintln!("surefault: --on-stuck: {error}");
        }
    }
}

fn failure(error: WatchError) -> Failure {
    let exit = match &error {
        WatchError::NoProcess { .. } => Exit::Usage,
        WatchError::Nothing { .. } => Exit::Host,
        _ => Exit::Unexpected,
    };
    Failure::new(exit, error)
}
