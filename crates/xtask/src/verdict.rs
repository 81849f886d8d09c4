//! Holds what a case did against what was expected, and what kernels did against each other.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use crate::cases::Case;
use crate::command::last_lines;
use crate::expect;
use crate::protocol::{Ended, Exit};

/// How a case went on a kernel.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub(crate) enum Verdict {
    /// All as expected.
    Passed,
    /// Each line says one thing that was not.
    Failed {
        /// What was expected, and what came.
        failures: Vec<String>,
    },
    /// The case is not for this kernel.
    NotApplicable {
        /// As the case says it.
        why: String,
    },
}

/// A case on a kernel.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Outcome {
    pub(crate) case: String,
    #[serde(flatten)]
    pub(crate) verdict: Verdict,
    #[serde(rename = "wall_ns", serialize_with = "nanoseconds")]
    pub(crate) wall: Option<Duration>,
    #[serde(rename = "cpu_ns", serialize_with = "nanoseconds")]
    pub(crate) cpu: Option<Duration>,
    pub(crate) exit: Option<i32>,
    /// What the case said, where it was JSON.
    pub(crate) output: Option<Value>,
    /// Where it failed: the last lines that it, or the kernel, said.
    pub(crate) last_lines: String,
}

/// How much of what was said is shown.
const SHOWN_LINES: usize = 12;

pub(crate) fn nanoseconds<S: serde::Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    duration
        .map(|d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
        .serialize(serializer)
}

impl Outcome {
    /// A case that never came to its end.
    pub(crate) fn lost(case: &Case, how: String) -> Self {
        Self {
            case: case.name.clone(),
            verdict: Verdict::Failed {
                failures: vec![how],
            },
            wall: None,
            cpu: None,
            exit: None,
            output: None,
            last_lines: String::new(),
        }
    }

    /// The same, with the end of the kernel's log.
    pub(crate) fn with_console(self, console: &str) -> Self {
        Self {
            last_lines: last_words(console),
            ..self
        }
    }

    pub(crate) fn not_applicable(case: &Case, why: &str) -> Self {
        Self {
            verdict: Verdict::NotApplicable {
                why: why.to_owned(),
            },
            ..Self::lost(case, String::new())
        }
    }

    /// A case that ended, judged.
    pub(crate) fn of(case: &Case, kernel: &str, ended: &Ended) -> Self {
        let (failures, output) = judge(case, kernel, ended);
        Self {
            case: case.name.clone(),
            last_lines: match failures.as_slice() {
                [] => String::new(),
                _ => last_lines(&format!("{}{}", ended.stdout, ended.stderr), SHOWN_LINES),
            },
            verdict: if failures.is_empty() {
                Verdict::Passed
            } else {
                Verdict::Failed { failures }
            },
            wall: Some(ended.wall),
            cpu: Some(ended.cpu),
            exit: match ended.exit {
                Exit::Code(code) => Some(code),
                Exit::Unprepared => None,
            },
            output,
        }
    }

    pub(crate) fn failed(&self) -> bool {
        matches!(self.verdict, Verdict::Failed { .. })
    }

    fn fail(&mut self, why: String) {
        match &mut self.verdict {
            Verdict::Failed { failures } => failures.push(why),
            Verdict::Passed | Verdict::NotApplicable { .. } => {
                self.verdict = Verdict::Failed {
                    failures: vec![why],
                };
            }
        }
    }
}

/// The end of a kernel's log without the frames of stacks, which push aside what matters.
fn last_words(console: &str) -> String {
    let lines: Vec<_> = console
        .lines()
        .filter(|line| !line.contains("]  "))
        .collect();
    last_lines(&lines.join("\n"), SHOWN_LINES)
}

fn judge(case: &Case, kernel: &str, ended: &Ended) -> (Vec<String>, Option<Value>) {
    let expected = case.expected_on(kernel);
    let mut failures = Vec::new();
    match ended.exit {
        Exit::Code(code) if code == expected.exit => {}
        Exit::Code(137) => failures.push(format!(
            "killed after its limit of {} s (exit 137), expected exit {}",
            case.limit.as_secs(),
            expected.exit
        )),
        Exit::Code(code) => {
            failures.push(format!("exit {code}, expected {}", expected.exit));
        }
        Exit::Unprepared => failures.push("its preparation failed".to_owned()),
    }
    let output = match serde_json::from_str::<Value>(&ended.stdout) {
        Ok(value) => Some(value),
        Err(error) => {
            if !expected.json.is_empty() || !case.alike.is_empty() {
                failures.push(format!("stdout is not JSON: {error}"));
            }
            None
        }
    };
    if let Some(output) = &output {
        failures.extend(expected.json.iter().filter_map(|e| e.mismatch(output)));
    }
    let outside = json!({
        "wall_ms": ended.wall.as_millis(),
        "cpu_ms": ended.cpu.as_millis(),
        "stdout": ended.stdout,
        "stderr": ended.stderr,
    });
    failures.extend(expected.case.iter().filter_map(|e| e.mismatch(&outside)));
    (failures, output)
}

/// Holds the values that a case says are like another case's against those, on the same kernel.
pub(crate) fn compare_cases(case: &Case, outcome: &mut Outcome, other: &Outcome) {
    for path in &case.alike {
        // What has no output has failed already.
        let (Some(mine), Some(its)) = (&outcome.output, &other.output) else {
            return;
        };
        let (mine, its) = (expect::at(mine, path), expect::at(its, path));
        if mine != its {
            let show = |v: Option<&Value>| v.unwrap_or(&Value::Null).to_string();
            let why = format!(
                "{path}: {}, but {} in {}",
                show(mine),
                show(its),
                other.case
            );
            outcome.fail(why);
        }
    }
}

/// Holds the values that a case says are alike on every kernel against those on the first one.
pub(crate) fn compare_kernels(case: &Case, outcomes: &mut [(&str, &mut Outcome)]) {
    for path in &case.alike {
        let mut first: Option<(String, Value)> = None;
        for (kernel, outcome) in &mut *outcomes {
            // A case without output has failed already.
            let Some(output) = &outcome.output else {
                continue;
            };
            let value = expect::at(output, path).cloned().unwrap_or(Value::Null);
            match &first {
                None => first = Some(((*kernel).to_owned(), value)),
                Some((_, same)) if *same == value => {}
                Some((other, differs)) => {
                    outcome.fail(format!("{path}: {value}, but {differs} on {other}"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
