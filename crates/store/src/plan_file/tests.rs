use core::time::Duration;

use surefault_core::PageIndex;
use surefault_core::plan::FailureMode;

use super::*;

fn parse(text: &str) -> Result<PlanFile, PlanFileError> {
    let path = Path::new("plan.toml");
    Document { path, text }.parse()
}

/// The error's text with its causes, as the command prints it.
fn complaint(text: &str) -> String {
    let error = parse(text).expect_err("wrong");
    let cause = std::error::Error::source(&error);
    cause.map_or(error.to_string(), |cause| format!("{error}: {cause}"))
}

#[test]
fn the_example_in_the_documentation_is_read() {
    let example: String = include_str!("../plan_file.rs")
        .lines()
        .skip_while(|line| *line != "//! ```toml")
        .skip(1)
        .take_while(|line| *line != "//! ```")
        .map(|line| format!("{}\n", line.trim_start_matches("//!")))
        .collect();
    let file = parse(&example).expect("the example");
    assert_eq!(file.seed, Some(7));
    assert_eq!(file.rules.len(), 1);
    let latency = Latency::fixed(Duration::from_secs(1));
    let plan = file.into_plan(1, latency);
    let mode_of = |page| plan.mode_of(PageIndex::new(page));
    assert_eq!(mode_of(9), FailureMode::Temporary { failures: 2 });
    assert_eq!(mode_of(8), FailureMode::Healthy);
    let decision = plan.decide(PageIndex::new(9), 1);
    assert_eq!(decision.latency, Duration::from_millis(1));
    assert!(plan.decide(PageIndex::new(8), 1).latency <= Duration::from_millis(5));
}

#[test]
fn an_empty_file_is_a_plan() {
    let file = parse("").expect("empty");
    let latency = Latency::fixed(Duration::from_secs(1));
    assert_eq!(file.into_plan(3, latency), FaultPlan::new(3, latency));
}

#[test]
fn mistakes_are_named() {
    for (text, expected) in [
        (
            "\n\nlatency = \"fast\"",
            "plan.toml, line 3, field `latency`: 'fast' is not a duration: expected a number and a \
             unit (ns, us, ms, s), as in 200us",
        ),
        (
            "[[rule]]\npages = \"9-5\"\nfail = \"stall\"",
            "plan.toml, line 2, field `pages`: the page range '9-5' ends before it begins",
        ),
        (
            "[[rule]]\npages = \"5\"\nfail = \"stal\"",
            "plan.toml, line 3, field `fail`: 'stal' is not a way to fail: expected permanent, \
             temporary=N (N from 1 to 255), stall or truncate",
        ),
        (
            "[[rule]]\npages = \"5\"\nfial = \"stall\"",
            "plan.toml, line 3 (`fial = \"stall\"`): unknown field `fial`, expected one of `pages`, \
             `fail`, `latency`",
        ),
        (
            "seed = 1\n[[rule]]\npages = \"5\"",
            "plan.toml, line 2 (`[[rule]]`): missing field `fail`",
        ),
        (
            "[[rule]]\npages = 5\nfail = \"stall\"",
            "plan.toml, line 2 (`pages = 5`): invalid type: integer `5`, expected a string",
        ),
    ] {
        assert_eq!(complaint(text), expected);
    }
    assert!(complaint("seed = -1").starts_with("plan.toml, line 1 (`seed = -1`): "));
    assert!(complaint("a = 1\nseed =").starts_with("plan.toml, line 2"));
}

#[test]
fn a_missing_file_is_named() {
    let error = load_plan(Path::new("/nonexistent/plan.toml")).expect_err("missing");
    assert_eq!(
        error.to_string(),
        "cannot read the fault plan /nonexistent/plan.toml"
    );
}
