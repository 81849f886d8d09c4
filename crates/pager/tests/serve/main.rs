//! A pager on a real userfaultfd: every access ends, with the right bytes or with the failure.
#![expect(unsafe_code, reason = "starting a pager is unsafe")]

mod attached;
mod discards;
mod ending;
mod failures;
mod limits;
mod prefetches;
mod reads;
mod refused;
mod restarted;
mod served;
mod stalls;
mod stores;
mod truncation;

use std::process::ExitCode;

use libtest_mimic::Arguments;
use surefault_testkit::trial;
use surefault_uffd::{CreateError, Features, Options, Userfaultfd};

/// A test, and whether it needs poison.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) poison: bool,
    pub(crate) run: fn(),
}

/// The cases named after their functions.
macro_rules! cases {
    ($($run:ident $(($poison:ident))?),* $(,)?) => {
        pub(crate) const CASES: &[$crate::Case] = &[$(
            $crate::Case {
                name: stringify!($run),
                poison: false $(|| stringify!($poison).len() > 0)?,
                run: $run,
            },
        )*];
    };
}
pub(crate) use cases;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some(restarted::WORKER) {
        restarted::worker(words);
        return ExitCode::SUCCESS;
    }
    let mut arguments = Arguments::from_args();
    // Threads and descriptors are counted, and two processors are soon busy.
    arguments.test_threads = Some(1);
    let supported = supported();
    let trials = [
        reads::CASES,
        failures::CASES,
        stalls::CASES,
        truncation::CASES,
        discards::CASES,
        limits::CASES,
        prefetches::CASES,
        refused::CASES,
        attached::CASES,
        restarted::CASES,
        ending::CASES,
    ]
    .concat()
    .into_iter()
    .map(|case| {
        let lacking = match &supported {
            Ok(features) if case.poison && !features.contains(Features::POISON) => {
                Some("this kernel cannot poison pages".to_owned())
            }
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        };
        trial(case.name, "uffd", lacking, case.run)
    })
    .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn supported() -> Result<Features, CreateError> {
    Userfaultfd::create(Options::default())?;
    Features::supported()
}
