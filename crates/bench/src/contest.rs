//! The handlers against each other, in turns.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::handler::UNSUPERVISED;
use crate::{BenchError, Handler, HandlerKind, Order, Served, Source, Spread, Vmm};

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Contest {
    /// Pages of each VM.
    pub pages: u32,
    /// Numbers of faulting threads, each measured by itself.
    pub threads: Vec<usize>,
    /// How often everything is measured.
    pub rounds: u32,
    /// The program and the arguments of Surefault's entry.
    pub surefault: HandlerKind,
    /// Whether the same without a supervisor takes part, too.
    pub unsupervised: bool,
    /// The command that plays a [`Vmm`] in a process of its own, and writes what was [`Served`] as
    /// JSON.
    pub player: fn(&Vmm) -> Command,
    /// Whether it is to end before it is through; asked after each measurement.
    pub interrupted: fn() -> bool,
}

/// Who takes part, and in what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entrant {
    /// The handler's name.
    pub name: &'static str,
    /// The order of the accesses.
    pub order: Order,
    /// Faulting threads.
    pub threads: usize,
}

/// What came of one entrant, over all rounds.
#[derive(Clone, Debug)]
pub struct Row {
    /// Who, and in what.
    pub entrant: Entrant,
    /// Pages per second.
    pub pages_per_second: Spread,
    /// Half of the accesses took no longer, in nanoseconds: the medians of the rounds.
    pub p50_ns: Spread,
    /// 99 of 100 took no longer.
    pub p99_ns: Spread,
    /// Its rate against the floor's in the same round.
    pub to_floor: Spread,
    /// Its rate against the ceiling's in the same round; of none where the ceiling has no part.
    pub to_ceiling: Spread,
    /// Its rate against that of the same without a supervisor in the same round; of none where that
    /// has no part.
    pub to_unsupervised: Spread,
}

/// One measurement of a round.
struct Point {
    entrant: Entrant,
    served: Served,
}

/// Measures. `told` is called before each measurement, with the round, counted from 1.
///
/// # Errors
/// When the host lacks something, or a handler does not do its work.
pub fn run(
    contest: &Contest,
    dir: &Path,
    mut told: impl FnMut(u32, Entrant),
) -> Result<Vec<Row>, BenchError> {
    let source = Source::create(dir, contest.pages)?;
    let mut kinds = vec![
        HandlerKind::Floor,
        HandlerKind::Ceiling,
        contest.surefault.clone(),
    ];
    kinds.extend(
        contest
            .surefault
            .unsupervised()
            .filter(|_| contest.unsupervised),
    );
    let mut handlers = Vec::with_capacity(kinds.len());
    for kind in &kinds {
        handlers.push((kind, Handler::start(kind, &source)?));
    }
    let mut rounds: Vec<Vec<Point>> = Vec::new();
    for round in 1..=contest.rounds {
        let mut points = Vec::new();
        for order in [Order::Random, Order::Sequential] {
            for &threads in &contest.threads {
                for (kind, handler) in &mut handlers {
                    // It takes no notice of who asks for what.
                    if **kind == HandlerKind::Ceiling && order == Order::Random {
                        continue;
                    }
                    let entrant = Entrant {
                        name: kind.name(),
                        order,
                        threads,
                    };
                    told(round, entrant);
                    let vmm = Vmm {
                        socket: handler.socket().to_owned(),
                        pages: contest.pages,
                        order,
                        threads,
                        seed: round.into(),
                    };
                    let served = played(contest, &vmm);
                    // A signal of the terminal goes to everybody who takes part.
                    if (contest.interrupted)() {
                        return Err(BenchError::Interrupted);
                    }
                    handler.check()?;
                    let served = served.map_err(|said| BenchError::Vmm {
                        name: entrant.name,
                        entrant: format!("{order:?} with {threads} threads"),
                        said,
                    })?;
                    points.push(Point { entrant, served });
                }
            }
        }
        rounds.push(points);
        // Nobody has the same neighbour in all rounds.
        handlers.reverse();
    }
    Ok(rows(&rounds))
}

/// What a VMM in a process of its own says, or what is wrong with it.
fn played(contest: &Contest, vmm: &Vmm) -> Result<Served, String> {
    let output = (contest.player)(vmm).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("the VMM cannot be started: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("the VMM's words: {error}"))
}

fn rows(rounds: &[Vec<Point>]) -> Vec<Row> {
    let Some(first) = rounds.first() else {
        return Vec::new();
    };
    let entrants = first.iter().map(|point| point.entrant);
    entrants
        .map(|entrant| {
            let mine = || rounds.iter().map(|points| of(points, entrant));
            let against = |name| {
                let other = Entrant { name, ..entrant };
                let ratios = rounds.iter().filter_map(move |points| {
                    let other = points.iter().find(|point| point.entrant == other)?;
                    Some(of(points, entrant).pages_per_second / other.served.pages_per_second)
                });
                Spread::of(ratios)
            };
            Row {
                entrant,
                pages_per_second: Spread::of(mine().map(|served| served.pages_per_second)),
                p50_ns: Spread::of(mine().map(|served| served.p50_ns.into())),
                p99_ns: Spread::of(mine().map(|served| served.p99_ns.into())),
                to_floor: against(HandlerKind::Floor.name()),
                to_ceiling: against(HandlerKind::Ceiling.name()),
                to_unsupervised: against(UNSUPERVISED),
            }
        })
        .collect()
}

fn of(points: &[Point], entrant: Entrant) -> &Served {
    let point = points.iter().find(|point| point.entrant == entrant);
    &point.expect("every round has the same entrants").served
}
