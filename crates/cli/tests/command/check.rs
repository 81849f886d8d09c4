//! `surefault check`: verdicts, exit codes, and input that it refuses.

use std::process::Command;

use serde_json::json;

use crate::surefault::{BINARY, Ran, output};

crate::cases![
    a_lasso_is_found_for_retry(Nothing),
    everything_holds_for_the_default_policy(Nothing),
    a_limit_leaves_verdicts_open(Nothing),
    counterexamples_are_traces(Nothing),
    systems_that_are_wrong(Nothing),
];

fn check(arguments: &[&str]) -> Ran {
    output(Command::new(BINARY).arg("check").args(arguments))
}

const SMALL: [&str; 4] = ["--tasks=1", "--pages=1", "--failing=1", "--incidents=0"];

/// Breadth first, so the way is a shortest one, and the same on every machine.
fn a_lasso_is_found_for_retry() {
    let mut arguments = SMALL.to_vec();
    arguments.extend(["--policy=retry", "--property=failing-ends", "--format=json"]);
    let mut json = check(&arguments).ended(3).json();
    let seconds = json["verdicts"][0]["seconds"].take();
    assert!(seconds.is_f64(), "{seconds}");
    let way = json["verdicts"][0]["counterexample"].take();
    let cycle = way["cycle"].as_array().expect("a cycle");
    for step in ["touch 0", "fetched 0 permanent", "enter 0"] {
        assert!(cycle.contains(&json!(step)), "{step} is not in {way}");
    }
    let states = json["verdicts"][0]["states"].take();
    assert!(states.as_u64() > Some(5), "{states}");
    let depth = json["verdicts"][0]["depth"].take();
    assert!(depth.as_u64() > Some(5), "{depth}");
    let expected = json!({
        "schema": 1, "command": "check", "machine": "simulated",
        "verdicts": [{
            "policy": "retry", "property": "failing-ends", "verdict": "violated",
            "states": null, "depth": null, "seconds": null, "counterexample": null,
        }],
    });
    assert_eq!(json, expected);
    // The same for people, with the way.
    arguments.pop();
    let ran = check(&arguments).ended(3);
    assert!(ran.stdout.contains("\ncycle\n  "), "{}", ran.stdout);
}

fn everything_holds_for_the_default_policy() {
    let mut arguments = SMALL.to_vec();
    arguments.push("--policy=exact");
    let ran = check(&arguments).ended(0);
    for property in surefault_check::system::Property::all() {
        let line = ran
            .stdout
            .lines()
            .find(|line| line.starts_with(property.as_str()));
        let line = line.unwrap_or_else(|| panic!("no {property}: {}", ran.stdout));
        assert!(line.ends_with(" holds"), "{line}");
    }
}

fn a_limit_leaves_verdicts_open() {
    let mut arguments = SMALL.to_vec();
    arguments.extend([
        "--policy=exact",
        "--max-states=3",
        "--property=failing-ends",
    ]);
    let ran = check(&arguments).ended(6);
    assert!(ran.stdout.contains('?'), "{}", ran.stdout);
}

/// Each is played by `surefault replay` to the end that it has here.
fn counterexamples_are_traces() {
    let directory = tempfile::tempdir().expect("a directory");
    let traces = directory.path().join("traces");
    let mut arguments = SMALL.to_vec();
    let option = format!("--traces={}", traces.display());
    arguments.extend(["--policy=retry", &option]);
    check(&arguments).ended(3);
    let path = traces.join("retry-failing-ends.trace");
    let trace = std::fs::read_to_string(&path).expect("a trace");
    for line in ["\ncycle\n", "\nexpect outcome looped\n"] {
        assert!(trace.contains(line), "{trace}");
    }
    output(Command::new(BINARY).arg("replay").arg(&path)).ended(0);
    arguments.pop();
    arguments.push("--traces=/dev/null/x");
    check(&arguments).refused(2, &["--traces", "/dev/null/x"]);
}

fn systems_that_are_wrong() {
    check(&["--vcpus=0"]).refused(2, &["--vcpus must be between 1 and 4, not 0"]);
    check(&["--tasks=9"]).refused(2, &["--tasks must be between 1 and 6, not 9"]);
    let many = ["3 failing and 1 healing pages", "the 3 pages"];
    check(&["--failing=3", "--healing=1"]).refused(2, &many);
    check(&["--slots=3"]).refused(2, &["slots must be a power of two, not 3"]);
    let no_record = ["--deaths mean nothing under retry", "only exact does"];
    check(&["--deaths=1", "--policy=retry"]).refused(2, &no_record);
    check(&["--deaths=2"]).refused(2, &["--deaths", "0..=1"]);
    let unknown = ["--property", "unknown property 'x'", "failing-ends"];
    check(&["--property=x"]).refused(2, &unknown);
    check(&["--policy=x"]).refused(2, &["--policy", "unknown policy 'x'", "exact, all"]);
}
