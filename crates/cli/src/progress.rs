//! How far a run is, in one line on standard error that is written over again and again: only where
//! that is a terminal, and without colours or escape sequences.

use core::ops::ControlFlow;
use core::time::Duration;
use std::io::{IsTerminal as _, Write as _};

use surefault_kvm::runner::{Observer, Progress};

pub(crate) struct ProgressLine {
    shown: bool,
    /// Characters in the line that stands there now.
    width: usize,
}

impl ProgressLine {
    pub(crate) fn new() -> ProgressLine {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        ProgressLine {
            shown: std::io::stderr().is_terminal() && !dumb,
            width: 0,
        }
    }

    /// Takes the line away.
    pub(crate) fn clear(&mut self) {
        self.show("");
        if self.shown {
            write(b"\r");
        }
    }

    /// Somebody may see it.
    pub(crate) fn is_shown(&self) -> bool {
        self.shown
    }

    /// Writes `line` over what stands there.
    pub(crate) fn show(&mut self, line: &str) {
        if self.shown {
            // Padded, so that nothing is left of a longer one.
            write(format!("\r{line:<width$}", width = self.width).as_bytes());
            self.width = line.chars().count();
        }
    }
}

fn write(bytes: &[u8]) {
    // A terminal that is gone is no reason to stop.
    let mut stderr = std::io::stderr().lock();
    let _ = stderr.write_all(bytes).and_then(|()| stderr.flush());
}

impl Observer for ProgressLine {
    fn progress(&mut self, progress: &Progress) -> ControlFlow<()> {
        self.show(&line(progress));
        ControlFlow::Continue(())
    }
}

fn line(progress: &Progress) -> String {
    let Progress {
        done,
        total,
        elapsed,
        ..
    } = *progress;
    let percent = (done * 100).checked_div(total).unwrap_or(100);
    format!("{percent:>3} % of {total} pages, {}", seconds(elapsed))
}

fn seconds(elapsed: Duration) -> String {
    format!("{:.1} s", elapsed.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_and_how_long() {
        let progress = Progress {
            asked_again: 0,
            done: 5,
            total: 40,
            counted: 0,
            elapsed: Duration::from_millis(1250),
        };
        assert_eq!(line(&progress), " 12 % of 40 pages, 1.2 s");
    }
}
