//! A trace from text. What is wrong is named with file, line and field.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use surefault_core::run::TaskId;
use surefault_core::workload::Workload;
use surefault_core::{PageIndex, VcpuId};
use thiserror::Error;

use super::Trace;
use super::expect::Expected;
use super::keys::{Head, KEYS, Wrong};
use crate::machine::{PagerStep, Setup};
use crate::world::{Answer, Step, TimerKind};

/// What every trace begins with: the number counts the changes of the format.
pub(super) const FIRST_LINE: &str = "surefault trace 1";

/// Why a trace was not understood.
#[derive(Debug, Error)]
pub enum TraceError {
    /// It could not be read.
    #[error("cannot read the trace {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        error: std::io::Error,
    },
    /// A field does not have a value that it may have.
    #[error("{}, line {line}, field `{field}`: '{value}' is not {expected}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The field: the line's first word.
        field: String,
        /// What is after it.
        value: String,
        /// What it should be.
        expected: String,
    },
    /// A line is no line of a trace, or stands where it must not.
    #[error("{}, line {line}, field `{field}`: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The field: the line's first word.
        field: String,
        /// What is wrong.
        problem: String,
    },
}

/// A step's word, what comes after it, and how that is read.
pub(super) struct Verb {
    pub(super) name: &'static str,
    expected: &'static str,
    read: fn(&[&str]) -> Option<Step>,
}

pub(super) const VERBS: &[Verb] = &[
    verb("enter", "a vCPU", |words| {
        Some(Step::Enter(vcpu(only(words)?)?))
    }),
    verb("touch", "a vCPU", |words| {
        Some(Step::Touch(vcpu(only(words)?)?))
    }),
    verb("irqs-on", "a vCPU", |words| {
        Some(Step::IrqsOn(vcpu(only(words)?)?))
    }),
    verb("tick", "a vCPU", |words| {
        Some(Step::Tick(vcpu(only(words)?)?))
    }),
    verb("ack", "a vCPU", |words| {
        Some(Step::Ack(vcpu(only(words)?)?))
    }),
    verb("switch", "a vCPU and a task", |words| {
        let [on, to] = words else { return None };
        Some(Step::Switch(vcpu(on)?, task(to)?))
    }),
    verb(
        "fetched",
        "a page, one of data, temporary, permanent, truncated, and at most nth=N",
        fetched,
    ),
    verb(
        "timer",
        "one of deadline, patience, backoff, failure-ttl and a page, or unclaimed, or policy and a \
         number",
        timer,
    ),
    verb("apf-on", "a vCPU", |words| {
        Some(Step::Apf(vcpu(only(words)?)?, true))
    }),
    verb("apf-off", "a vCPU", |words| {
        Some(Step::Apf(vcpu(only(words)?)?, false))
    }),
    verb("repair", "a page", |words| {
        Some(Step::Repair(page(only(words)?)?))
    }),
    verb("mend", "a page", |words| {
        Some(Step::Mend(page(only(words)?)?))
    }),
    verb("relapse", "a page", |words| {
        Some(Step::Relapse(page(only(words)?)?))
    }),
    verb("remove", "a page", |words| {
        Some(Step::Remove(page(only(words)?)?))
    }),
    verb("kill", "a task", |words| {
        Some(Step::Kill(task(only(words)?)?))
    }),
    verb(
        "pager",
        "one of read, note, tell, intend, install, record, answer, attach",
        |words| {
            let step = PagerStep::WORDS
                .iter()
                .find(|(_, word)| only(words) == Some(word))?;
            Some(Step::Pager(step.0))
        },
    ),
    verb("zap", "a page", |words| {
        Some(Step::Pager(PagerStep::Zap(page(only(words)?)?)))
    }),
    verb("die", "nothing", |words| {
        words.is_empty().then_some(Step::Die)
    }),
    verb("migrate", "a task and a vCPU", |words| {
        let [who, to] = words else { return None };
        Some(Step::Migrate(task(who)?, vcpu(to)?))
    }),
];

const fn verb(
    name: &'static str,
    expected: &'static str,
    read: fn(&[&str]) -> Option<Step>,
) -> Verb {
    Verb {
        name,
        expected,
        read,
    }
}

fn only<'a>(words: &[&'a str]) -> Option<&'a str> {
    match words {
        [word] => Some(word),
        _ => None,
    }
}

fn vcpu(word: &str) -> Option<VcpuId> {
    word.parse().ok().map(VcpuId::new)
}

fn task(word: &str) -> Option<TaskId> {
    word.parse().ok().map(TaskId::new)
}

fn page(word: &str) -> Option<PageIndex> {
    word.parse().ok().map(PageIndex::new)
}

fn fetched(words: &[&str]) -> Option<Step> {
    let (of, answer, nth) = match words {
        [of, answer] => (of, answer, 0),
        [of, answer, nth] => (of, answer, nth.strip_prefix("nth=")?.parse().ok()?),
        _ => return None,
    };
    let (answer, _) = Answer::ALL.into_iter().find(|(_, word)| word == answer)?;
    let page = page(of)?;
    Some(Step::Fetched { page, nth, answer })
}

fn timer(words: &[&str]) -> Option<Step> {
    match words {
        ["unclaimed"] => Some(Step::Unclaimed),
        ["policy", number] => Some(Step::PolicyTimer(number.parse().ok()?)),
        [kind, of] => {
            let (kind, _) = TimerKind::ALL.into_iter().find(|(_, word)| word == kind)?;
            Some(Step::PageTimer(kind, page(of)?))
        }
        _ => None,
    }
}

impl Trace {
    /// Reads the trace in the file at `path`.
    ///
    /// # Errors
    /// [`TraceError`], with file, line and field.
    pub fn load(path: &Path) -> Result<Trace, TraceError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Trace::parse(path, &text),
            Err(error) => Err(TraceError::Read {
                path: path.to_owned(),
                error,
            }),
        }
    }

    /// Reads it from `text`; `path` is what errors name.
    ///
    /// # Errors
    /// [`TraceError`], with file, line and field.
    pub fn parse(path: &Path, text: &str) -> Result<Trace, TraceError> {
        Reader {
            path,
            head: Head::usual(),
            last_of_head: 1,
            steps: Vec::new(),
            lines: Vec::new(),
            cycle: None,
            expected: Vec::new(),
        }
        .read(text)
    }
}

struct Reader<'a> {
    path: &'a Path,
    head: Head,
    last_of_head: usize,
    steps: Vec<Step>,
    lines: Vec<usize>,
    cycle: Option<usize>,
    expected: Vec<Expected>,
}

impl Reader<'_> {
    fn read(mut self, text: &str) -> Result<Trace, TraceError> {
        let lines = text
            .lines()
            .map(|line| line.split('#').next().unwrap_or(""));
        let mut lines = (1..)
            .zip(lines.map(str::trim))
            .filter(|(_, line)| !line.is_empty());
        match lines.next() {
            Some((_, FIRST_LINE)) => {}
            first => {
                let (line, found) = first.unwrap_or((1, ""));
                let problem = format!("a trace begins with '{FIRST_LINE}'");
                return Err(self.wrong_line(line, found, problem));
            }
        }
        for (line, text) in lines {
            self.line(line, text)?;
        }
        if self.cycle.is_some_and(|at| at == self.steps.len()) {
            let line = self.lines.last().copied().unwrap_or(self.last_of_head);
            let problem = "nothing goes on again and again".to_owned();
            return Err(self.wrong_line(line, "cycle", problem));
        }
        Ok(Trace {
            setup: Arc::new(self.setup()?),
            steps: self.steps,
            cycle: self.cycle,
            expected: self.expected,
            lines: self.lines,
        })
    }

    fn line(&mut self, line: usize, text: &str) -> Result<(), TraceError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (field, words) = words.split_first().unwrap_or((&"", &[]));
        if let Some(key) = KEYS.iter().find(|key| key.name == *field) {
            if !self.steps.is_empty() {
                let problem = "it belongs to the head, before the first step".to_owned();
                return Err(self.wrong_line(line, field, problem));
            }
            self.last_of_head = line;
            return (key.read)(&mut self.head, words)
                .map_err(|expected| self.wrong_value(line, field, words, expected));
        }
        if let Some(verb) = VERBS.iter().find(|verb| verb.name == *field) {
            let step = (verb.read)(words)
                .ok_or_else(|| self.wrong_value(line, field, words, verb.expected.to_owned()))?;
            self.steps.push(step);
            self.lines.push(line);
            return Ok(());
        }
        match *field {
            "cycle" if self.cycle.is_none() && words.is_empty() => {
                self.cycle = Some(self.steps.len());
                Ok(())
            }
            "cycle" => {
                let problem = "it stands once, and alone".to_owned();
                Err(self.wrong_line(line, field, problem))
            }
            "expect" => {
                let expected = Expected::read(words)
                    .map_err(|expected| self.wrong_value(line, field, words, expected))?;
                self.expected.push(expected);
                Ok(())
            }
            _ => {
                let problem = "this is no key, no step, no 'cycle' and no 'expect'".to_owned();
                Err(self.wrong_line(line, field, problem))
            }
        }
    }

    /// The machine, once all of the head is there.
    fn setup(&mut self) -> Result<Setup, TraceError> {
        let line = self.last_of_head;
        let tasks = std::mem::take(&mut self.head.tasks);
        if tasks.is_empty() {
            return Err(self.wrong_line(line, "task", "there is no task".to_owned()));
        }
        let workload = Workload::new(self.head.pages, tasks)
            .map_err(|error| self.wrong_line(line, "task", error.to_string()))?;
        let setup = Setup {
            workload,
            ..self.head.setup.clone()
        };
        let named = setup.failing.keys().chain(&setup.intermittent);
        let mut named = named.chain(&setup.kernel).chain(&setup.irqs_off);
        let pages = setup.workload.pages().get();
        if let Some(page) = named.find(|page| u64::from(page.get()) >= pages) {
            let problem = format!("there is no page {page}: there are {pages}");
            return Err(self.wrong_line(line, "pages", problem));
        }
        // The machines know what else contradicts itself.
        match crate::world::World::new(Arc::new(setup.clone()), crate::world::Budgets::NONE) {
            Ok(_) => Ok(setup),
            Err(error) => {
                let problem = match std::error::Error::source(&error) {
                    Some(source) => format!("{error}: {source}"),
                    None => error.to_string(),
                };
                Err(self.wrong_line(line, "vcpus", problem))
            }
        }
    }

    fn wrong_line(&self, line: usize, field: &str, problem: String) -> TraceError {
        TraceError::Line {
            path: self.path.to_owned(),
            line,
            field: field.split_whitespace().next().unwrap_or("").to_owned(),
            problem,
        }
    }

    fn wrong_value(&self, line: usize, field: &str, words: &[&str], expected: Wrong) -> TraceError {
        TraceError::Value {
            path: self.path.to_owned(),
            line,
            field: field.to_owned(),
            value: words.join(" "),
            expected,
        }
    }
}
