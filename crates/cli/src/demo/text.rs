//! The story for people: a few lines a scene, told as it is played.

use core::fmt::Write as _;
use core::time::Duration;

use surefault_core::PageSize;
use surefault_core::run::Outcome;

use super::Played;
use super::scene::{BAD, PAGES, Scene};
use crate::exit::Failure;
use crate::machine::Machine;
use crate::output::print;
use crate::text::{count, report, time};

/// Tells the story. Nothing is said before the first scene has been played: a host that cannot
/// play it leaves standard output empty.
pub(super) struct Teller {
    number: usize,
    /// What is to be said when the scene has been played.
    held_back: String,
    /// A report has been told.
    reported: bool,
}

impl Teller {
    pub(super) fn new(machine: Machine, page_size: PageSize) -> Teller {
        let mut held_back = format!(
            "machine: {}, 1 vCPU, 1 task, {PAGES} pages of {page_size}\n",
            machine.as_str()
        );
        held_back +=
            &format!("The guest's source is one page too short: page {BAD} cannot be had.\n");
        Teller {
            number: 0,
            held_back,
            reported: false,
        }
    }

    /// A scene is about to be played.
    pub(super) fn begin(&mut self, scene: &Scene) -> Result<(), Failure> {
        self.number += 1;
        // Writing to a string does not fail.
        let _ = writeln!(self.held_back, "\n{}. {}", self.number, scene.title);
        match self.number {
            1 => Ok(()),
            _ => self.say(),
        }
    }

    /// It was played.
    pub(super) fn end(&mut self, played: &Played) -> Result<(), Failure> {
        for line in self.what_came_of(played).lines() {
            let _ = writeln!(self.held_back, "   {line}");
        }
        if let Some(problem) = &played.problem {
            let _ = writeln!(self.held_back, "   NOT AS TOLD: {problem}");
        }
        self.say()
    }

    /// The end.
    pub(super) fn close(
        &mut self,
        story: &[Played],
        no_user: Option<&str>,
        elapsed: Duration,
    ) -> Result<(), Failure> {
        if let Some(reason) = no_user {
            let _ = writeln!(self.held_back, "\nNot played here, --apf user: {reason}.");
        }
        let otherwise = story.iter().filter(|played| played.problem.is_some());
        let names: Vec<&str> = otherwise.map(|played| played.scene.name).collect();
        let _ = match names.is_empty() {
            true => writeln!(
                self.held_back,
                "\nThe story went as told, in {}.",
                time(elapsed)
            ),
            false => writeln!(
                self.held_back,
                "\nThe story did NOT go as told: {}.",
                names.join(", ")
            ),
        };
        self.say()
    }

    fn say(&mut self) -> Result<(), Failure> {
        print(&std::mem::take(&mut self.held_back))
    }

    fn what_came_of(&mut self, played: &Played) -> String {
        let result = &played.ran.result;
        match (result.outcome, &result.report) {
            (Outcome::Reported, Some(_)) if !played.scene.by_surefault() => {
                "\"Bad address\" is all that Linux says: no page, no access, no reason.".to_owned()
            }
            (Outcome::Reported, Some(reported)) => {
                let first = !std::mem::replace(&mut self.reported, true);
                match first || played.problem.is_some() {
                    true => report(reported),
                    false => "The same report, field by field.".to_owned(),
                }
            }
            (Outcome::Looped, _) => looped(played),
            (Outcome::Finished, _) if played.scene.told => {
                let (killed, finished) = (result.stats.tasks_killed, result.stats.tasks_finished);
                let killed = count(killed.into(), "task");
                let finished = count(finished.into(), "task");
                format!("The guest lives: {killed} killed by it, {finished} finished.")
            }
            (Outcome::Finished, _) => {
                let pages = count(result.stats.pages_done, "page visit");
                let right = match played.ran.counts {
                    Some(_) => "",
                    None => ", and all that was read is right",
                };
                format!("The guest has finished: {pages}{right}.")
            }
            (outcome, _) => format!("The run ended as {outcome:?}."),
        }
    }
}

/// The loop, with what was counted meanwhile.
fn looped(played: &Played) -> String {
    let result = &played.ran.result;
    let elapsed = time(result.stats.elapsed);
    let stopped = match &played.ran.counts {
        Some(counts) => {
            let faults = count(counts.faults, "fault");
            format!("Stopped from outside after {elapsed} of simulated time, and {faults}.")
        }
        None => {
            let faults = match result.stats.kvm.get("pf_taken") {
                Some(&faults) => format!(" and {}", count(faults, "fault")),
                None => String::new(),
            };
            format!("Stopped from outside after {elapsed}{faults}; KVM_RUN never returned.")
        }
    };
    format!(
        "\"Page ready\", says Linux of a page that it does not have; the guest asks again, for \
         ever.\n{stopped}"
    )
}
