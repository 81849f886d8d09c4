//! The command `bench`: what serving page faults costs, beside a floor and a ceiling.

mod args;
mod json;
mod table;

use std::io::IsTerminal as _;
use std::process::Command;

use surefault_bench::{BenchError, Contest, HandlerKind, Order, Vmm, run};

pub(crate) use args::BenchArgs;
use args::{BenchCommand, BenchServeArgs, BenchVmmArgs};

use crate::args::Format;
use crate::exit::{Exit, Failure};
use crate::{output, signals};

pub(crate) fn bench(args: &BenchArgs) -> Result<Exit, Failure> {
    match &args.command {
        BenchCommand::Serve(args) => serve(args),
        BenchCommand::Vmm(args) => vmm(args),
    }
}

/// Plays a VMM: what `player` starts.
fn vmm(args: &BenchVmmArgs) -> Result<Exit, Failure> {
    let vmm = Vmm {
        socket: args.socket.clone(),
        pages: args.pages,
        order: match args.sequential {
            true => Order::Sequential,
            false => Order::Random,
        },
        threads: args.threads,
        seed: args.seed,
    };
    let served = vmm.play();
    output::print_json(&served.map_err(|error| Failure::new(Exit::Unexpected, error))?)?;
    Ok(Exit::Ran)
}

/// This very program, playing `vmm`.
fn player(vmm: &Vmm) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(["bench", "vmm", "--socket"]).arg(&vmm.socket);
    command.args(["--pages", &vmm.pages.to_string()]);
    command.args(["--threads", &vmm.threads.to_string()]);
    command.args(["--seed", &vmm.seed.to_string()]);
    if vmm.order == Order::Sequential {
        command.arg("--sequential");
    }
    command
}

/// Measures the daemon, and prints the table.
fn serve(args: &BenchServeArgs) -> Result<Exit, Failure> {
    let contest = Contest {
        pages: args.pages,
        threads: args.threads.iter().map(|&n| usize::from(n)).collect(),
        rounds: args.rounds,
        surefault: HandlerKind::Surefault {
            program: std::env::current_exe()
                .map_err(|error| Failure::new(Exit::Unexpected, error))?,
            arguments: args.handler_arguments(),
            supervised: true,
        },
        unsupervised: args.unsupervised,
        player,
        interrupted: signals::is_stopped,
    };
    signals::stop_on_signals()?;
    let dir = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let before = table::load();
    let watched = std::io::stderr().is_terminal();
    let rows = run(&contest, &dir, |round, entrant| {
        if watched {
            let order = match entrant.order {
                Order::Random => "random",
                Order::Sequential => "sequential",
            };
            eprint!(
                "\r\x1b[Kround {round} of {}: {order}, {} threads, {}",
                args.rounds, entrant.threads, entrant.name
            );
        }
    });
    if watched {
        eprint!("\r\x1b[K");
    }
    let rows = rows.map_err(|error| failure(args, error))?;
    let load = (before, table::load());
    match args.format {
        Format::Text => output::print(&table::text(&contest, &rows, load))?,
        Format::Json => output::print_json(&json::Output::of(&contest, &rows, load))?,
    }
    Ok(Exit::Ran)
}

fn failure(args: &BenchServeArgs, error: BenchError) -> Failure {
    match error {
        // Its handlers hear of it, too, and end before anything else is seen.
        _ if signals::is_stopped() => Failure::new(Exit::Incomplete, BenchError::Interrupted),
        BenchError::Source { .. } if args.dir.is_some() => Failure::option("--dir", error),
        BenchError::Compiler { .. } => Failure::new(Exit::Host, error)
            .with_remedy("install a C compiler, or name one in the variable CC"),
        BenchError::Userfaultfd(_) | BenchError::Memory { .. } | BenchError::Source { .. } => {
            Failure::new(Exit::Host, error)
        }
        _ => Failure::new(Exit::Unexpected, error),
    }
}
