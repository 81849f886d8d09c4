//! How far a comparison is, on standard error: on a terminal in one line that is written over,
//! elsewhere in a line now and then, so that a long one is not silent in a log either.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use surefault_sim::compare::Done;

use crate::progress::ProgressLine;

/// Who is quicker than this needs no line.
const QUIET: Duration = Duration::from_secs(1);
/// Between two lines on a terminal.
const ON_TERMINAL: Duration = Duration::from_millis(100);
/// And between two elsewhere.
const IN_LOG: Duration = Duration::from_secs(10);

/// Says how far a comparison is; may be told by any thread.
pub(super) struct Teller {
    started: Instant,
    state: Mutex<State>,
}

struct State {
    line: ProgressLine,
    said: Instant,
}

impl Teller {
    pub(super) fn new() -> Teller {
        let started = Instant::now();
        let line = ProgressLine::new();
        Teller {
            started,
            state: Mutex::new(State {
                line,
                said: started,
            }),
        }
    }

    /// `done` of the runs of `what` are over.
    pub(super) fn tell(&self, what: &str, done: Done) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let elapsed = now - self.started;
        let between = if state.line.is_shown() {
            ON_TERMINAL
        } else {
            IN_LOG
        };
        if elapsed < QUIET || now - state.said < between {
            return;
        }
        state.said = now;
        let text = text(what, done, elapsed);
        if state.line.is_shown() {
            state.line.show(&text);
        } else {
            eprintln!("surefault: {text}");
        }
    }

    /// Takes the line away, before something else is printed.
    pub(super) fn clear(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.line.clear();
    }
}

fn text(what: &str, Done { runs, of }: Done, elapsed: Duration) -> String {
    format!("{what}: {runs} of {of} runs, {} s", elapsed.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_of_what_how_far_and_how_long() {
        let done = Done { runs: 3, of: 28 };
        let text = text("crowd", done, Duration::from_millis(12_900));
        assert_eq!(text, "crowd: 3 of 28 runs, 12 s");
    }
}
