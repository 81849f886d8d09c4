//! Runs on the simulated machine: the same flags, words and exit codes.

use serde_json::Value;

use crate::surefault::{Ran, run};

crate::cases![
    simulated_runs_finish(Nothing),
    simulated_failures_are_reported_alike_in_every_mode(Nothing),
    linux_is_played_as_it_is(Nothing),
    policies_can_be_told_apart(Nothing),
    what_policies_do_is_said(Nothing),
    the_same_flags_give_the_same_result(Nothing),
    a_simulated_run_says_so(Nothing),
];

fn sim(arguments: &[&str]) -> Ran {
    run(&[&["--machine", "sim"], arguments].concat())
}

fn json(arguments: &[&str]) -> Ran {
    sim(&[arguments, &["--format", "json"]].concat())
}

fn simulated_runs_finish() {
    for apf in ["off", "kernel", "user"] {
        let arguments = ["--tasks", "16", "--vcpus", "2", "--pages", "500"];
        let latency = ["--latency", "20us..5ms", "--seed", "7"];
        let result = json(&[&["--apf", apf], &arguments[..], &latency].concat());
        let result = result.ended(0).json();
        assert_eq!(result["machine"], "simulated");
        assert_eq!(result["outcome"], "finished");
        assert_eq!(result["stats"]["tasks_finished"], 16);
        assert_eq!(result["stats"]["sim"]["wrong_reports"], 0);
    }
}

fn simulated_failures_are_reported_alike_in_every_mode() {
    let arguments = ["--pages", "64", "--fail", "17", "--latency", "1ms"];
    let report = |apf: &str| {
        let ran = json(&[&arguments[..], &["--apf", apf]].concat());
        ran.ended(3).json()["report"].take()
    };
    let off = report("off");
    assert_eq!(off["page"], 17);
    assert_eq!(off["cause"]["kind"], "injected");
    assert_eq!(report("kernel"), off);
    assert_eq!(report("user"), off);
}

fn linux_is_played_as_it_is() {
    let arguments = ["--pager", "none", "--pages", "64", "--fail", "17"];
    let result = json(&[&arguments[..], &["--apf", "off"]].concat());
    let result = result.ended(3).json();
    assert_eq!(result["report"]["cause"]["kind"], "bad-address");
    assert_eq!(result["report"]["cause"]["text"], "Bad address");
    let looped = [&arguments[..], &["--apf", "kernel", "--timeout", "20ms"]].concat();
    let result = json(&looped).ended(4).json();
    assert_eq!(result["outcome"], "looped");
    let asked = result["stats"]["sim"]["max_asked_again"].as_u64();
    assert!(asked >= Some(100), "{result}");
    assert!(
        sim(&looped)
            .ended(4)
            .stdout
            .contains("\nlooped: after 20 ms")
    );
}

fn policies_can_be_told_apart() {
    let arguments = ["--apf", "user", "--pages", "64", "--fail", "17"];
    let under = |policy: &str| {
        let policy = ["--policy", policy, "--timeout", "20ms"];
        json(&[&arguments[..], &policy].concat())
    };
    assert_eq!(under("retry").ended(4).json()["outcome"], "looped");
    for policy in ["error-gfn", "error-pending", "exact"] {
        assert_eq!(under(policy).ended(3).json()["report"]["page"], 17);
    }
}

fn what_policies_do_is_said() {
    let under = |policy: &str| {
        let load = [
            "--apf", "user", "--pages", "64", "--tasks", "2", "--fail", "9",
        ];
        sim(&[&load[..], &["--policy", policy, "--timeout", "20ms"]].concat())
    };
    let told = under("guest-error").ended(0).stdout;
    assert!(
        told.contains("  policy  1 task killed by the guest"),
        "{told}"
    );
    let lost = under("exit-on-completion").ended(3).stdout;
    assert!(lost.contains("  policy  WRONG: 1 report"), "{lost}");
    let ours = under("exact").ended(3).stdout;
    assert!(!ours.contains("  policy  "), "{ours}");
}

fn the_same_flags_give_the_same_result() {
    let result = || -> Value {
        let load = ["--tasks", "8", "--vcpus", "2", "--pages", "400"];
        let trouble = ["--fail", "p=0.02:temporary=2", "--latency", "0us..3ms"];
        let arguments = [&["--apf", "user", "--seed", "5"][..], &load, &trouble].concat();
        json(&arguments).ended(0).json()
    };
    assert_eq!(result(), result());
}

fn a_simulated_run_says_so() {
    let ran = sim(&["--apf", "user", "--pages", "64", "--fail", "9"]).ended(3);
    let first = ran.stdout.lines().next().expect("a line");
    assert!(first.starts_with("machine: simulated, "), "{first}");
    assert!(first.contains("policy exact"), "{first}");
    for words in [
        "\npage 9 cannot be provided: ",
        "of simulated time",
        "asynchronous",
    ] {
        assert!(ran.stdout.contains(words), "'{words}': {}", ran.stdout);
    }
    assert!(!ran.stdout.contains("sums"), "{}", ran.stdout);
}
