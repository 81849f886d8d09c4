//! How the command ends.

use core::fmt;
use std::process::ExitCode;

/// The exit codes, the same for every command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    /// It ran as asked.
    Ran = 0,
    /// Something that should not happen: a bug, or a host that breaks its promises.
    Unexpected = 1,
    /// Wrong usage, or input that makes no sense. clap ends with the same code.
    Usage = 2,
    /// What was looked for was found: a failed page was reported.
    Found = 3,
    /// A limit was reached.
    Limit = 4,
    /// The host lacks something.
    Host = 5,
    /// It was stopped before it was through.
    Incomplete = 6,
}

impl Exit {
    /// What a process that ended with `code` meant, if it was one of this command.
    pub(crate) fn from_code(code: u8) -> Exit {
        let all = [
            Exit::Ran,
            Exit::Unexpected,
            Exit::Usage,
            Exit::Found,
            Exit::Limit,
            Exit::Host,
            Exit::Incomplete,
        ];
        let meant = all.into_iter().find(|&exit| exit as u8 == code);
        meant.unwrap_or(Exit::Unexpected)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why the command could not do what it was told: one line with the chain of causes, and what to do
/// about it where that is known.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    error: anyhow::Error,
    remedy: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Failure {
        Failure {
            exit,
            error: error.into(),
            remedy: None,
        }
    }

    /// Wrong usage, in words that name the option.
    pub(crate) fn usage(text: impl fmt::Display) -> Failure {
        Failure::new(Exit::Usage, anyhow::anyhow!("{text}"))
    }

    /// An option's value turned out to be wrong.
    pub(crate) fn option(option: &'static str, error: impl Into<anyhow::Error>) -> Failure {
        Failure::new(Exit::Usage, error.into().context(option))
    }

    pub(crate) fn with_remedy(self, remedy: impl Into<String>) -> Failure {
        Failure {
            remedy: Some(remedy.into()),
            ..self
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.error)?;
        match &self.remedy {
            Some(remedy) => write!(f, "\n  what to do: {remedy}"),
            None => Ok(()),
        }
    }
}
