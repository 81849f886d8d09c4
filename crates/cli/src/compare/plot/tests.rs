use std::time::Duration;

use surefault_core::policy::PolicyKind;
use surefault_sim::compare::{Row, Timeline, TimelineLine, Whose};
use surefault_sim::workloads::Size;

use super::*;

/// What was written before. After a change on purpose look at it in a browser, in light and dark.
const GOLDEN: &str = include_str!("golden.svg");

fn row(policy: PolicyKind, looped: u64, retries: &[u64]) -> Row {
    Row {
        policy,
        runs: 4,
        ended: 4 - looped,
        looped,
        retries: retries.iter().copied().collect(),
        report_us: retries.iter().copied().collect(),
        wrong_reports: 0,
        told: 0,
        refused_healthy: 0,
        off: Duration::ZERO,
        progress_per_mille: Some(980),
        state_bytes: 8,
        unclaimed: 0,
    }
}

/// One policy loops always, one at times, and one never; the last two go at the same pace.
fn rows() -> Vec<Row> {
    vec![
        row(PolicyKind::Retry, 4, &[200, 200]),
        row(PolicyKind::ErrorGfn, 1, &[1, 1, 2, 5, 8, 13, 40, 200]),
        row(PolicyKind::Exact, 0, &[1, 1, 1]),
    ]
}

fn timeline() -> Timeline {
    let line = |policy, values: [u64; 6]| TimelineLine {
        policy,
        per_mille: values.into_iter().map(Some).collect(),
    };
    Timeline {
        window: Duration::from_millis(5),
        before: 2,
        whose: Whose::HealthyTasks,
        lines: vec![
            line(PolicyKind::Retry, [1000, 1000, 970, 960, 990, 1010]),
            line(PolicyKind::ErrorGfn, [1000, 1000, 400, 250, 600, 1100]),
            line(PolicyKind::Exact, [1000, 1000, 970, 960, 990, 1010]),
        ],
    }
}

pub(in crate::compare) fn played(name: &str) -> Played {
    Played {
        name: name.to_owned(),
        help: "A crowd of few.",
        size: Size {
            tasks: 4,
            failing: 2,
            vcpus: 1,
        },
        rows: rows(),
        walls: None,
    }
}

fn sheet(played: &Played, timeline: Option<Timeline>) -> Sheet<'_> {
    let steps = [1, 2, 4].map(|failing| Step {
        failing,
        rows: rows(),
    });
    Sheet::new(played, 4, steps.into(), timeline)
}

#[test]
fn the_figures_are_as_they_were() {
    let played = played("crowd");
    let written = sheet(&played, Some(timeline())).document();
    if written != GOLDEN {
        let path = std::env::temp_dir().join("surefault-golden.svg");
        let _ = std::fs::write(&path, &written);
        panic!(
            "the figures differ from crates/cli/src/compare/plot/golden.svg; they are in {}",
            path.display()
        );
    }
}

#[test]
fn what_loops_and_what_coincides_can_be_seen() {
    let played = played("crowd");
    let written = sheet(&played, Some(timeline())).document();
    let count = |what: &str| written.matches(what).count();
    // Three numbers of failing pages, the second figure, and both keys.
    assert_eq!(count("<path class=\"loop\""), 3 + 1 + 2, "always");
    assert_eq!(count("<path class=\"some\""), 3 + 1 + 1, "at times");
    // A panel of its own for each policy, in both figures.
    for policy in ["retry", "error-gfn", "exact"] {
        assert_eq!(count(&format!(">{policy}</text>")), 2, "{policy}");
    }
    assert_eq!(count("<path class=\"line\""), 3);
    for text in [
        "tasks that fail",
        "retries of one access",
        "since the first error, ms",
    ] {
        assert!(written.contains(text), "{text}");
    }
}

#[test]
fn a_page_holds_figures_and_tables_of_all_workloads_whatever_their_names() {
    let (a, b) = (played("a<b>.toml"), played("storm"));
    let sheets = [sheet(&a, Some(timeline())), sheet(&b, None)];
    let directory = tempfile::tempdir().expect("room");
    let path = directory.path().join("all.html");
    std::fs::write(&path, "x".repeat(1_000_000)).expect("room");
    let target = Target::open(&path).expect("a file that can be written");
    target.write(&sheets).expect("room");
    let page = std::fs::read_to_string(&path).expect("it was written");
    assert!(
        page.ends_with("</html>\n"),
        "nothing of what was there is left"
    );
    assert!(page.contains("a&lt;b&gt;.toml") && !page.contains("a<b>"));
    assert_eq!(page.matches("<svg ").count(), 2);
    assert!(page.contains("No run met an error"));
    assert!(page.contains("  policy "), "the table");
}

#[test]
fn a_file_that_cannot_be_written_is_refused_by_name() {
    let directory = tempfile::tempdir().expect("room");
    let inside = |name: &str| directory.path().join(name);
    std::fs::create_dir(inside("taken.svg")).expect("room");
    for (name, words) in [
        ("plot.png", "ends neither in .svg nor in .html"),
        ("plot", "ends neither in .svg nor in .html"),
        ("no/such/plot.svg", "cannot write"),
        ("taken.svg", "cannot write"),
    ] {
        let refused = Target::open(&inside(name)).expect_err(name);
        let said = refused.to_string();
        assert!(
            said.starts_with("--plot: ") && said.contains(words),
            "{said}"
        );
        assert_eq!(refused.exit, Exit::Usage);
    }
    // What there was is not lost when a comparison is refused after all.
    std::fs::write(inside("old.svg"), "old").expect("room");
    drop(Target::open(&inside("old.svg")).expect("it can be written"));
    assert_eq!(
        std::fs::read_to_string(inside("old.svg")).expect("there"),
        "old"
    );
}
