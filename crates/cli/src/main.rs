//! The command `surefault`.
//!
//! | file | what is in it |
//! |---|---|
//! | `args` | what can be written on the command line |
//! | `bench` | the command `bench`: the daemon beside a floor and a ceiling |
//! | `check` | combinations that mean nothing, or do not exist yet |
//! | `exit` | the exit codes, and failures that carry one |
//! | `store` | from flags to the source and its fault plan |
//! | `machine` | the machine that a run is on |
//! | `kvm`, `simulated` | runs on either |
//! | `run` | the command `run` |
//! | `soak` | `run --soak`: random runs, checked |
//! | `demo` | the command `demo`: its story, told in `demo/text` and `demo/json` |
//! | `probe` | the command `probe`, likewise |
//! | `checker` | the command `check`: every interleaving of a small system |
//! | `control` | the control socket of a run |
//! | `compare` | the command `compare`: the policies side by side |
//! | `replay` | the command `replay`: a saved trace, step by step |
//! | `text`, `json` | what came of it, for people and for programs |
//! | `output` | standard output |
//! | `watch` | the command `watch` |
//! | `serve`, `ctl`, `attach_demo` | the daemon, what it is told, and a client that plays a VMM |
//! | `metrics` | numbers for Prometheus |
//! | `progress` | how far it is, on a terminal |

mod args;
mod attach_demo;
mod bench;
mod check;
mod checker;
mod compare;
mod control;
mod ctl;
mod demo;
mod exit;
mod json;
mod kvm;
mod machine;
mod metrics;
mod output;
mod probe;
mod progress;
mod replay;
mod run;
mod serve;
mod signals;
mod simulated;
mod soak;
mod store;
mod text;
mod watch;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Cli, Command};

fn main() -> ExitCode {
    // Wrong usage ends in here, with the exit code of `Exit::Usage`.
    let cli = Cli::parse();
    let ended = match &cli.command {
        Command::Run(args) => run::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Probe(args) => probe::run(args),
        Command::Check(args) => checker::run(args),
        Command::Compare(args) => compare::compare(args),
        Command::Replay(args) => replay::run(args),
        Command::Watch(args) => watch::watch(args),
        Command::Serve(args) => serve::serve(args),
        Command::Ctl(args) => ctl::ctl(args),
        Command::AttachDemo(args) => attach_demo::run(args),
        Command::Bench(args) => bench::bench(args),
    };
    match ended {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("surefault: {failure}");
            failure.exit.into()
        }
    }
}
