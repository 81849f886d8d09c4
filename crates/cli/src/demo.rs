//! The command `demo`: one guest, one bad page, and what becomes of it.
//!
//! ```text
//!  Linux alone ─── synchronous ──► "Bad address"         asynchronous ──► the loop
//!  Surefault ───── every mode ───► the same report ──── repaired ──► the guest finishes
//!                                                       told ──────► it kills one task, the other finishes
//! ```
//!
//! Each scene is a run like any other; the story is told by the runs' results, and goes as told
//! only if each of them is what it should be.

mod json;
mod scene;
mod text;

use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use surefault_core::PageSize;
use surefault_core::run::{Outcome, Reported};
use surefault_kvm::runner::{AfterReport, Observer};
use surefault_store::{PatternStore, Store};

use crate::args::{DemoArgs, Format};
use crate::exit::{Exit, Failure};
use crate::machine::{Machine, Ran};
use crate::output::print_json;
use crate::run::host_page_size;
use crate::{kvm, simulated};

use json::Story;
use scene::{PAGES, SEED, Scene};
use text::Teller;

/// A scene that was played.
struct Played {
    scene: &'static Scene,
    ran: Ran,
    /// What was not as told.
    problem: Option<String>,
}

pub(crate) fn run(args: &DemoArgs) -> Result<Exit, Failure> {
    let machine = Machine::for_demo(args.machine);
    let page_size = match machine {
        Machine::Kvm => host_page_size(),
        Machine::Simulated => PageSize::KIB_4,
    };
    let started = Instant::now();
    let mut teller = match args.format {
        Format::Text => Some(Teller::new(machine, page_size)),
        Format::Json => None,
    };
    let mut story: Vec<Played> = Vec::new();
    let no_user = scene::no_user(machine);
    for scene in scene::all(no_user.is_none()) {
        if let Some(teller) = &mut teller {
            teller.begin(scene)?;
        }
        let ran = play(scene, machine, page_size)?;
        let problem = scene.problem(&ran, first_report(&story));
        let played = Played {
            scene,
            ran,
            problem,
        };
        if let Some(teller) = &mut teller {
            teller.end(&played)?;
        }
        story.push(played);
    }
    let elapsed = started.elapsed();
    match &mut teller {
        Some(teller) => teller.close(&story, no_user.as_deref(), elapsed)?,
        None => print_json(&Story::of(machine, &story, no_user.as_deref(), elapsed))?,
    }
    Ok(match story.iter().all(|played| played.problem.is_none()) {
        true => Exit::Ran,
        false => Exit::Unexpected,
    })
}

/// Surefault's first report, which all others must equal.
fn first_report(story: &[Played]) -> Option<&Reported> {
    let told = story.iter().filter(|played| played.scene.by_surefault());
    told.filter_map(|played| played.ran.result.report.as_ref())
        .next()
}

/// Plays a scene. One that should loop is given more time where the host is too busy to ask for a
/// page a hundred times.
fn play(scene: &Scene, machine: Machine, page_size: PageSize) -> Result<Ran, Failure> {
    let limit = scene.limit(machine);
    let ran = play_for(scene, machine, page_size, limit)?;
    match (scene.expected, ran.result.outcome) {
        (Outcome::Looped, Outcome::TimedOut) => {
            play_for(scene, machine, page_size, limit.saturating_mul(4))
        }
        _ => Ok(ran),
    }
}

fn play_for(
    scene: &Scene,
    machine: Machine,
    page_size: PageSize,
    limit: Duration,
) -> Result<Ran, Failure> {
    let spec = scene.spec(limit);
    match machine {
        Machine::Kvm => {
            let source: Arc<dyn Store> =
                Arc::new(PatternStore::new(SEED, PAGES * page_size.bytes()));
            let after = match scene.repaired {
                true => AfterReport::Heal,
                false => AfterReport::Stop,
            };
            kvm::run(&spec, source, &mut OnReport(after))
        }
        Machine::Simulated => {
            let spec = simulated::spec(spec, Default::default());
            simulated::run(&match scene.repaired {
                true => simulated::healing(spec),
                false => spec,
            })
        }
    }
}

/// Does the same about each report.
struct OnReport(AfterReport);

impl Observer for OnReport {
    fn reported(&mut self, _: &Reported) -> AfterReport {
        self.0
    }
}
