//! The handlers against each other, in turns.

use std::path::Path;

use crate::spread::percentile;
use crate::{BenchError, Handler, HandlerKind, Order, Source, Spread, measure};

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
}

/// One measurement of a round.
struct Point {
    entrant: Entrant,
    rate: f64,
    p50: f64,
    p99: f64,
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
    let kinds = [
        HandlerKind::Floor,
        HandlerKind::Ceiling,
        contest.surefault.clone(),
    ];
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
                    let served = measure(handler, &source, order, threads, round.into())?;
                    let mut accesses = served.accesses_ns;
                    points.push(Point {
                        entrant,
                        rate: served.pages_per_second,
                        p50: percentile(&mut accesses, 50).into(),
                        p99: percentile(&mut accesses, 99).into(),
                    });
                }
            }
        }
        rounds.push(points);
    }
    Ok(rows(&rounds))
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
                    Some(of(points, entrant).rate / other.rate)
                });
                Spread::of(ratios)
            };
            Row {
                entrant,
                pages_per_second: Spread::of(mine().map(|point| point.rate)),
                p50_ns: Spread::of(mine().map(|point| point.p50)),
                p99_ns: Spread::of(mine().map(|point| point.p99)),
                to_floor: against(HandlerKind::Floor.name()),
                to_ceiling: against(HandlerKind::Ceiling.name()),
            }
        })
        .collect()
}

fn of(points: &[Point], entrant: Entrant) -> &Point {
    points
        .iter()
        .find(|point| point.entrant == entrant)
        .expect("every round has the same entrants")
}
