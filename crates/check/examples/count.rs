//! How many states a system has, how fast they are found, and what they cost:
//! `cargo run --release -p surefault-check --example count -- [1|2] [INCIDENTS] [POLICY] [DEATHS]`.

use surefault_check::system::{Config, check};
use surefault_check::{Limits, Verdict};
use surefault_core::policy::PolicyKind;
use surefault_sim::world::Budgets;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let vcpus = args.first().map_or("1", String::as_str);
    let incidents = args.get(1).map_or(Ok(1), |word| word.parse())?;
    let policies = match args.get(2) {
        Some(policy) => vec![policy.parse()?],
        None => PolicyKind::ALL.to_vec(),
    };
    let deaths = args.get(3).map_or(Ok(0), |word| word.parse())?;
    for policy in policies {
        let config = match vcpus {
            "1" => Config::one_vcpu(policy),
            _ => Config::two_vcpus(policy),
        };
        let config = Config {
            incidents,
            budgets: Budgets {
                deaths,
                ..config.budgets
            },
            ..config
        };
        let checked = check(&config, &Limits::default(), |_| {})?;
        let (seconds, states) = (checked.explored_in.as_secs_f64(), checked.states);
        println!(
            "{policy}: {states} states, {} edges, depth {}; {:.0} states/s, {:.1} bytes each, and \
             {} MiB of those that wait; {:.1} s in all",
            checked.edges,
            checked.depth,
            states as f64 / seconds,
            checked.bytes as f64 / states as f64,
            checked.peak_waiting >> 20,
            checked.elapsed.as_secs_f64(),
        );
        for (property, verdict) in &checked.verdicts {
            if let Verdict::Violated(way) = verdict {
                println!("{property}: broken after {} steps", way.len());
            }
        }
    }
    Ok(())
}
