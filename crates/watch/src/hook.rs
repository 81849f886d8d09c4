//! A command that is run once for each case, with the facts in its environment.
//!
//! | variable | |
//! |---|---|
//! | `SUREFAULT_CASE` | `stuck` or `frozen` |
//! | `SUREFAULT_PID`, `SUREFAULT_TID`, `SUREFAULT_COMM` | the VM's process; the thread and its name |
//! | `SUREFAULT_VCPU` | KVM's id of the vCPU |
//! | `SUREFAULT_GFN`, `SUREFAULT_GVA`, `SUREFAULT_HVA` | the page: number, fault address, host address |
//! | `SUREFAULT_PATH`, `SUREFAULT_OFFSET` | the file behind it |
//! | `SUREFAULT_CAUSE`, `SUREFAULT_CAUSE_TEXT`, `SUREFAULT_REMEDY` | why, and what to do |
//! | `SUREFAULT_RETRIES`, `SUREFAULT_SINCE_NS` | how often, and for how long |
//!
//! What is not known is set, and empty.

use std::collections::VecDeque;
use std::io;
use std::process::{Child, Command, Stdio};

use crate::case::Case;

/// More commands than this do not run at once; further ones wait for their turn.
const AT_ONCE: usize = 4;

/// Runs a command for each case it is given.
#[derive(Debug)]
pub struct Hook {
    command: String,
    waiting: VecDeque<Vec<(&'static str, String)>>,
    running: Vec<Child>,
}

impl Hook {
    /// Runs `command` by `sh -c`.
    pub fn new(command: impl Into<String>) -> Hook {
        Hook {
            command: command.into(),
            waiting: VecDeque::new(),
            running: Vec::new(),
        }
    }

    /// Runs the command for `case`, at once or when one of those before it has ended.
    ///
    /// # Errors
    /// When no process could be made.
    pub fn run(&mut self, case: &Case) -> io::Result<()> {
        self.waiting.push_back(environment(case));
        self.tend()
    }

    /// Collects the commands that have ended, and starts those that wait. To be called now and
    /// then.
    ///
    /// # Errors
    /// When no process could be made.
    pub fn tend(&mut self) -> io::Result<()> {
        self.running
            .retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        while self.running.len() < AT_ONCE
            && let Some(environment) = self.waiting.pop_front()
        {
            let child = Command::new("sh")
                .args(["-c", &self.command])
                .envs(environment)
                .stdin(Stdio::null())
                .spawn()?;
            self.running.push(child);
        }
        Ok(())
    }

    /// Whether commands are running, or wait for their turn.
    pub fn is_busy(&self) -> bool {
        !self.running.is_empty() || !self.waiting.is_empty()
    }
}

fn environment(case: &Case) -> Vec<(&'static str, String)> {
    fn text<T: ToString>(value: Option<T>) -> String {
        value.map(|value| value.to_string()).unwrap_or_default()
    }
    let cause = case.cause();
    let (gfn, gva, hva, path, offset, retries) = match case {
        Case::Stuck(stuck) => (
            Some(stuck.gfn),
            Some(stuck.gva),
            stuck.hva,
            stuck.path.as_ref(),
            stuck.offset,
            Some(stuck.retries),
        ),
        Case::Frozen(frozen) => (
            frozen.gfn,
            frozen.gva,
            None,
            frozen.path.as_ref(),
            None,
            None,
        ),
    };
    vec![
        ("SUREFAULT_CASE", case.word().to_owned()),
        ("SUREFAULT_PID", case.pid().to_string()),
        ("SUREFAULT_TID", case.tid().to_string()),
        ("SUREFAULT_COMM", case.comm().to_owned()),
        ("SUREFAULT_VCPU", text(case.vcpu())),
        ("SUREFAULT_GFN", text(gfn)),
        ("SUREFAULT_GVA", text(gva)),
        ("SUREFAULT_HVA", text(hva)),
        ("SUREFAULT_PATH", text(path)),
        ("SUREFAULT_OFFSET", text(offset)),
        ("SUREFAULT_CAUSE", cause.kind.to_string()),
        ("SUREFAULT_CAUSE_TEXT", cause.text.clone()),
        ("SUREFAULT_REMEDY", cause.remedy.clone()),
        ("SUREFAULT_RETRIES", text(retries)),
        ("SUREFAULT_SINCE_NS", case.since().as_nanos().to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::case::samples;

    #[test]
    fn the_facts_are_in_the_environment_once_for_each_case() {
        let directory = tempfile::tempdir().expect("a directory");
        let out = directory.path().join("out");
        let line = "$SUREFAULT_CASE $SUREFAULT_PID $SUREFAULT_GFN $SUREFAULT_CAUSE[$SUREFAULT_HVA]";
        let mut hook = Hook::new(format!("sleep 0.1; echo \"{line}\" >> {}", out.display()));
        for _ in 0..AT_ONCE {
            hook.run(&Case::Stuck(samples::stuck())).expect("run");
        }
        hook.run(&Case::Frozen(samples::frozen())).expect("run");
        assert_eq!(hook.running.len(), AT_ONCE);
        let end = Instant::now() + Duration::from_secs(60);
        while hook.is_busy() {
            assert!(Instant::now() < end, "the commands end");
            std::thread::sleep(Duration::from_millis(10));
            hook.tend().expect("tend");
        }
        let said = std::fs::read_to_string(out).expect("output");
        let stuck = "stuck 10 515 truncated[0x7f1200003000]";
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines.len(), AT_ONCE + 1);
        assert_eq!(lines[..AT_ONCE], [stuck; AT_ONCE]);
        assert_eq!(lines[AT_ONCE], "frozen 10  handler-gone[]");
    }
}
