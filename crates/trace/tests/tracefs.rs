//! Sessions on this host's tracefs.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};
use surefault_trace::{
    HOLD, KernelFs, KernelFsKind, Record, Session, SessionOptions, TraceError, Wanted,
};

/// How long a test waits for what must happen: never for how fast.
const PATIENCE: Duration = Duration::from_secs(60);
/// The first argument of a process that opens a session and waits to be killed.
const CHILD: &str = "--session";

const FORK: Wanted = Wanted {
    system: "sched",
    event: "sched_process_fork",
    fields: &["parent_pid", "child_pid"],
    required: true,
};

const NO_SUCH: Wanted = Wanted {
    system: "sched",
    event: "no_such_event",
    fields: &[],
    required: false,
};

const CASES: &[(&str, fn())] = &[
    (
        "order_holds_from_drain_to_drain",
        order_holds_from_drain_to_drain,
    ),
    ("events_arrive_in_order", events_arrive_in_order),
    ("lost_events_are_counted", lost_events_are_counted),
    ("what_is_not_there_is_named", what_is_not_there_is_named),
    ("nothing_is_left_behind", nothing_is_left_behind),
    (
        "what_the_killed_leave_is_removed",
        what_the_killed_leave_is_removed,
    ),
];

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(CHILD) {
        let _session = open(&[FORK]);
        println!("open");
        thread::sleep(PATIENCE);
        return ExitCode::SUCCESS;
    }
    let missing = Session::open(&[FORK], SessionOptions::default())
        .err()
        .map(|error| match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        });
    let required = std::env::var("SUREFAULT_REQUIRE")
        .is_ok_and(|required| required.split(',').any(|word| word == "root"));
    let trials = CASES
        .iter()
        .map(|&(name, run)| match missing.clone() {
            None => Trial::test(name, move || {
                run();
                Ok(())
            }),
            Some(reason) if required => {
                Trial::test(name, move || Err(format!("required: {reason}").into()))
            }
            Some(reason) => Trial::test(name, || Ok(()))
                .with_kind(format!("skipped: {reason}"))
                .with_ignored_flag(true),
        })
        .collect();
    let mut arguments = Arguments::from_args();
    // The tests look at the list of all instances.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn open(wanted: &[Wanted]) -> Session {
    Session::open(wanted, SessionOptions { buffer_kib: 64 }).expect("a session")
}

/// The instances of our kind.
fn instances() -> Vec<String> {
    let fs = KernelFs::open(KernelFsKind::Tracefs).expect("tracefs");
    let mut names = fs.list("instances").expect("list");
    names.retain(|name| name.starts_with("surefault-"));
    names
}

/// Makes a process, and gives its pid.
fn fork() -> u32 {
    let mut child = Command::new("true").spawn().expect("spawn");
    let pid = child.id();
    child.wait().expect("wait");
    pid
}

fn events_arrive_in_order() {
    let mut session = open(&[NO_SUCH, FORK]);
    assert!(!session.is_recorded(0));
    assert!(session.is_recorded(1));
    let forked: Vec<u32> = (0..50).map(|_| fork()).collect();
    thread::sleep(2 * HOLD);
    let mut records: Vec<Record> = Vec::new();
    let drained = session.drain(&mut records).expect("drain");
    assert_eq!((drained.lost, drained.malformed), (0, 0));
    assert!(records.is_sorted_by_key(|record| record.time));
    assert!(records.iter().all(|record| record.event == 1));
    let children: Vec<u32> = records
        .iter()
        .filter(|record| record.fields[0] == u64::from(std::process::id()))
        .map(|record| record.fields[1] as u32)
        .filter(|child| forked.contains(child))
        .collect();
    assert_eq!(children, forked);
}

const SYSTEM_CALL: Wanted = Wanted {
    system: "raw_syscalls",
    event: "sys_enter",
    fields: &["id"],
    required: true,
};

/// Threads on all CPUs make events while the buffers are read one after the other.
fn order_holds_from_drain_to_drain() {
    let options = SessionOptions { buffer_kib: 8192 };
    let mut session = Session::open(&[SYSTEM_CALL], options).expect("a session");
    let stop = AtomicBool::new(false);
    let mut records = Vec::new();
    let trouble = thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let _ = rustix::process::getppid();
                    thread::sleep(Duration::from_micros(10));
                }
            });
        }
        let mut trouble = None;
        while records.len() < 20_000 && trouble.is_none() {
            let drained = session.drain(&mut records).expect("drain");
            trouble = (drained.lost > 0 || drained.more).then_some(drained);
        }
        // Not by an assertion: the threads would never stop.
        stop.store(true, Ordering::Relaxed);
        trouble
    });
    assert_eq!(trouble, None);
    assert!(records.is_sorted_by_key(|record| record.time));
}

fn lost_events_are_counted() {
    let mut session = open(&[SYSTEM_CALL]);
    let mut records = Vec::new();
    let end = Instant::now() + PATIENCE;
    let mut lost = 0;
    while lost == 0 {
        assert!(Instant::now() < end, "a small buffer overflows");
        // Each a system call, of which 64 KiB hold some 2 500 for each CPU.
        for _ in 0..20_000 {
            let _ = rustix::process::getppid();
        }
        lost = session.drain(&mut records).expect("drain").lost;
        records.clear();
    }
    assert!(lost > 1000, "{lost}");
}

fn what_is_not_there_is_named() {
    let required = Wanted {
        required: true,
        ..NO_SUCH
    };
    let error = Session::open(&[required], SessionOptions::default()).expect_err("no such event");
    assert!(matches!(error, TraceError::NoEvent { .. }));
    assert!(error.to_string().contains("sched/no_such_event"), "{error}");
    let strange = Wanted {
        fields: &["parent_comm"],
        ..FORK
    };
    let error = Session::open(&[strange], SessionOptions::default()).expect_err("a string");
    assert!(matches!(error, TraceError::Format { .. }));
}

fn nothing_is_left_behind() {
    let before = instances();
    let session = open(&[FORK]);
    let other = open(&[FORK]);
    assert_eq!(instances().len(), before.len() + 2);
    drop(session);
    drop(other);
    assert_eq!(instances(), before);
}

fn what_the_killed_leave_is_removed() {
    let before = instances();
    let mut killed = session_in_a_process();
    assert_eq!(instances().len(), before.len() + 1);
    killed.kill().expect("kill");
    killed.wait().expect("wait");
    assert_eq!(instances().len(), before.len() + 1);
    let mut alive = session_in_a_process();
    let session = open(&[FORK]);
    // The dead one's is gone; the living one's and ours are there.
    let here = instances();
    assert_eq!(here.len(), before.len() + 2, "{here:?}");
    assert!(
        here.iter()
            .any(|name| name.contains(&alive.id().to_string()))
    );
    drop(session);
    alive.kill().expect("kill");
    alive.wait().expect("wait");
    drop(open(&[FORK]));
    assert_eq!(instances(), before);
}

fn session_in_a_process() -> Child {
    let mut child = Command::new(std::env::current_exe().expect("our program"))
        .arg(CHILD)
        .stdout(Stdio::piped())
        .spawn()
        .expect("spawn");
    let mut line = String::new();
    let stdout = child.stdout.as_mut().expect("piped");
    BufReader::new(stdout).read_line(&mut line).expect("read");
    assert_eq!(line, "open\n");
    child
}
