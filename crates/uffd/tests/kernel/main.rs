//! What this crate says about userfaultfd, held against the running kernel.
#![expect(unsafe_code, reason = "the tests map, register and touch memory")]

mod events;
mod gone;
mod installs;
mod poison;
mod recorded;

use std::process::ExitCode;

use libtest_mimic::Arguments;
use rustix::event::{PollFd, PollFlags, Timespec};
use surefault_testkit::{Mapping, PATIENCE, trial};
use surefault_uffd::{
    CreateError, Event, EventBuffer, Features, Options, PageRange, Read, RegisterMode, Userfaultfd,
};

/// A test that needs these features, and a userfaultfd that serves the kernel's faults.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) needs: Features,
    pub(crate) run: fn(),
}

fn main() -> ExitCode {
    let mut arguments = std::env::args();
    match arguments.nth(1).as_deref() {
        Some(gone::CHILD) => {
            gone::child();
            return ExitCode::SUCCESS;
        }
        Some(recorded::CHILD) => {
            recorded::child(arguments);
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let arguments = Arguments::from_args();
    let missing = missing();
    let cases = [
        installs::CASES,
        poison::CASES,
        events::CASES,
        gone::CASES,
        recorded::CASES,
    ];
    let trials = cases
        .concat()
        .into_iter()
        .map(|case| {
            let reason = match &missing {
                Ok(supported) => match case.needs.difference(*supported) {
                    lacking if lacking.is_empty() => None,
                    lacking => Some(format!("this kernel lacks {lacking}")),
                },
                Err(error) => Some(error.to_string()),
            };
            trial(case.name, "uffd", reason, case.run)
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// The features there are; an error when no userfaultfd serves the kernel's faults here.
fn missing() -> Result<Features, CreateError> {
    Userfaultfd::create(Options::default())?;
    Features::supported()
}

pub(crate) fn create(features: Features) -> Userfaultfd {
    Userfaultfd::create(Options {
        required: features,
        ..Options::default()
    })
    .expect("a userfaultfd")
}

/// Registers all of `mapping`.
pub(crate) fn register(uffd: &Userfaultfd, mapping: &Mapping, mode: RegisterMode) {
    // SAFETY: nothing relies on what a `Mapping`'s absent pages contain.
    unsafe { uffd.register(mapping.all(), mode) }.expect("register");
}

/// Waits until at least one event is queued.
pub(crate) fn wait(uffd: &Userfaultfd) {
    let mut fds = [PollFd::new(uffd, PollFlags::IN)];
    let patience = Timespec {
        tv_sec: PATIENCE.as_secs() as i64,
        tv_nsec: 0,
    };
    assert_eq!(rustix::event::poll(&mut fds, Some(&patience)), Ok(1));
    assert_eq!(fds[0].revents(), PollFlags::IN);
}

/// Waits for one event and takes it.
pub(crate) fn next_event(uffd: &Userfaultfd) -> Event {
    wait(uffd);
    let mut buffer = EventBuffer::with_capacity(1);
    match uffd.read(&mut buffer).expect("read") {
        Read::Events(mut events) => events.next().expect("at least one"),
        Read::WouldBlock => panic!("poll said that there is one"),
    }
}

/// Asserts that `event` is a fault on `page` and gives it.
pub(crate) fn fault_on(event: Event, page: PageRange) -> surefault_uffd::Pagefault {
    match event {
        Event::Pagefault(fault) => {
            assert_eq!(fault.address, page.start());
            fault
        }
        other => panic!("not a fault: {other:?}"),
    }
}
