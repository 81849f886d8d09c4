//! The command `watch`.

mod args;
mod metrics;
mod signals;

use core::time::Duration;
use std::io::Write as _;
use std::time::Instant;

use serde::Serialize;
use surefault_watch::{Case, Change, Frozen, Hook, Lack, Stats, Stuck, WatchError, Watcher};

pub(crate) use self::args::WatchArgs;
use self::metrics::MetricsServer;
use crate::args::Format;
use crate::exit::{Exit, Failure};

/// How long to go on after the first case with `--once`, so that those beside it are found too.
const AFTER_FIRST: Duration = Duration::from_secs(1);
/// How often what is served on `--metrics` is made anew.
const METRICS_EVERY: Duration = Duration::from_secs(1);

pub(crate) fn watch(args: &WatchArgs) -> Result<Exit, Failure> {
    let stop = signals::stop_on_signals()?;
    let mut watcher = Watcher::open(args.options()).map_err(failure)?;
    for lack in watcher.lacks() {
        eprintln!("surefault: not watched: {lack}");
    }
    let server = match args.metrics {
        Some(address) => Some(MetricsServer::start(address)?),
        None => None,
    };
    let mut watching = Watching {
        hook: args.on_stuck.as_ref().map(Hook::new),
        format: args.format,
        found: false,
    };
    let limit = args.limit.or(args.once.then(|| watcher.settles_after()));
    let mut end = limit.map(|limit| Instant::now() + limit);
    let mut metrics_due = Instant::now();
    while !stop() && end.is_none_or(|end| Instant::now() < end) {
        let left = end.map_or(METRICS_EVERY, |end| end - Instant::now().min(end));
        let changes = watcher.step(left.min(METRICS_EVERY)).map_err(failure)?;
        let first = !watching.found;
        watching.take(changes)?;
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
    let snapshot = watcher.snapshot();
    match args.format {
        Format::Text => print(&format!("{}\n", snapshot.summary()))?,
        Format::Json => {
            let output = Output {
                schema: 1,
                command: "watch",
                outcome: if watching.found { "found" } else { "healthy" },
                stuck: &snapshot.stuck,
                frozen: &snapshot.frozen,
                lacks: &snapshot.lacks,
                stats: &snapshot.stats,
            };
            let text = serde_json::to_string(&output);
            let text = text.map_err(|error| Failure::new(Exit::Unexpected, error))?;
            print(&format!("{text}\n"))?;
        }
    }
    Ok(if watching.found {
        Exit::Found
    } else {
        Exit::Ran
    })
}

/// The one object that the command writes.
#[derive(Serialize, Debug)]
struct Output<'a> {
    schema: u32,
    command: &'static str,
    outcome: &'static str,
    stuck: &'a [Stuck],
    frozen: &'a [Frozen],
    lacks: &'a [Lack],
    stats: &'a Stats,
}

struct Watching {
    hook: Option<Hook>,
    format: Format,
    found: bool,
}

impl Watching {
    fn take(&mut self, changes: Vec<Change>) -> Result<(), Failure> {
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
            if self.format == Format::Text {
                print(&text)?;
            }
        }
        if let Some(hook) = &mut self.hook
            && let Err(error) = hook.tend()
        {
            eprintln!("surefault: --on-stuck: {error}");
        }
        Ok(())
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

/// Writes to standard output, at once: what is found is of interest now.
fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            let error = anyhow::Error::new(error).context("writing to standard output");
            Err(Failure::new(Exit::Unexpected, error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
