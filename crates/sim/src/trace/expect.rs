//! What came of a trace, and what must.

use core::fmt;

use serde::Serialize;
use surefault_core::faults::Fault;
use surefault_core::policy::Policy;
use surefault_core::run::TaskId;
use thiserror::Error;

use super::keys::{Wrong, one};
use super::replay::Replayed;
use crate::machine::{Ended, Happened, vcpu_id};
use crate::world::World;

/// How a trace ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// Every task is over.
    Finished,
    /// A vCPU stopped with a report, and that was the end.
    Reported,
    /// It can go on like that for ever.
    Looped,
    /// The steps are over, and nothing else is.
    Open,
}

impl Ending {
    const ALL: [(Ending, &'static str); 4] = [
        (Ending::Finished, "finished"),
        (Ending::Reported, "reported"),
        (Ending::Looped, "looped"),
        (Ending::Open, "open"),
    ];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        let word = Ending::ALL.iter().find(|(ending, _)| *ending == self);
        word.map_or("", |(_, word)| word)
    }
}

/// What was counted along a trace. Written with `serde`, it is `counts` of `surefault replay`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Tally {
    /// Faults.
    pub faults: u64,
    /// The most retries of one access for one failure of its page.
    pub retries: u64,
    /// The most often that one access was taken again after "ready".
    pub asked_again: u64,
    /// Faults for which a vCPU waited.
    pub synchronous: u64,
    /// Faults on pages that do not fail which the policy alone sent the synchronous way.
    pub refused: u64,
    /// Entries at which "ready" had to wait, because the guest had interrupts off.
    pub held: u64,
    /// Reports.
    pub reports: u64,
    /// Reports of a page that does not fail, or that the task on the vCPU did not want.
    pub wrong_reports: u64,
    /// Tasks that were told that there is no page for them.
    pub told: u64,
    /// Tasks that were killed.
    pub killed: u64,
    /// Errors that nobody came back for.
    pub unclaimed: u64,
    /// vCPUs whose asynchronous faults the policy has off at the end.
    pub off: u64,
    /// Errors whose task has not come back at the end.
    pub owed: u64,
    /// How often the worker that serves the pages was killed.
    pub deaths: u64,
    /// How often a page had old data put in place, or zeros instead of its data.
    pub wrong_pages: u64,
    /// The last report, and whose registers the vCPU had.
    #[serde(skip)]
    pub reported: Option<(Fault, Option<TaskId>)>,
}

impl Tally {
    /// Counts what came of a step that has led to `world`.
    pub(super) fn count<P: Policy>(&mut self, happened: &[Happened], world: &World<P>) {
        let setup = world.machine().setup();
        for what in happened {
            match *what {
                Happened::Faulted {
                    again, asked_again, ..
                } => {
                    self.faults += 1;
                    self.retries = self.retries.max(again.into());
                    self.asked_again = self.asked_again.max(asked_again);
                }
                Happened::Waits { page, refused, .. } => {
                    self.synchronous += 1;
                    self.refused += u64::from(refused && !setup.is_failing(page));
                }
                Happened::Reported {
                    fault, task, right, ..
                } => {
                    self.reports += 1;
                    self.wrong_reports += u64::from(!right);
                    self.reported = Some((fault, task));
                }
                Happened::Ended { how, .. } => match how {
                    Ended::Mapped => {}
                    Ended::Told => self.told += 1,
                    Ended::Killed => self.killed += 1,
                },
                Happened::Unclaimed(_) => self.unclaimed += 1,
                Happened::Died => self.deaths += 1,
                Happened::WrongPage { .. } => self.wrong_pages += 1,
                Happened::Held(_) => self.held += 1,
                Happened::Queued { .. }
                | Happened::Halted(_)
                | Happened::Ready { .. }
                | Happened::Woken { .. }
                | Happened::Attached
                | Happened::Settled { .. } => {}
            }
        }
        let faults = world.machine().faults();
        let vcpus = (0..usize::from(setup.faults.vcpus)).map(vcpu_id);
        let off = vcpus.filter(|&vcpu| faults.policy().is_off(vcpu));
        self.off = off.count() as u64;
        self.owed = faults.owed() as u64;
    }
}

/// A fact that a trace can expect: its name, and where it stands.
type Fact = (&'static str, fn(&Tally) -> Option<u64>);

/// All of them but the ending.
pub(super) const FACTS: &[Fact] = &[
    ("page", |tally| {
        tally
            .reported
            .map(|(fault, _)| u64::from(fault.page.index().get()))
    }),
    ("task", |tally| {
        tally.reported?.1.map(|task| u64::from(task.get()))
    }),
    ("faults", |tally| Some(tally.faults)),
    ("retries", |tally| Some(tally.retries)),
    ("asked-again", |tally| Some(tally.asked_again)),
    ("synchronous", |tally| Some(tally.synchronous)),
    ("refused", |tally| Some(tally.refused)),
    ("held", |tally| Some(tally.held)),
    ("reports", |tally| Some(tally.reports)),
    ("wrong-reports", |tally| Some(tally.wrong_reports)),
    ("told", |tally| Some(tally.told)),
    ("killed", |tally| Some(tally.killed)),
    ("unclaimed", |tally| Some(tally.unclaimed)),
    ("off", |tally| Some(tally.off)),
    ("owed", |tally| Some(tally.owed)),
    ("deaths", |tally| Some(tally.deaths)),
    ("wrong-pages", |tally| Some(tally.wrong_pages)),
];

/// Something that must come of a trace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// `outcome`.
    Ending(Ending),
    /// A fact by its name, and its value; `none` is for those that are not always there.
    Fact(&'static str, Option<u64>),
    /// `digest`: all that happened, to the last field.
    Digest(u64),
}

/// Something else came of it.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("expected {expected}, found {found}")]
pub struct Mismatch {
    /// What must have come of it.
    pub expected: Expected,
    /// What did.
    pub found: String,
}

impl Expected {
    /// Reads what is after `expect`.
    pub(super) fn read(words: &[&str]) -> Result<Expected, Wrong> {
        let names: Vec<&str> = FACTS.iter().map(|(name, _)| *name).collect();
        let expected = || {
            format!(
                "outcome and one of finished, reported, looped, open; or digest and 16 hexadecimal \
                 digits; or one of {} and a number or none",
                names.join(", ")
            )
        };
        let (name, value) = words.split_first().ok_or_else(expected)?;
        if *name == "outcome" {
            let ending = |word: &str| {
                let found = Ending::ALL.iter().find(|(_, name)| *name == word)?;
                Some(Expected::Ending(found.0))
            };
            return one(value, &expected(), ending);
        }
        if *name == "digest" {
            let digest = |word: &str| {
                let digits = Some(word).filter(|word| word.len() == 16)?;
                u64::from_str_radix(digits, 16).ok().map(Expected::Digest)
            };
            return one(value, &expected(), digest);
        }
        let (name, _) = FACTS
            .iter()
            .find(|(fact, _)| fact == name)
            .ok_or_else(expected)?;
        let number = |word: &str| match word {
            "none" => Some(None),
            word => word.parse().ok().map(Some),
        };
        Ok(Expected::Fact(name, one(value, &expected(), number)?))
    }

    /// Holds it against what came of the trace.
    pub(super) fn check(&self, replayed: &Replayed) -> Result<(), Mismatch> {
        let tally = &replayed.tally;
        let found = match self {
            Expected::Ending(_) => Expected::Ending(replayed.ending),
            Expected::Digest(_) => Expected::Digest(replayed.digest()),
            Expected::Fact(name, _) => {
                let fact = FACTS.iter().find(|(fact, _)| fact == name);
                Expected::Fact(name, fact.and_then(|(_, value)| value(tally)))
            }
        };
        match found == *self {
            true => Ok(()),
            false => Err(Mismatch {
                expected: *self,
                found: found.value(),
            }),
        }
    }

    fn value(&self) -> String {
        match self {
            Expected::Ending(ending) => ending.as_str().to_owned(),
            Expected::Digest(digest) => format!("{digest:016x}"),
            Expected::Fact(_, value) => {
                value.map_or_else(|| "none".to_owned(), |value| value.to_string())
            }
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expected::Ending(_) => write!(f, "outcome {}", self.value()),
            Expected::Digest(_) => write!(f, "digest {}", self.value()),
            Expected::Fact(name, _) => write!(f, "{name} {}", self.value()),
        }
    }
}
