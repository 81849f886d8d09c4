//! The machine that a run is on, and what came of it there.

use std::path::Path;

use serde::Serialize;
use surefault_core::run::RunResult;
use surefault_sim::Counts;

use crate::args::{Apf, Irqchip, MachineChoice, PagerChoice, RunArgs};

/// A machine to run on. The words are part of the JSON interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Machine {
    /// A virtual machine on /dev/kvm.
    Kvm,
    /// The simulated one.
    Simulated,
}

/// What came of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Ran {
    pub(crate) result: RunResult,
    /// What only the simulated machine can count.
    pub(crate) counts: Option<Counts>,
    /// Tasks that the guest killed, having been told that there is no page for them.
    pub(crate) told: u64,
}

impl Machine {
    /// The machine for a run with these flags.
    pub(crate) fn for_run(args: &RunArgs) -> Machine {
        // What Linux does is not answered by a model of it, unless that is what was asked for.
        let real = args.store.is_some()
            || args.pager == PagerChoice::None
            || args.apf == Apf::Kernel
            || args.irqchip == Irqchip::User;
        Machine::choose(args.machine, real, has_kvm())
    }

    /// The machine for a demonstration, which any machine can give.
    pub(crate) fn for_demo(choice: MachineChoice) -> Machine {
        Machine::choose(choice, false, has_kvm())
    }

    fn choose(choice: MachineChoice, real: bool, has_kvm: bool) -> Machine {
        match choice {
            MachineChoice::Kvm => Machine::Kvm,
            MachineChoice::Sim => Machine::Simulated,
            MachineChoice::Auto if real || has_kvm => Machine::Kvm,
            MachineChoice::Auto => Machine::Simulated,
        }
    }

    /// The word for it, as in JSON.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Machine::Kvm => "kvm",
            Machine::Simulated => "simulated",
        }
    }
}

/// A device that may not be opened is there all the same: that is for the run to tell.
fn has_kvm() -> bool {
    Path::new("/dev/kvm").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_simulated_behind_ones_back() {
        use MachineChoice::{Auto, Kvm, Sim};
        for (choice, real, has_kvm, machine) in [
            (Auto, false, true, Machine::Kvm),
            (Auto, false, false, Machine::Simulated),
            (Auto, true, false, Machine::Kvm),
            (Kvm, false, false, Machine::Kvm),
            (Sim, true, true, Machine::Simulated),
        ] {
            assert_eq!(Machine::choose(choice, real, has_kvm), machine);
        }
    }

    #[test]
    fn its_word_is_the_one_in_json() {
        for machine in [Machine::Kvm, Machine::Simulated] {
            let json = serde_json::to_value(machine).expect("a word");
            assert_eq!(json, machine.as_str());
        }
    }
}
