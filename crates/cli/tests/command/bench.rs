//! `surefault bench serve`: everybody serves every page, and it is said how fast.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use surefault_testkit::PATIENCE;

use crate::surefault::{BINARY, Ran, output};

crate::cases![
    all_handlers_are_measured(Uffd),
    an_interrupted_measurement_leaves_nothing(Uffd),
    a_directory_that_is_not_there(Nothing),
    no_pages(Nothing),
];

fn bench(arguments: &[&str]) -> Ran {
    let mut command = Command::new(BINARY);
    output(command.args(["bench", "serve"]).args(arguments))
}

fn all_handlers_are_measured() {
    let ran = bench(&[
        "--pages=600",
        "--threads=1,2",
        "--rounds=2",
        "--unsupervised",
        "--format=json",
    ]);
    let json = ran.ended(0).json();
    let supervision = json["rows"][1]["to_unsupervised"]["median"].as_f64();
    assert!(supervision > Some(0.0), "{json}");
    let rows = json["rows"].as_array().expect("rows");
    let handlers: Vec<_> = rows
        .iter()
        .map(|row| {
            let text = |field: &str| row[field].as_str().expect("a word").to_owned();
            for rate in ["min", "median", "max"] {
                assert!(row["pages_per_second"][rate].as_f64() > Some(0.0), "{row}");
            }
            assert!(row["p50_ns"]["median"].as_f64() <= row["p99_ns"]["median"].as_f64());
            (text("order"), row["threads"].as_u64(), text("handler"))
        })
        .collect();
    let mut expected = Vec::new();
    for (order, names) in [
        (
            "random",
            &["floor", "surefault", "surefault --no-supervisor"][..],
        ),
        (
            "sequential",
            &["floor", "ceiling", "surefault", "surefault --no-supervisor"],
        ),
    ] {
        for threads in [1, 2] {
            for name in names {
                expected.push((order.to_owned(), Some(threads), (*name).to_owned()));
            }
        }
    }
    assert_eq!(handlers, expected);
}

fn an_interrupted_measurement_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let entries = || std::fs::read_dir(dir.path()).expect("it is there").count();
    let mut command = Command::new(BINARY);
    command.args(["bench", "serve", "--pages=64", "--rounds=1000", "--dir"]);
    let mut child = command
        .arg(dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let until = Instant::now() + PATIENCE;
    // With the floor's program there is something to be left behind.
    while entries() == 0 {
        assert!(Instant::now() < until, "it never begins");
        std::thread::sleep(Duration::from_millis(5));
    }
    kill_process(Pid::from_child(&child), Signal::INT).expect("it lives");
    let status = child.wait().expect("a child");
    assert_eq!((status.code(), entries()), (Some(6), 0));
}

fn a_directory_that_is_not_there() {
    bench(&["--dir=/nowhere/at/all"]).refused(2, &["--dir", "/nowhere/at/all"]);
}

fn no_pages() {
    bench(&["--pages=0"]).refused(2, &["--pages"]);
}
