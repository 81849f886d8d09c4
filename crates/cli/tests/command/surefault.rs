//! Running the command, and what came of it.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_surefault");

/// `surefault run` with these arguments. Its own --timeout bounds it.
pub(crate) fn run(arguments: &[&str]) -> Ran {
    output(Command::new(BINARY).arg("run").args(arguments))
}

pub(crate) fn output(command: &mut Command) -> Ran {
    let output = command.stdin(Stdio::null()).output();
    let Output {
        status,
        stdout,
        stderr,
    } = output.expect("the command starts");
    Ran {
        code: status.code(),
        stdout: String::from_utf8(stdout).expect("text"),
        stderr: String::from_utf8(stderr).expect("text"),
    }
}

impl Ran {
    pub(crate) fn ended(self, code: i32) -> Ran {
        assert_eq!(
            self.code,
            Some(code),
            "stdout: {}\nstderr: {}",
            self.stdout,
            self.stderr
        );
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self
    }

    /// It was refused before anything ran, in words that contain all of these.
    pub(crate) fn refused(self, code: i32, words: &[&str]) {
        let ran = self.ended(code);
        for word in words {
            assert!(
                ran.stderr.contains(word),
                "'{word}' is not in: {}",
                ran.stderr
            );
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).expect("one JSON object")
    }
}
