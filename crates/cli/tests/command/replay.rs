//! Traces: written, replayed, shrunk, and what is wrong with them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::surefault::{BINARY, Ran, output};

crate::cases![
    a_saved_trace_is_replayed_as_expected(Nothing),
    what_differs_is_exit_3(Nothing),
    what_is_wrong_with_a_trace_is_named(Nothing),
    a_run_is_written_down_and_replayed(Nothing),
    another_policy_ends_the_same_situation(Nothing),
    a_comparison_writes_a_trace_for_each_policy(Nothing),
];

fn run(arguments: &[&str]) -> Ran {
    output(Command::new(BINARY).args(arguments))
}

fn saved(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../sim/traces")
        .join(name)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a name in UTF-8")
}

fn a_saved_trace_is_replayed_as_expected() {
    let path = saved("retry-loops.trace");
    let ran = run(&["replay", text(&path)]).ended(0);
    assert!(ran.stdout.contains("\ncycle:\n"), "{}", ran.stdout);
    assert!(
        ran.stdout.ends_with("goes on for ever\nas expected\n"),
        "{}",
        ran.stdout
    );
    let json = run(&["replay", text(&path), "--format", "json"])
        .ended(0)
        .json();
    assert_eq!(json["outcome"], "looped");
    assert_eq!(json["as_expected"], true);
}

fn what_differs_is_exit_3() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("t.trace");
    let trace = std::fs::read_to_string(saved("exact-reports.trace")).expect("a trace");
    let trace = trace.replace("expect outcome reported", "expect outcome looped");
    std::fs::write(&path, trace).expect("it can be written");
    let ran = run(&["replay", text(&path)]).ended(3);
    let differs = "differs: expected outcome looped, found reported";
    assert!(ran.stdout.contains(differs), "{}", ran.stdout);
}

fn what_is_wrong_with_a_trace_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("t.trace");
    for (trace, message) in [
        (
            "surefault trace 1\ntask 0 0\n\nswitch 0\n",
            "t.trace, line 4, field `switch`: '0' is not a vCPU and a task",
        ),
        (
            "surefault trace 1\ntask 0 0\n\nswitch 0 0\nack 0\n",
            "t.trace: step 2 (line 5): 'ack 0' is not possible here; possible: 'enter 0'",
        ),
    ] {
        std::fs::write(&path, trace).expect("it can be written");
        let ran = run(&["replay", text(&path)]).ended(2);
        assert_eq!(ran.stdout, "");
        assert!(ran.stderr.contains(message), "{}", ran.stderr);
    }
    let ran = run(&["replay", "no-such.trace"]).ended(2);
    assert!(
        ran.stderr.contains("cannot read the trace no-such.trace"),
        "{}",
        ran.stderr
    );
}

fn a_run_is_written_down_and_replayed() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("run.trace");
    let guest = [
        "--tasks", "6", "--vcpus", "2", "--pages", "60", "--fail", "17",
    ];
    let of = |trace: &[&str]| {
        let machine = ["run", "--machine", "sim", "--apf", "user"];
        run(&[&machine[..], &guest, trace].concat()).ended(3)
    };
    let traced = of(&["--trace", text(&path)]);
    assert_eq!(traced.stdout, of(&[]).stdout, "it is the same run");
    let json = run(&["replay", text(&path), "--format", "json"])
        .ended(0)
        .json();
    assert_eq!(json["outcome"], "reported");
    assert_eq!(json["as_expected"], true);
    // Short enough to read, and with the same report at its end.
    let shrunk = run(&["replay", text(&path), "--shrink"]).ended(0).stdout;
    let path = dir.path().join("shrunk.trace");
    std::fs::write(&path, &shrunk).expect("it can be written");
    let json = run(&["replay", text(&path), "--format", "json"])
        .ended(0)
        .json();
    assert_eq!(json["outcome"], "reported");
    let steps = json["steps"].as_array().map_or(0, Vec::len);
    assert!((1..=20).contains(&steps), "{shrunk}");
    let refused = run(&["run", "--machine", "kvm", "--trace", text(&path)]).ended(2);
    assert!(refused.stderr.contains("--trace"), "{}", refused.stderr);
}

fn another_policy_ends_the_same_situation() {
    let path = saved("shadow-error-gfn.trace");
    let json = |policy: &str| {
        let arguments = [
            "replay",
            text(&path),
            "--policy",
            policy,
            "--format",
            "json",
        ];
        run(&arguments).ended(0).json()
    };
    assert_eq!(json("error-gfn")["outcome"], "looped");
    assert_eq!(json("retry")["outcome"], "looped");
    assert_eq!(json("exact")["outcome"], "reported");
}

fn a_comparison_writes_a_trace_for_each_policy() {
    let dir = tempfile::tempdir().expect("a folder");
    let size = [
        "--workload",
        "one",
        "--seeds",
        "1",
        "--policy",
        "retry",
        "--policy",
        "exact",
    ];
    run(&[&["compare"], &size[..], &["--traces", text(dir.path())]].concat()).ended(0);
    for (name, outcome) in [
        ("one-retry.trace", "looped"),
        ("one-exact.trace", "finished"),
    ] {
        let path = dir.path().join(name);
        let json = run(&["replay", text(&path), "--format", "json"])
            .ended(0)
            .json();
        assert_eq!(
            (&json["outcome"], &json["as_expected"]),
            (&outcome.into(), &true.into())
        );
    }
}
