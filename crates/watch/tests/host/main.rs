//! The watcher on this host: real machines in trouble, found and explained.
#![expect(unsafe_code, reason = "the tests map memory for machines of their own")]

mod frozen;
mod memory;
mod qemu;
mod stuck;
mod subject;
mod vm;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};
use surefault_watch::{Change, Options, Watcher};

/// How long a test waits for what must happen: never for how fast.
const PATIENCE: Duration = Duration::from_secs(40);

/// What a test needs of the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Need {
    Kvm,
    Uffd,
    Root,
    Qemu,
}

/// A test, and what it needs.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    needs: &'static [Need],
    run: fn(),
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(subject::CHILD) {
        subject::child(&arguments.next().expect("a kind"));
        return ExitCode::SUCCESS;
    }
    let required = std::env::var("SUREFAULT_REQUIRE").unwrap_or_default();
    let trials = [stuck::CASES, frozen::CASES, qemu::CASES]
        .concat()
        .into_iter()
        .map(|case| trial(case, &required))
        .collect();
    let mut arguments = Arguments::from_args();
    // Each looks at all machines of the host.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(case: Case, required: &str) -> Trial {
    let missing = case
        .needs
        .iter()
        .find_map(|need| Some((*need, missing(*need)?)));
    match missing {
        None => Trial::test(case.name, move || {
            (case.run)();
            Ok(())
        }),
        Some((need, reason)) if required.split(',').any(|word| word == need.word()) => {
            Trial::test(case.name, move || Err(format!("required: {reason}").into()))
        }
        Some((_, reason)) => Trial::test(case.name, || Ok(()))
            .with_kind(format!("skipped: {reason}"))
            .with_ignored_flag(true),
    }
}

impl Need {
    fn word(self) -> &'static str {
        match self {
            Need::Kvm => "kvm",
            Need::Uffd => "uffd",
            Need::Root => "root",
            Need::Qemu => "qemu",
        }
    }
}

/// Why the host does not have it.
fn missing(need: Need) -> Option<String> {
    match need {
        Need::Kvm => kvm_ioctls::Kvm::new()
            .err()
            .map(|error| format!("/dev/kvm: {error}")),
        Need::Uffd => surefault_uffd::Userfaultfd::create(surefault_uffd::Options::default())
            .err()
            .map(|error| error.to_string()),
        Need::Qemu => std::process::Command::new(qemu::PROGRAM)
            .arg("--version")
            .output()
            .err()
            .map(|error| format!("{}: {error}", qemu::PROGRAM)),
        Need::Root => {
            let watcher = Watcher::open(Options::default());
            watcher
                .map(|w| w.lacks().iter().find(|l| l.part.contains("stuck")).cloned())
                .map_or_else(
                    |error| Some(error.to_string()),
                    |lack| lack.map(|l| l.to_string()),
                )
        }
    }
}

/// Watches until `done`, and gives what has changed for these processes: the host has others too.
fn watch(
    watcher: &mut Watcher,
    pids: &[u32],
    mut done: impl FnMut(&[Change]) -> bool,
) -> Vec<Change> {
    let end = Instant::now() + PATIENCE;
    let mut changes = Vec::new();
    while !done(&changes) {
        assert!(
            Instant::now() < end,
            "until now: {changes:#?}\n{}",
            watcher.snapshot()
        );
        changes.extend(step(watcher, pids));
    }
    changes
}

/// One step, and what it has changed for these processes.
fn step(watcher: &mut Watcher, pids: &[u32]) -> Vec<Change> {
    let mut changes = watcher.step(Duration::from_secs(1)).expect("step");
    changes.retain(|change| match change {
        Change::Began(case) | Change::Ended(case) => pids.contains(&case.pid().get()),
    });
    changes
}

/// Watches until something has ended for this process, and asserts that nothing else is wrong.
fn until_it_ends(watcher: &mut Watcher, pid: u32) {
    let ended = |change: &Change| matches!(change, Change::Ended(_));
    watch(watcher, &[pid], |changes| changes.iter().any(ended));
    assert!(is_healthy(watcher, pid), "{}", watcher.snapshot());
}

fn is_healthy(watcher: &Watcher, pid: u32) -> bool {
    let snapshot = watcher.snapshot();
    let stuck = snapshot.stuck.iter().any(|stuck| stuck.pid.get() == pid);
    let frozen = snapshot.frozen.iter().any(|frozen| frozen.pid.get() == pid);
    !stuck && !frozen
}
