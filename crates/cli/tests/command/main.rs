//! The command itself: exit codes, what it says, and where.
#![expect(
    unsafe_code,
    reason = "a test waits for a page of its own that nobody provides"
)]

mod bench;
mod check;
mod compare;
mod demo;
mod host;
mod probe;
mod replay;
mod run;
mod serve;
mod sim;
mod store;
mod study;
mod surefault;
mod watch;

use std::process::ExitCode;

use libtest_mimic::Arguments;
use surefault_testkit::trial;
use surefault_uffd::{Options, Userfaultfd};

/// A test and what it needs of its host.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) needs: Needs,
    pub(crate) run: fn(),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    Nothing,
    /// A guest on KVM, its memory served.
    Guest,
    /// That, and root, to take it away from somebody.
    RootAndGuest,
    Root,
    /// A userfaultfd.
    Uffd,
    /// Root and a guest, on a host that does not let everybody serve page faults.
    Restricted,
}

impl Needs {
    /// The word of `SUREFAULT_REQUIRE`, and what the host lacks.
    fn lacking(self) -> (&'static str, Option<String>) {
        let (root, kvm, uffd) = (Some(root()), Some(kvm()), Some(uffd()));
        if self == Needs::Restricted && everybody_may_serve() {
            let reason = "vm.unprivileged_userfaultfd=1 lets everybody serve page faults";
            return ("", Some(reason.to_owned()));
        }
        let asked = match self {
            Needs::Nothing => [None, None, None],
            Needs::Root => [root, None, None],
            Needs::Uffd => [None, None, uffd],
            Needs::Guest => [None, kvm, uffd],
            Needs::RootAndGuest | Needs::Restricted => [root, kvm, uffd],
        };
        let mut lacking = ["root", "kvm", "uffd"]
            .into_iter()
            .zip(asked)
            .filter_map(|(word, problem)| Some((word, problem??)));
        match lacking.next() {
            Some((word, problem)) => (word, Some(problem)),
            None => ("", None),
        }
    }
}

fn everybody_may_serve() -> bool {
    std::fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd")
        .is_ok_and(|setting| setting.trim() == "1")
}

fn root() -> Option<String> {
    (!rustix::process::geteuid().is_root()).then(|| "not root".to_owned())
}

fn kvm() -> Option<String> {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm");
    file.err().map(|error| format!("/dev/kvm: {error}"))
}

fn uffd() -> Option<String> {
    Userfaultfd::create(Options::default())
        .err()
        .map(|error| error.to_string())
}

macro_rules! cases {
    ($($run:ident ($needs:ident)),* $(,)?) => {
        pub(crate) const CASES: &[$crate::Case] = &[$(
            $crate::Case {
                name: stringify!($run),
                needs: $crate::Needs::$needs,
                run: $run,
            },
        )*];
    };
}
pub(crate) use cases;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = [
        store::CASES,
        host::CASES,
        sim::CASES,
        run::CASES,
        demo::CASES,
        probe::CASES,
        check::CASES,
        replay::CASES,
        compare::CASES,
        study::CASES,
        bench::CASES,
        watch::CASES,
        serve::CASES,
    ]
    .concat()
    .into_iter()
    .map(|case| {
        let (word, lacking) = case.needs.lacking();
        trial(case.name, word, lacking, case.run)
    })
    .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
