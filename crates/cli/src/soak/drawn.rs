//! What is drawn from a seed: the command line of its run, and what is done about its reports.

use core::time::Duration;
use std::collections::BTreeSet;

use surefault_core::PageIndex;
use surefault_core::plan::mix;
use surefault_core::policy::PolicyKind;
use surefault_core::run::{OnError, Reported};
use surefault_kvm::runner::{AfterReport, Observer, WhilePaused};

/// Numbers from a seed.
struct Draw {
    seed: u64,
    drawn: u64,
}

impl Draw {
    fn below(&mut self, of: u64) -> u64 {
        self.drawn += 1;
        mix(self.seed ^ mix(self.drawn)) % of
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len() as u64) as usize]
    }
}

/// The command line of one run.
pub(super) fn flags(seed: u64) -> Vec<String> {
    let mut draw = Draw { seed, drawn: 0 };
    let apf = draw.pick(&["off", "kernel", "user", "user"]);
    let vcpus = draw.pick(&["1", "2"]);
    let tasks = draw.pick(&["1", "2", "5", "8", "12"]);
    let pages = draw.pick(&["16", "64", "200"]);
    let latency = draw.pick(&["0ms", "20us..200us", "20us..2ms", "1ms", "20us..10ms"]);
    let fail = draw.pick(&[
        "none",
        "p=0.05",
        "p=0.2",
        "p=0.2:temporary=1",
        "p=0.1:temporary=5",
        "p=0.02:truncate",
        "p=0.01:stall",
    ]);
    let attempts = draw.pick(&["1", "3"]);
    let policies: Vec<&str> = PolicyKind::ALL.iter().map(|kind| kind.as_str()).collect();
    let policy = draw.pick(&policies);
    let on_error = draw.pick(&["exit", "stop", "guest"]);
    // Linux faults asynchronously only with the interrupt controllers in KVM.
    let irqchip = match apf {
        "kernel" => "kernel",
        _ => draw.pick(&["kernel", "user"]),
    };
    // Nobody waits long for a page that stalls; on a busy host others may need their time.
    let deadline = match fail.ends_with(":stall") {
        true => "300ms",
        false => "30s",
    };
    // A loop is told at the limit; nothing else comes near one.
    let timeout = match apf == "user" && may_loop(policy) {
        true => "5s",
        false => "60s",
    };
    let seed = seed.to_string();
    let mut flags = vec!["surefault".to_owned(), "run".to_owned()];
    for (flag, value) in [
        ("--machine", "kvm"),
        ("--apf", apf),
        ("--irqchip", irqchip),
        ("--on-error", on_error),
        ("--vcpus", vcpus),
        ("--tasks", tasks),
        ("--pages", pages),
        ("--latency", latency),
        ("--fail", fail),
        ("--attempts", attempts),
        ("--deadline", deadline),
        ("--timeout", timeout),
        ("--seed", &seed),
    ] {
        flags.extend([flag.to_owned(), value.to_owned()]);
    }
    if apf == "user" {
        flags.extend(["--policy".to_owned(), policy.to_owned()]);
    }
    flags
}

/// These end in a loop: by design, or where luck does not have it otherwise.
pub(super) fn may_loop(policy: &str) -> bool {
    policy == PolicyKind::Retry.as_str()
        || policy == PolicyKind::ErrorGfn.as_str()
        || policy == PolicyKind::ErrorGfnTable.as_str()
}

/// Ends at a report, or waits at it for a while and then has the guest go on: with the page
/// repaired, some of them after a try without.
pub(super) struct Reacting {
    stops: bool,
    draw: Draw,
    /// The pages that were reported, in turn.
    pub(super) reported: Vec<PageIndex>,
    /// Times that the guest went on without a repair.
    pub(super) resumed: usize,
    /// Looks until the wait is over, and whether it is with a repair.
    wait: (u64, bool),
}

impl Reacting {
    pub(super) fn new(seed: u64, on_error: OnError) -> Reacting {
        Reacting {
            stops: on_error == OnError::Stop,
            // Not the numbers that the command line is made of.
            draw: Draw {
                seed: mix(!seed),
                drawn: 0,
            },
            reported: Vec::new(),
            resumed: 0,
            wait: (0, true),
        }
    }

    /// Pages that were reported, each once.
    pub(super) fn pages(&self) -> usize {
        self.reported.iter().collect::<BTreeSet<_>>().len()
    }
}

impl Observer for Reacting {
    fn reported(&mut self, reported: &Reported) -> AfterReport {
        self.reported.push(reported.page);
        if !self.stops {
            return AfterReport::Stop;
        }
        self.wait = (self.draw.below(3), self.draw.below(4) > 0);
        AfterReport::Pause
    }

    fn paused(&mut self, _: &Reported, _: Duration) -> WhilePaused {
        match &mut self.wait {
            (0, true) => WhilePaused::Heal,
            (0, false) => {
                self.resumed += 1;
                WhilePaused::Resume
            }
            (looks, _) => {
                *looks -= 1;
                WhilePaused::Wait
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};
    use crate::check::check;
    use crate::machine::Machine;

    #[test]
    fn every_seed_makes_a_command_line_that_means_something() {
        for seed in 0..500 {
            let flags = flags(seed);
            let cli = Cli::try_parse_from(&flags);
            let Ok(Command::Run(args)) = cli.map(|cli| cli.command) else {
                panic!("{flags:?}");
            };
            check(&args, Machine::Kvm).unwrap();
            assert_eq!(flags, super::flags(seed));
        }
    }

    #[test]
    fn every_action_and_every_mode_is_drawn() {
        let drawn: Vec<_> = (0..200).map(|seed| flags(seed).join(" ")).collect();
        let words = ["exit", "stop", "guest"].map(|word| format!("--on-error {word} "));
        let modes = ["off", "kernel", "user"].map(|word| format!("--apf {word} "));
        let chips = ["kernel", "user"].map(|word| format!("--irqchip {word} "));
        for word in words.iter().chain(&modes).chain(&chips) {
            assert!(drawn.iter().any(|flags| flags.contains(word)), "{word}");
        }
    }
}
