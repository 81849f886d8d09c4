//! `surefault compare`: the same rows for the same seeds, and input that it refuses.

use std::io::Write as _;
use std::process::Command;

use serde_json::json;

use crate::surefault::{BINARY, Ran, output};

crate::cases![
    a_comparison_is_the_same_anywhere(Nothing),
    a_table_has_a_line_for_each_policy(Nothing),
    workloads_and_sizes_that_are_wrong(Nothing),
    a_workload_file_that_is_wrong(Nothing),
    figures_are_drawn_beside_the_table(Nothing),
    figures_that_cannot_be_written_are_wrong_usage(Nothing),
];

fn compare(arguments: &[&str]) -> Ran {
    output(Command::new(BINARY).arg("compare").args(arguments))
}

/// Simulated time and seeds alone decide: these numbers hold on every machine.
fn a_comparison_is_the_same_anywhere() {
    let ran = compare(&[
        "--workload=one",
        "--policy=error-gfn",
        "--policy=exact",
        "--seeds=2",
        "--format=json",
    ]);
    let row = |policy: &str, after: [u64; 2], bytes: u64| {
        json!({
            "workload": "one", "tasks": 1, "failing": 1, "vcpus": 1, "policy": policy,
            "runs": 2, "ended": 2, "looped": 0,
            "retries": { "count": 2, "p50": 1, "p99": 1, "max": 1 },
            "report_after_ns": { "count": 2, "p50": after[0], "p99": after[1], "max": after[1] },
            "wrong_reports": 0, "told": 0, "refused_healthy": 0, "off_ns": 0,
            "progress_per_mille": null, "state_bytes": bytes, "unclaimed": 0,
            "wall_ns": null,
        })
    };
    let json = ran.ended(0).json();
    let gfn = json["rows"][0]["report_after_ns"]["p50"]
        .as_u64()
        .expect("a time");
    let gfn_99 = json["rows"][0]["report_after_ns"]["p99"]
        .as_u64()
        .expect("a time");
    let expected = json!({
        "schema": 1, "command": "compare", "machine": "simulated",
        "rows": [row("error-gfn", [gfn, gfn_99], 8), row("exact", [7_000, 7_000], 0)],
    });
    assert_eq!(json, expected);
    assert_eq!(
        gfn, 526_000,
        "the latency that the seed draws for the second attempt"
    );
}

fn a_table_has_a_line_for_each_policy() {
    let ran = compare(&["--workload=shadow", "--tasks=4", "--failing=2", "--seeds=1"]).ended(0);
    for policy in surefault_core::policy::PolicyKind::ALL {
        let line = ran
            .stdout
            .lines()
            .find(|line| line.trim_start().starts_with(policy.as_str()));
        assert!(line.is_some(), "{policy} is not in: {}", ran.stdout);
    }
}

fn workloads_and_sizes_that_are_wrong() {
    for (workload, why) in [
        ("kernel", "touches no page"),
        ("migrate", "stay on their vCPU"),
        ("masked", "never turn interrupts off"),
        ("shadow", "two-dimensional"),
        ("storm", "hours"),
    ] {
        let ran = compare(&["--machine=kvm", "--workload", workload]);
        ran.refused(2, &["--machine kvm", workload, why]);
    }
    compare(&["--machine=kvm", "--plot=x.svg"]).refused(2, &["--plot", "--machine kvm"]);
    compare(&["--workload=crowed"]).refused(2, &["--workload", "'crowed'", "crowd, ghost"]);
    let migrate = ["--vcpus", "workload migrate", "at least 2 vCPUs, not 1"];
    compare(&["--workload=migrate", "--vcpus=1"]).refused(2, &migrate);
    let many = [
        "--failing",
        "workload one",
        "9999 failing pages",
        "at most 256",
    ];
    compare(&["--workload=one", "--failing=9999"]).refused(2, &many);
    // The number of failing pages is the workload's own; what was asked for does not go with it.
    let few = ["--tasks", "workload storm", "4096 failing pages", "2 tasks"];
    compare(&["--workload=storm", "--tasks=2"]).refused(2, &few);
    // Nothing is played before all has been looked at.
    let ran = compare(&["--workload=one", "--workload=crowd", "--vcpus=2"]);
    assert_eq!(ran.stdout, "");
    ran.refused(
        2,
        &[
            "--vcpus",
            "workload one",
            "2 vCPUs are more than the 1 tasks",
        ],
    );
    compare(&["--tasks=many"]).refused(2, &["--tasks", "many"]);
    compare(&["--seeds=0"]).refused(2, &["--seeds", "0"]);
    compare(&["--policy=best"]).refused(2, &["--policy", "best"]);
}

fn a_workload_file_that_is_wrong() {
    for (text, words) in [
        (
            "base = \"crowd\"\n\ntick = \"soon\"\n",
            ["line 3, field `tick`", "'soon'"],
        ),
        (
            "base = \"crowd\"\ntask = 5\n",
            ["line 2, field `task`", "unknown field"],
        ),
        (
            "base = \"crowd\"\ntasks = \"5\"\n",
            ["line 2, field `tasks`", "invalid type"],
        ),
        (
            "base = \"crowd\"\ntasks = = 5\n",
            ["line 2, field `tasks`", "extra `=`"],
        ),
        ("tasks = 5\n", ["line 1, field `base`", "missing"]),
        (
            "base = \"crowd\"\ntasks = 0\n",
            ["line 2, field `tasks`", "at least 1"],
        ),
    ] {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        write!(file, "{text}").expect("room");
        let path = file.path().to_str().expect("a plain path").to_owned();
        let ran = compare(&["--workload", &path]);
        assert_eq!(ran.stdout, "");
        let [place, what] = words;
        ran.refused(2, &["--workload", &format!("{path}, {place}"), what]);
    }
    compare(&["--workload=/"]).refused(2, &["--workload", "cannot read the workload /"]);
}

fn figures_are_drawn_beside_the_table() {
    let directory = tempfile::tempdir().expect("room");
    let path = |name: &str| format!("{}/{name}", directory.path().display());
    let drawn = |name: &str| {
        let policies = ["--policy=retry", "--policy=exact"];
        let plot = format!("--plot={}", path(name));
        let ran = compare(&[&["--workload=one", "--seeds=1", &plot], &policies[..]].concat());
        let ran = ran.ended(0);
        assert!(ran.stdout.contains("one: One task"), "{}", ran.stdout);
        std::fs::read_to_string(path(name)).expect("it was drawn")
    };
    let svg = drawn("one.svg");
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    for text in [
        ">retry</text>",
        ">exact</text>",
        "looped 1/1",
        "prefers-color-scheme:dark",
    ] {
        assert!(svg.contains(text), "{text}");
    }
    assert_eq!(
        svg,
        drawn("again.svg"),
        "the same seeds give the same figures"
    );
    let page = drawn("one.html");
    assert!(page.starts_with("<!doctype html>") && page.contains("<svg "));
}

fn figures_that_cannot_be_written_are_wrong_usage() {
    for (path, words) in [
        (
            "/nowhere/plot.svg",
            ["--plot: cannot write /nowhere/plot.svg", "No such file"],
        ),
        (
            "plot.png",
            ["--plot: plot.png", "neither in .svg nor in .html"],
        ),
    ] {
        // Nothing is played first, however large it is.
        let ran = compare(&[
            "--tasks=4096",
            "--failing=4096",
            "--workload=crowd",
            "--plot",
            path,
        ]);
        assert_eq!(ran.stdout, "");
        ran.refused(2, &words);
    }
}
