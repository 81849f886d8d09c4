//! The table kernel × case, for people and for the ledger.

use std::time::Duration;

use crate::matrix::Matrix;
use crate::verdict::{Outcome, Verdict};

/// One case on one kernel, in a line.
pub(crate) fn line(outcome: &Outcome) -> String {
    match &outcome.verdict {
        Verdict::Failed { failures } => {
            format!("{}: FAILED: {}", outcome.case, failures.join("; "))
        }
        Verdict::Passed | Verdict::NotApplicable { .. } => {
            format!("{}: {}", outcome.case, cell(outcome))
        }
    }
}

fn cell(outcome: &Outcome) -> String {
    let time = outcome.wall.map(seconds).unwrap_or_default();
    match &outcome.verdict {
        Verdict::Passed => format!("ok {time}"),
        Verdict::Failed { .. } => format!("FAILED {time}").trim_end().to_owned(),
        Verdict::NotApplicable { .. } => "–".to_owned(),
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// Rows of cells: the kernels, the cases, the times.
fn rows(matrix: &Matrix) -> Vec<Vec<String>> {
    let row = |name: &str, cells: Vec<String>| {
        let mut row = vec![name.to_owned()];
        row.extend(cells);
        row
    };
    let columns = &matrix.kernels;
    let mut rows = vec![
        row("", columns.iter().map(|c| c.kernel.to_owned()).collect()),
        row(
            "package",
            columns.iter().map(|c| c.package_version.clone()).collect(),
        ),
    ];
    let cases = columns.first().map_or(0, |column| column.outcomes.len());
    for at in 0..cases {
        let name = columns[0].outcomes[at].case.as_str();
        rows.push(row(
            name,
            columns.iter().map(|c| cell(&c.outcomes[at])).collect(),
        ));
    }
    let time = |time: Option<Duration>| time.map(seconds).unwrap_or_default();
    rows.push(row(
        "up after",
        columns.iter().map(|c| time(c.up_after)).collect(),
    ));
    rows.push(row("all", columns.iter().map(|c| time(c.took)).collect()));
    rows
}

/// The table in aligned columns, and below it what failed and where the logs are.
pub(crate) fn text(matrix: &Matrix) -> String {
    let rows = rows(matrix);
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<_> = (0..rows[0].len()).map(width).collect();
    let mut out = String::new();
    for row in &rows {
        let cells: Vec<_> = row
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:width$}"))
            .collect();
        out += cells.join("  ").trim_end();
        out.push('\n');
    }
    for column in &matrix.kernels {
        for outcome in column.outcomes.iter().filter(|o| o.failed()) {
            out += &format!("\n{} {}", column.kernel, line(outcome));
            for said in outcome.last_lines.lines() {
                out += &format!("\n    {said}");
            }
        }
        for log in &column.logs {
            out += &format!("\n{} log: {}", column.kernel, log.display());
        }
    }
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

/// The table for docs/ledger.md, with what failed or was left out, and why.
pub(crate) fn markdown(matrix: &Matrix) -> String {
    let rows = rows(matrix);
    let mut out = String::new();
    for (number, row) in rows.iter().enumerate() {
        out += &format!("| {} |\n", row.join(" | "));
        if number == 0 {
            out += &format!("{}|\n", "|---".repeat(row.len()));
        }
    }
    let mut notes = Vec::new();
    for column in &matrix.kernels {
        for outcome in &column.outcomes {
            let note = match &outcome.verdict {
                Verdict::Passed => continue,
                Verdict::Failed { .. } => format!("* {} {}\n", column.kernel, line(outcome)),
                Verdict::NotApplicable { why } => {
                    format!("* {}, not on {}: {why}\n", outcome.case, column.kernel)
                }
            };
            notes.push(note);
        }
    }
    if !notes.is_empty() {
        out.push('\n');
        out.extend(notes);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::Column;

    fn outcome(case: &str, verdict: Verdict) -> Outcome {
        Outcome {
            case: case.into(),
            wall: matches!(verdict, Verdict::Passed).then_some(Duration::from_millis(1250)),
            verdict,
            cpu: None,
            exit: None,
            output: None,
            last_lines: "the end".into(),
        }
    }

    fn matrix() -> Matrix {
        let column = |kernel, outcomes| Column {
            kernel,
            package_version: format!("{kernel}.9-1"),
            facts: vec![],
            up_after: Some(Duration::from_secs(5)),
            took: Some(Duration::from_secs(9)),
            outcomes,
            logs: vec!["/x/6.1-1.log".into()],
        };
        let failed = Verdict::Failed {
            failures: vec!["exit 1, expected 0".into()],
        };
        let not = Verdict::NotApplicable {
            why: "no poison".into(),
        };
        Matrix {
            schema: 1,
            command: "matrix",
            kernels: vec![
                column("6.1", vec![outcome("a-case", failed), outcome("b", not)]),
                column(
                    "6.12",
                    vec![
                        outcome("a-case", Verdict::Passed),
                        outcome("b", Verdict::Passed),
                    ],
                ),
            ],
        }
    }

    #[test]
    fn the_table_is_aligned_and_says_what_failed() {
        let text = text(&matrix());
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[2], "a-case    FAILED   ok 1.2 s");
        assert_eq!(lines[3], "b         –        ok 1.2 s");
        assert!(text.contains("6.1 a-case: FAILED: exit 1, expected 0\n    the end\n"));
        assert!(text.contains("/x/6.1-1.log"));
    }

    #[test]
    fn the_ledger_gets_a_table_and_reasons() {
        let text = markdown(&matrix());
        assert!(
            text.starts_with("|  | 6.1 | 6.12 |\n|---|---|---|\n"),
            "{text}"
        );
        assert!(text.contains("| b | – | ok 1.2 s |"), "{text}");
        assert!(text.contains("* b, not on 6.1: no poison\n"), "{text}");
    }
}
