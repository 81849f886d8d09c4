//! A daemon whose processes are killed under load: supervisor, workers and VMMs are processes of their
//! own, all of them this test's binary.

mod exhaustion;
mod handshakes;
mod holder;
mod kills;
mod last_resort;
mod other_version;
mod rig;
mod supervisors;
mod upgrades;
#[allow(dead_code, reason = "the other tests of the daemon use more of it")]
#[path = "../daemon/vmm.rs"]
mod vmm;

use std::process::ExitCode;

use libtest_mimic::Arguments;
use surefault_testkit::trial;
use surefault_uffd::{Features, Options, Userfaultfd};

/// A test.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) run: fn(),
}

/// The cases named after their functions.
macro_rules! cases {
    ($($run:ident),* $(,)?) => {
        pub(crate) const CASES: &[$crate::Case] = &[$(
            $crate::Case { name: stringify!($run), run: $run },
        )*];
    };
}
pub(crate) use cases;

fn main() -> ExitCode {
    if let Some(played) = vmm::play().or_else(rig::play) {
        return played;
    }
    let mut arguments = Arguments::from_args();
    // Two processors are soon busy.
    arguments.test_threads = Some(1);
    let supported = Userfaultfd::create(Options::default()).and_then(|_| Features::supported());
    let lacking = match supported {
        Err(error) => Some(error.to_string()),
        Ok(features) if !features.contains(Features::POISON) => {
            Some("this kernel cannot poison pages".to_owned())
        }
        Ok(_) => None,
    };
    let cases = [
        kills::CASES,
        handshakes::CASES,
        exhaustion::CASES,
        upgrades::CASES,
        last_resort::CASES,
        holder::CASES,
        supervisors::CASES,
    ];
    let trials = cases
        .concat()
        .into_iter()
        .map(|case| trial(case.name, "uffd", lacking.clone(), case.run));
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
