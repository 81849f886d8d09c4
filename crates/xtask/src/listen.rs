//! Listens to somebody who speaks the protocol, until it is done, dead or overdue.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::protocol::{Phase, Transcript};

/// Until the kernel is up: 5 s on an idle machine, 72 s have been seen on a busy one.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// For a step that takes no time at all: power off, or from one case to the next.
const STEP_LIMIT: Duration = Duration::from_secs(30);
/// On top of the limits that are kept over there: a case's for its preparation, and one for itself.
const GRACE: Duration = Duration::from_secs(30);

/// What was heard.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) transcript: Transcript,
    /// Why it ended before it was done; nothing when it came to its end.
    pub(crate) failure: Option<String>,
    /// From the start until it was up.
    pub(crate) up_after: Option<Duration>,
}

/// A process that never outlives this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it has ended already, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Listens to the stdout of `child`, and ends it. `limit_of` says how long a case may take.
///
/// # Errors
/// When it has no stdout; what goes wrong over there is in [`Heard::failure`].
pub(crate) fn listen(child: Child, limit_of: impl Fn(&str) -> Duration) -> Result<Heard> {
    let started = Instant::now();
    let mut child = Running(child);
    let stdout = child.0.stdout.take().context("its stdout is not a pipe")?;
    let lines = read_lines(stdout);
    let mut heard = Heard {
        transcript: Transcript::new(),
        failure: None,
        up_after: None,
    };
    let mut deadline = started + BOOT_LIMIT;
    loop {
        let wait = deadline.saturating_duration_since(Instant::now());
        let line = match lines.recv_timeout(wait) {
            Ok(line) => line,
            Err(why) => {
                heard.failure = silence(why, heard.transcript.phase());
                break;
            }
        };
        let before = heard.transcript.phase().clone();
        if let Err(error) = heard.transcript.handle_line(&line) {
            heard.failure = Some(format!("the serial line is garbled: {error}"));
            break;
        }
        let phase = heard.transcript.phase();
        if *phase != before {
            heard.up_after = heard.up_after.or_else(|| Some(started.elapsed()));
            deadline = Instant::now()
                + match phase {
                    Phase::Booting => BOOT_LIMIT,
                    Phase::Between | Phase::Done => STEP_LIMIT,
                    Phase::Running(case) => 2 * limit_of(case) + GRACE,
                };
        }
    }
    Ok(heard)
}

/// What it means that nothing more comes.
fn silence(why: RecvTimeoutError, phase: &Phase) -> Option<String> {
    let doing = match phase {
        Phase::Booting => "it did not come up".to_owned(),
        Phase::Between => "no next case, and no end".to_owned(),
        Phase::Running(case) => format!("no end of the case {case}"),
        Phase::Done => "it did not power off".to_owned(),
    };
    match (why, phase) {
        (RecvTimeoutError::Timeout, _) => Some(format!("hang: {doing}")),
        (RecvTimeoutError::Disconnected, Phase::Done) => None,
        (RecvTimeoutError::Disconnected, Phase::Booting | Phase::Between | Phase::Running(_)) => {
            Some(format!("the kernel died or restarted: {doing}"))
        }
    }
}

/// Lines from a thread, so that waiting for one can end; it ends with the process.
fn read_lines(stdout: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        let mut line = Vec::new();
        while let Ok(1..) = reader.read_until(b'\n', &mut line) {
            let text = String::from_utf8_lossy(&line).into_owned();
            if sender.send(text).is_err() {
                return;
            }
            line.clear();
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn hear(script: &str) -> Heard {
        let child = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        listen(child, |_| Duration::ZERO).unwrap()
    }

    #[test]
    fn an_end_without_done_is_a_failure() {
        let heard = hear("echo '@matrix up release=1'; echo '@matrix begin one'");
        assert_eq!(*heard.transcript.phase(), Phase::Running("one".into()));
        assert!(heard.up_after.is_some());
        let failure = heard.failure.unwrap();
        assert!(failure.ends_with("no end of the case one"), "{failure}");
        assert!(hear("exit 0").failure.is_some());
    }

    #[test]
    fn done_and_the_end_are_no_failure() {
        let heard = hear("echo '@matrix up release=1'; echo '@matrix done'");
        assert_eq!(heard.failure, None);
    }

    #[test]
    fn garbage_ends_it_at_once() {
        let heard = hear("echo '@matrix begin'; exec sleep 60");
        assert!(heard.failure.unwrap().contains("garbled"));
    }

    #[test]
    fn silence_is_named_after_what_was_going_on() {
        let phase = Phase::Running("one".into());
        assert_eq!(
            silence(RecvTimeoutError::Timeout, &phase).as_deref(),
            Some("hang: no end of the case one")
        );
        assert_eq!(
            silence(RecvTimeoutError::Timeout, &Phase::Done).as_deref(),
            Some("hang: it did not power off")
        );
    }
}
