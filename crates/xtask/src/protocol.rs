//! What a kernel of the matrix says over its second serial line, and what that means.
//!
//! ```text
//! @matrix up release=… npt=Y …        the kernel is up, modules are loaded
//! @matrix begin NAME                  a case starts
//! | …                                 a line of its stdout
//! ! …                                 a line of its stderr
//! @matrix end NAME exit=3 wall_ms=… user_s=… system_s=…
//! @matrix done                        all cases ran
//!
//! Booting ──up──► Between ──begin──► Running ──end──► Between ──done──► Done
//! ```
//!
//! Each phase but the last ends by its marker, or by the time limit that `qemu.rs` keeps for it.
//! QEMU ends with status 0 also when the kernel panics, so only a marker counts: a case without its
//! end has failed, whatever the reason. No I/O here.

use std::time::Duration;

const MARKER: &str = "@matrix ";

/// What the kernel is doing, as far as it said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not up yet; left by `up`.
    Booting,
    /// Up, no case running; left by `begin` or `done`.
    Between,
    /// In this case; left by its `end`.
    Running(String),
    /// All cases ran: the kernel powers off.
    Done,
}

/// What a kernel said about itself when it was up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Up {
    pub(crate) release: String,
    /// All that was said, as `name=value`.
    pub(crate) facts: Vec<(String, String)>,
}

/// How a case's command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// As the shell says it: above 128 a signal, 137 the case's time limit.
    Code(i32),
    /// The case's preparation failed, and the command was not run.
    Unprepared,
}

/// A case that came to its end marker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) name: String,
    pub(crate) exit: Exit,
    pub(crate) wall: Duration,
    /// User and system time of the command; a vCPU that runs counts as user time.
    pub(crate) cpu: Duration,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Everything that a boot has said so far.
#[derive(Debug)]
pub(crate) struct Transcript {
    phase: Phase,
    pub(crate) up: Option<Up>,
    pub(crate) ended: Vec<Ended>,
    /// Of the case that runs.
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A line that breaks the protocol: something was lost or mangled, nothing after it can be trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProtocolError {
    /// A line that begins as a marker, and is none.
    #[error("not a marker: {0:?}")]
    Unknown(String),
    /// A marker that does not belong here.
    #[error("unexpected in phase {phase:?}: {line:?}")]
    Unexpected {
        /// What the kernel was doing.
        phase: Phase,
        /// What it said.
        line: String,
    },
}

impl Transcript {
    pub(crate) fn new() -> Self {
        Self {
            phase: Phase::Booting,
            up: None,
            ended: Vec::new(),
            stdout: String::new(),
            stderr: String::new(),
        }
    }

    pub(crate) fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Takes the next line, with or without its line end.
    ///
    /// # Errors
    /// [`ProtocolError`]; the transcript is left as it was.
    pub(crate) fn handle_line(&mut self, line: &str) -> Result<(), ProtocolError> {
        let line = line.trim_end_matches(['\r', '\n']);
        let Some(marker) = line.strip_prefix(MARKER) else {
            return self.handle_output(line);
        };
        let mut words = marker.split_whitespace();
        let unexpected = || ProtocolError::Unexpected {
            phase: self.phase.clone(),
            line: line.to_owned(),
        };
        let unknown = || ProtocolError::Unknown(line.to_owned());
        match (words.next(), &self.phase) {
            (Some("up"), Phase::Booting) => {
                let facts: Vec<_> = words.filter_map(fact).collect();
                let release = value(&facts, "release").ok_or_else(unknown)?.to_owned();
                self.up = Some(Up { release, facts });
                self.phase = Phase::Between;
            }
            (Some("begin"), Phase::Between) => {
                let name = words.next().ok_or_else(unknown)?.to_owned();
                self.stdout.clear();
                self.stderr.clear();
                self.phase = Phase::Running(name);
            }
            (Some("end"), Phase::Running(running)) => {
                let name = words.next().ok_or_else(unknown)?;
                if name != running {
                    return Err(unexpected());
                }
                let facts: Vec<_> = words.filter_map(fact).collect();
                let ended = ended(name, &facts).ok_or_else(unknown)?;
                self.ended.push(Ended {
                    stdout: std::mem::take(&mut self.stdout),
                    stderr: std::mem::take(&mut self.stderr),
                    ..ended
                });
                self.phase = Phase::Between;
            }
            (Some("done"), Phase::Between) => self.phase = Phase::Done,
            (Some("up" | "begin" | "end" | "done"), _) => return Err(unexpected()),
            (Some(_) | None, _) => return Err(unknown()),
        }
        Ok(())
    }

    /// Firmware and a dying kernel may say anything outside a case; inside one, every line is its.
    fn handle_output(&mut self, line: &str) -> Result<(), ProtocolError> {
        if !matches!(self.phase, Phase::Running(_)) {
            return Ok(());
        }
        let to = match line.split_at_checked(2) {
            Some(("| ", _)) => &mut self.stdout,
            Some(("! ", _)) => &mut self.stderr,
            Some(_) | None => {
                return Err(ProtocolError::Unexpected {
                    phase: self.phase.clone(),
                    line: line.to_owned(),
                });
            }
        };
        to.push_str(&line[2..]);
        to.push('\n');
        Ok(())
    }
}

fn fact(word: &str) -> Option<(String, String)> {
    let (name, value) = word.split_once('=')?;
    Some((name.to_owned(), value.to_owned()))
}

fn value<'a>(facts: &'a [(String, String)], name: &str) -> Option<&'a str> {
    facts
        .iter()
        .find(|(n, _)| n == name)
        .map(|(_, v)| v.as_str())
}

fn ended(name: &str, facts: &[(String, String)]) -> Option<Ended> {
    let exit = match value(facts, "exit")? {
        "prepare" => Exit::Unprepared,
        code => Exit::Code(code.parse().ok()?),
    };
    let seconds = |name: &str| Duration::try_from_secs_f64(value(facts, name)?.parse().ok()?).ok();
    Some(Ended {
        name: name.to_owned(),
        exit,
        wall: Duration::from_millis(value(facts, "wall_ms")?.parse().ok()?),
        cpu: seconds("user_s")? + seconds("system_s")?,
        stdout: String::new(),
        stderr: String::new(),
    })
}

#[cfg(test)]
mod tests;
