//! Machines that wait for ever.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use surefault_watch::proc::thread::Wait;
use surefault_watch::{CauseKind, Change, Frozen, Options, Pid, Watcher};

use crate::subject::{Kind, PAGE, Subject};
use crate::vm::DATA;
use crate::{Case, Need, step, until_it_ends, watch};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "a_fault_that_nobody_answers_is_found",
        needs: &[Need::Uffd],
        run: a_fault_that_nobody_answers_is_found,
    },
    Case {
        name: "a_handler_that_was_stopped_is_named",
        needs: &[Need::Kvm, Need::Root, Need::Uffd],
        run: a_handler_that_was_stopped_is_named,
    },
    Case {
        name: "a_handler_that_was_killed_is_missed",
        needs: &[Need::Kvm, Need::Root, Need::Uffd],
        run: a_handler_that_was_killed_is_missed,
    },
    Case {
        name: "what_was_frozen_before_we_watched_is_found",
        needs: &[Need::Kvm, Need::Root, Need::Uffd],
        run: what_was_frozen_before_we_watched_is_found,
    },
];

const FROZEN_AFTER: Duration = Duration::from_secs(2);

/// Watches one process.
fn open(subject: &Subject) -> Watcher {
    Watcher::open(Options {
        pid: Some(Pid::new(subject.pid())),
        frozen_after: FROZEN_AFTER,
        ..Options::default()
    })
    .expect("watch")
}

/// Watches until one of the process's threads is frozen.
fn find(watcher: &mut Watcher, subject: &Subject) -> Frozen {
    let frozen = |change: &Change| match change {
        Change::Began(surefault_watch::Case::Frozen(frozen)) => Some(frozen.clone()),
        Change::Began(_) | Change::Ended(_) => None,
    };
    let changes = watch(watcher, &[subject.pid()], |changes| {
        changes.iter().any(|change| frozen(change).is_some())
    });
    changes.iter().find_map(frozen).expect("found")
}

fn a_fault_that_nobody_answers_is_found() {
    let mut subject = Subject::start(Kind::Unanswered);
    let mut watcher = open(&subject);
    let frozen = find(&mut watcher, &subject);
    assert_eq!(frozen.tid.get(), subject.pid());
    assert_eq!(frozen.wait, Wait::Userfault);
    assert_eq!(frozen.cause.kind, CauseKind::HandlerGone, "{frozen}");
    assert_eq!(frozen.holders.len(), 1);
    assert_eq!(frozen.holders[0].pid.get(), subject.pid());
    assert!(frozen.since >= Duration::from_secs(2));
    subject.kill();
    until_it_ends(&mut watcher, subject.pid());
}

/// A machine that was served while we watched, and whose handler was then sent `signal`.
fn deserted(signal: Signal) -> (Subject, u32, Watcher) {
    let subject = Subject::start(Kind::Handled);
    let handler = subject.handler.expect("a process of its own");
    let mut watcher = open(&subject);
    while watcher.snapshot().stats.faults < 100 {
        assert_eq!(step(&mut watcher, &[subject.pid()]), []);
    }
    let pid = rustix::process::Pid::from_raw(handler as i32).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("signal");
    (subject, handler, watcher)
}

fn is_page_of(frozen: &Frozen) {
    let gva = frozen.gva.expect("asked for while we watched").get();
    assert!((DATA..DATA + 8 * PAGE as u64).contains(&gva), "{gva:#x}");
    assert_eq!(frozen.gfn.map(|gfn| gfn.get()), Some(gva >> 12));
    assert_eq!(frozen.vcpu.map(|vcpu| vcpu.get()), Some(0));
}

fn a_handler_that_was_stopped_is_named() {
    let (subject, handler, mut watcher) = deserted(Signal::STOP);
    let frozen = find(&mut watcher, &subject);
    is_page_of(&frozen);
    assert_eq!(frozen.cause.kind, CauseKind::HandlerSilent, "{frozen}");
    let holder = frozen.holders.iter().find(|h| h.pid.get() == handler);
    assert_eq!(holder.expect("the handler").state, 'T');
    assert!(frozen.cause.text.contains("stopped"), "{frozen}");
    let pid = rustix::process::Pid::from_raw(handler as i32).expect("a pid");
    rustix::process::kill_process(pid, Signal::CONT).expect("go on");
    until_it_ends(&mut watcher, subject.pid());
    // It goes on with eight pages that are dropped and asked for again, a thousand times a second
    // each: trouble of a sort, but not this one.
    let faults = watcher.snapshot().stats.faults;
    while watcher.snapshot().stats.faults < faults + 10_000 {
        assert_eq!(step(&mut watcher, &[subject.pid()]), []);
    }
}

fn a_handler_that_was_killed_is_missed() {
    let (subject, _, mut watcher) = deserted(Signal::KILL);
    let frozen = find(&mut watcher, &subject);
    is_page_of(&frozen);
    assert_eq!(frozen.cause.kind, CauseKind::HandlerGone, "{frozen}");
}

fn what_was_frozen_before_we_watched_is_found() {
    let (subject, _, mut watcher) = deserted(Signal::KILL);
    find(&mut watcher, &subject);
    drop(watcher);
    let mut watcher = Watcher::open(Options {
        frozen_after: FROZEN_AFTER,
        ..Options::default()
    })
    .expect("watch");
    // Which machine a kernel thread works for cannot be told, only which it can be.
    let pid = subject.pid().to_string();
    let end = Instant::now() + crate::PATIENCE;
    let is_named = |frozen: &Frozen| {
        frozen.wait == Wait::Userfault
            && frozen.comm.contains("kworker")
            && frozen.cause.text.contains(&pid)
    };
    while !watcher.snapshot().frozen.iter().any(is_named) {
        assert!(Instant::now() < end, "{}", watcher.snapshot());
        watcher.step(Duration::from_secs(1)).expect("step");
    }
}
