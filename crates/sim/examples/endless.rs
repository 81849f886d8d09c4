//! One machine that faults without an end: `cargo run --release -p surefault-sim --example endless
//! [FAULTS]`.
//!
//! The workload `crowd` under `exact`, whose tasks begin anew when they are through, with a memory so
//! scarce that every page is gone again after its visit, and a source that fails again. Prints faults a
//! second and the resident memory, ten times on the way.

use std::time::Instant;

use surefault_core::policy::{Exact, PolicyKind};
use surefault_core::run::Outcome;
use surefault_sim::workloads::{WorkloadKind, spec};
use surefault_sim::{Sim, SimSpec};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let wanted: u64 = match std::env::args().nth(1) {
        Some(number) => number.replace('_', "").parse()?,
        None => 10_000_000,
    };
    let kind = WorkloadKind::Crowd;
    let spec = SimSpec {
        laps: u64::MAX,
        evicts: true,
        loop_limit: None,
        max_steps: u64::MAX,
        ..spec(kind, kind.size(), PolicyKind::Exact, 1)?
    };
    let spec = SimSpec {
        run: surefault_core::run::RunSpec {
            timeout: std::time::Duration::MAX,
            ..spec.run
        },
        ..spec
    };
    let mut sim = Sim::with_policy(&spec, Exact)?;
    let begin = Instant::now();
    for tenth in 1..=10 {
        let faults = wanted / 10 * tenth;
        if sim.run_until_faults(faults) != Outcome::TimedOut {
            return Err("it ended, and should not".into());
        }
        let rate = faults as f64 / begin.elapsed().as_secs_f64();
        println!("{faults} faults, {rate:.0} a second, {}", resident()?);
    }
    let counts = sim.counts();
    println!(
        "{} reports, {} of them wrong; at most {} retries; {} healthy faults refused",
        counts.reports, counts.wrong_reports, counts.max_retries, counts.refused_healthy
    );
    Ok(())
}

/// The line of `/proc/self/status`.
fn resident() -> std::io::Result<String> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    Ok(line.unwrap_or("VmRSS: unknown").replace('\t', " "))
}
