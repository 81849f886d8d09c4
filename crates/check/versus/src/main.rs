//! The checker's system, explored by stateright and by the checker's own engine, side by side:
//! `cargo run --release -- [ROUNDS]`, in this directory.
//!
//! The system is the first configuration of the two that are always checked (one vCPU, three tasks,
//! three pages of which two never come, one incident), policy `exact`. Every run is a process of its
//! own, so that its peak memory is its own; the engines take turns within a round. Printed are medians.
//!
//! Both are given the same steps, the same fingerprints and the same safety properties, and must count
//! the same states and edges. Surefault's engine does more on the way: it judges obligations, and keeps
//! the edges for the search for cycles. That search is not measured.

mod engine;
mod measure;
mod reached;

use std::error::Error;
use std::process::{Command, ExitCode};

use engine::Engine;
use measure::Measured;

/// The word that makes a process one run.
const RUN: &str = "--run";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let ended = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => compare(5),
        [RUN, engine, threads] => run(engine, threads),
        [rounds] => match rounds.parse() {
            Ok(rounds @ 1..) => compare(rounds),
            _ => Err(format!("ROUNDS must be a number from 1 on, not {rounds:?}").into()),
        },
        _ => Err("usage: surefault-check-versus [ROUNDS]".into()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One run, in this process: a line of numbers on stdout.
fn run(engine: &str, threads: &str) -> Result<(), Box<dyn Error>> {
    let measured = engine.parse::<Engine>()?.explore(threads.parse()?)?;
    println!("{measured}");
    Ok(())
}

/// All engines, `rounds` times in turn, and the table.
fn compare(rounds: usize) -> Result<(), Box<dyn Error>> {
    let contenders: Vec<(usize, Engine)> = [1, 2]
        .into_iter()
        .flat_map(|threads| Engine::ALL.map(|engine| (threads, engine)))
        .collect();
    let mut runs: Vec<Vec<Measured>> = vec![Vec::new(); contenders.len()];
    let this = std::env::current_exe()?;
    for round in 0..rounds {
        for (&(threads, engine), runs) in contenders.iter().zip(&mut runs) {
            let child = Command::new(&this)
                .args([RUN, engine.name(), &threads.to_string()])
                .output()?;
            if !child.status.success() {
                let said = String::from_utf8_lossy(&child.stderr);
                return Err(format!("{}: {}: {said}", engine.name(), child.status).into());
            }
            let measured: Measured = String::from_utf8(child.stdout)?.parse()?;
            eprintln!("round {round}: {}, {threads}: {measured}", engine.name());
            runs.push(measured);
        }
    }
    let first = runs[0][0];
    for (run, (_, engine)) in runs.iter().zip(&contenders) {
        if run
            .iter()
            .any(|run| (run.states, run.edges) != (first.states, first.edges))
        {
            return Err(format!("{} counts other states or edges", engine.name()).into());
        }
    }
    println!(
        "{} states, {} edges, the same by all",
        first.states, first.edges
    );
    println!();
    println!(
        "| engine | threads | states/s a core (least, most) | ratio | wall time | peak growth of memory a state | ratio |"
    );
    println!("|---|---|---|---|---|---|---|");
    let mut ours = (0.0, 0.0);
    for ((threads, engine), runs) in contenders.iter().zip(&runs) {
        let (rate, least, most) = median(runs.iter().map(Measured::rate));
        let (memory, ..) = median(runs.iter().map(Measured::memory));
        let (wall, ..) = median(runs.iter().map(|run| run.wall.as_secs_f64()));
        if *engine == Engine::Surefault {
            ours = (rate, memory);
        }
        println!(
            "| {} | {threads} | {rate:.0} ({least:.0}, {most:.0}) | {:.2} | {wall:.2} s | {memory:.0} B | {:.2} |",
            engine.name(),
            rate / ours.0,
            memory / ours.1,
        );
    }
    Ok(())
}

/// The median, the least and the most.
fn median(of: impl Iterator<Item = f64>) -> (f64, f64, f64) {
    let mut all: Vec<f64> = of.collect();
    all.sort_by(f64::total_cmp);
    (all[all.len() / 2], all[0], all[all.len() - 1])
}
