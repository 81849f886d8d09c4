//! The daemon on real sockets and userfaultfds, with VMMs that are processes of their own.

mod control;
mod crowd;
mod ending;
mod failures;
mod handshakes;
mod rig;
mod serving;
mod vmm;

use std::process::ExitCode;

use libtest_mimic::Arguments;
use surefault_testkit::trial;
use surefault_uffd::{Features, Options, Userfaultfd};

/// A test, and what it needs besides a userfaultfd.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) needs: Needs,
    pub(crate) run: fn(),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    Nothing,
    Poison,
    HugePages,
    Root,
}

/// The cases named after their functions.
macro_rules! cases {
    ($($run:ident $(($needs:ident))?),* $(,)?) => {
        pub(crate) const CASES: &[$crate::Case] = &[$(
            $crate::Case {
                name: stringify!($run),
                needs: [$($crate::Needs::$needs,)? $crate::Needs::Nothing][0],
                run: $run,
            },
        )*];
    };
}
pub(crate) use cases;

fn main() -> ExitCode {
    if let Some(played) = vmm::play() {
        return played;
    }
    let mut arguments = Arguments::from_args();
    // Threads and descriptors are counted, and two processors are soon busy.
    arguments.test_threads = Some(1);
    let supported = Userfaultfd::create(Options::default()).and_then(|_| Features::supported());
    let cases = [
        serving::CASES,
        failures::CASES,
        handshakes::CASES,
        control::CASES,
        ending::CASES,
        crowd::CASES,
    ];
    let trials = cases.concat().into_iter().map(|case| {
        let lacking = match (&supported, case.needs) {
            (Err(error), _) => Some(error.to_string()),
            (Ok(features), Needs::Poison) if !features.contains(Features::POISON) => {
                Some("this kernel cannot poison pages".to_owned())
            }
            (Ok(_), Needs::HugePages) => rig::lacking_huge_pages(),
            (Ok(_), Needs::Root) if !rustix::process::geteuid().is_root() => {
                Some("not root".to_owned())
            }
            (Ok(_), Needs::Root | Needs::Nothing | Needs::Poison) => None,
        };
        trial(case.name, "uffd", lacking, case.run)
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
