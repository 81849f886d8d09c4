//! Sources that cannot be used, and flags that cannot be meant: exit 2, and words that name them.

use std::fs::File;
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode};
use surefault_testkit::page_size;

use crate::surefault::{BINARY, output, run};

crate::cases![
    a_store_that_is_missing(Nothing),
    a_store_that_is_a_directory(Nothing),
    a_store_that_is_a_fifo(Nothing),
    a_store_that_is_empty(Nothing),
    a_store_that_is_no_multiple_of_a_page(Nothing),
    a_store_that_is_too_small(Nothing),
    a_store_that_may_not_be_read(Root),
    flags_that_are_wrong(Nothing),
    plans_that_are_wrong(Nothing),
    error_actions_that_mean_nothing(Nothing),
];

fn refused_of_size(size: usize, words: &[&str]) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    file.as_file().set_len(size as u64).expect("set_len");
    let path = file.path().to_str().expect("a plain path");
    let ran = run(&["--pages", "8", "--store", path]);
    ran.refused(2, &[&["--store", path], words].concat());
}

fn a_store_that_is_missing() {
    let ran = run(&["--store", "/nowhere/mem.img"]);
    ran.refused(2, &["--store: there is no file /nowhere/mem.img"]);
}

fn a_store_that_is_a_directory() {
    run(&["--store", "/"]).refused(2, &["--store", "/ is a directory"]);
}

fn a_store_that_is_a_fifo() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("fifo");
    rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from(0o600), 0).expect("mknod");
    let path = path.to_str().expect("a plain path");
    run(&["--store", path]).refused(2, &["--store", path, "is a FIFO"]);
}

fn a_store_that_is_empty() {
    refused_of_size(0, &["is empty"]);
}

fn a_store_that_is_no_multiple_of_a_page() {
    let size = 8 * page_size() + 1;
    let words = format!("has {size} bytes, which is not a multiple of the page size");
    refused_of_size(size, &[&words]);
}

fn a_store_that_is_too_small() {
    let size = 7 * page_size();
    let needed = 8 * page_size();
    let words = format!("has {size} bytes, and {needed} are needed");
    refused_of_size(size, &[&words, "--pages 7"]);
}

fn a_store_that_may_not_be_read() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let len = 8 * page_size() as u64;
    file.as_file().set_len(len).expect("set_len");
    let path = file.path().to_str().expect("a plain path");
    // Its mode is 0600, and its owner is root.
    let (_directory, binary) = crate::host::for_everybody();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command
        .arg(binary)
        .args(["run", "--pages", "8", "--store", path]);
    output(&mut command).refused(2, &["--store", path, "may not be read", "what to do"]);
}

fn flags_that_are_wrong() {
    for (flags, words) in [
        (&["--pages", "0"][..], &["--pages"][..]),
        (&["--tasks", "0"], &["--tasks"]),
        (&["--vcpus", "0"], &["--vcpus"]),
        (&["--attempts", "0"], &["--attempts"]),
        (&["--deadline", "0s"], &["--deadline", "longer than 0"]),
        (&["--deadline", "5"], &["--deadline", "not a duration"]),
        (&["--latency", "5ms..1ms"], &["--latency", "ends below"]),
        (&["--fail", "9-5"], &["--fail", "ends before it begins"]),
        (&["--fail", "p=2"], &["--fail", "not a probability"]),
        (&["--fail", "5:sometimes"], &["--fail", "not a way to fail"]),
        (
            &["--pages", "8", "--fail", "8"],
            &["--fail", "page 8", "--pages 8"],
        ),
        (&["--policy", "hope"], &["--policy", "exact"]),
        (
            &["--apf", "off", "--policy", "retry"],
            &["--policy", "--apf off"],
        ),
        (
            &["--apf", "kernel", "--policy", "exact"],
            &["--policy", "--apf kernel", "one policy, retry"],
        ),
        (
            &["--pager", "none", "--apf", "user"],
            &["--apf user", "--pager none"],
        ),
        (
            &["--machine", "sim", "--store", "/"],
            &["--store", "--machine sim"],
        ),
        (
            &["--machine", "kvm", "--pager", "none", "--fail", "5:stall"],
            &["page 5", "without a pager"],
        ),
        (&["--format", "xml"], &["--format"]),
        (&["--store", "http://a/b"], &["--store", "http://"]),
        (&["--stor", "x"], &["--store"]),
        (&["extra"], &["extra"]),
    ] {
        run(flags).refused(2, words);
    }
    output(&mut Command::new(BINARY)).refused(2, &["run"]);
}

fn plans_that_are_wrong() {
    let missing = run(&["--fault-plan", "/nowhere/plan.toml"]);
    missing.refused(2, &["--fault-plan", "/nowhere/plan.toml"]);
    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().to_str().expect("a plain path");
    std::fs::write(
        path,
        "seed = 7\n\n[[rule]]\npages = \"5\"\nfail = \"often\"\n",
    )
    .expect("write");
    let wrong = run(&["--fault-plan", path]);
    wrong.refused(2, &["--fault-plan", path, "line 5", "`fail`", "often"]);
    File::create(path).expect("truncate");
}

fn error_actions_that_mean_nothing() {
    for (flags, words) in [
        (
            &["--on-error", "stop", "--machine", "sim"][..],
            &["--on-error stop", "simulated"][..],
        ),
        (
            &["--on-error", "guest", "--pager", "none"],
            &["--on-error guest", "--pager none"],
        ),
        (
            &["--control", "/nowhere/vm.ctl"],
            &["--control", "--on-error stop"],
        ),
    ] {
        run(flags).refused(2, words);
    }
}
