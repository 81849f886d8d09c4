//! Running other programs: their output, or an error that has what they said.

use std::io;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::missing::Missing;

/// Runs a command to its end and gives what it wrote to stdout.
///
/// # Errors
/// When it cannot be started, or fails: with its command line and the end of its stderr.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {}", line(command)))?;
    if !status.success() {
        let said = String::from_utf8_lossy(&stderr);
        bail!("{}: {status}\n{}", line(command), last_lines(&said, 20));
    }
    Ok(stdout)
}

/// The same, as text.
pub(crate) fn text(command: &mut Command) -> Result<String> {
    String::from_utf8(output(command)?).with_context(|| format!("output of {}", line(command)))
}

/// Says how to get a program that is not in `PATH`.
///
/// # Errors
/// [`Missing`], when it is not there.
pub(crate) fn require(program: &str, remedy: &str) -> Result<()> {
    match Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
    {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Missing::new(format!("the program {program} is not installed"), remedy).into())
        }
        Err(error) => Err(error).with_context(|| format!("starting {program}")),
        Ok(_) => Ok(()),
    }
}

/// The last lines of a text, for an error or a report.
pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().map(|a| a.to_string_lossy()));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_says_what_it_said() {
        let error = output(Command::new("sh").args(["-c", "echo no such luck >&2; exit 3"]))
            .unwrap_err()
            .to_string();
        assert!(error.contains("no such luck"), "{error}");
        assert!(error.contains("exit status: 3"), "{error}");
    }

    #[test]
    fn a_missing_program_comes_with_its_remedy() {
        let error = require("surely-not-a-program", "install it").unwrap_err();
        assert!(error.is::<Missing>());
        assert!(error.to_string().contains("to get it: install it"));
    }

    #[test]
    fn the_last_lines_are_the_last_ones() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc");
        assert_eq!(last_lines("a", 5), "a");
    }
}
