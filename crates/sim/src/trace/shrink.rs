//! Makes a trace shorter that still shows the same: fewer tasks and touches first, then fewer steps.
//!
//! Whatever is left out, the rest is played as far as it is possible, and a loop is closed anew by
//! leaving the machine to itself. The way to a loop is then the shortest there is, as far as all ways can be
//! looked at. What counts as a loop is said in
//! [`fairness`](crate::world::fairness), here as everywhere.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use surefault_core::policy::Policy;
use surefault_core::workload::{Touch, Workload};

use super::expect::{Ending, Tally};
use super::find::{Runner, after};
use super::replay::{ReplayError, Replayed, replay_with};
use super::{Expected, Trace};
use crate::machine::Setup;
use crate::world::fairness::check_cycle;
use crate::world::{Budgets, Step, World};

/// Steps in which a loop must close.
const CLOSES_WITHIN: usize = 150;
/// Worlds that are looked at for a shorter way to a loop.
const LOOK_AT: usize = 20_000;
/// Candidates that are tried at most.
const TRIES: usize = 20_000;

/// What a trace shows: what a shorter one must show, too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shown {
    /// A loop.
    Loop,
    /// A page with old data, or without its data.
    WrongPage,
    /// A report that is wrong.
    WrongReport,
    /// More than one retry for one failure.
    Retries,
    /// A healthy page that pays for a failing one.
    Refused,
    /// A report.
    Report,
}

impl Shown {
    /// The worst that a trace shows, if it shows anything.
    fn by(replayed: &Replayed) -> Option<Shown> {
        if replayed.ending == Ending::Looped {
            return Some(Shown::Loop);
        }
        let all = [
            Shown::WrongPage,
            Shown::WrongReport,
            Shown::Retries,
            Shown::Refused,
            Shown::Report,
        ];
        all.into_iter().find(|shown| shown.is_in(&replayed.tally))
    }

    /// Whether steps have shown it. Loops are not in what is counted.
    fn is_in(self, tally: &Tally) -> bool {
        match self {
            Shown::Loop => false,
            Shown::WrongPage => tally.wrong_pages > 0,
            Shown::WrongReport => tally.wrong_reports > 0,
            Shown::Retries => tally.retries > 1,
            Shown::Refused => tally.refused > 0,
            Shown::Report => tally.reports > 0,
        }
    }
}

/// A shorter trace that shows the same under the policy `policy`, which remembers nothing yet. One that
/// shows nothing bad stays as it is.
///
/// # Errors
/// When the trace cannot be played.
pub fn shrink<P: Policy>(trace: &Trace, policy: &P) -> Result<Trace, ReplayError> {
    let replayed = replay_with(trace, policy.clone())?;
    let Some(shown) = Shown::by(&replayed) else {
        return Ok(trace.clone());
    };
    let mut shrinker = Shrinker {
        policy,
        shown,
        best: trace.clone(),
        tries: 0,
    };
    // As it is, it may go on long after it has shown everything.
    shrinker.try_steps(&trace.setup, &trace.steps);
    loop {
        let before = shrinker.best.steps.len();
        shrinker.fewer_tasks();
        shrinker.fewer_touches();
        shrinker.fewer_steps();
        shrinker.shorter_cycle();
        shrinker.shorter_way();
        if shrinker.best.steps.len() >= before || shrinker.tries >= TRIES {
            break;
        }
    }
    let mut best = shrinker.best;
    let replayed = replay_with(&best, policy.clone())?;
    best.expected = trace.expected.clone();
    best.expected
        .retain(|expected| !matches!(expected, Expected::Ending(_)));
    best.expected
        .retain(|expected| expected.check(&replayed).is_ok());
    best.expected.insert(0, Expected::Ending(replayed.ending));
    Ok(best)
}

struct Shrinker<'a, P> {
    policy: &'a P,
    shown: Shown,
    best: Trace,
    tries: usize,
}

impl<P: Policy> Shrinker<'_, P> {
    /// Plays what is possible of `steps`, and keeps it when it shows the same in no more than before.
    fn try_steps(&mut self, setup: &Arc<Setup>, steps: &[Step]) -> bool {
        self.tries += 1;
        let policy = self.policy.clone();
        let world = World::with_policy(setup.clone(), Budgets::UNLIMITED, policy);
        let Ok(start) = world else {
            return false;
        };
        let mut world = start.clone();
        let mut taken = Vec::new();
        let mut tally = Tally::default();
        for step in steps {
            let Ok(happened) = world.apply(step) else {
                continue;
            };
            taken.push(*step);
            tally.count(&happened, &world);
            if self.shown.is_in(&tally) {
                return self.keep(setup, taken, None);
            }
        }
        if self.shown != Shown::Loop {
            return false;
        }
        let run = Runner::default().run_after(&start, &taken, CLOSES_WITHIN);
        run.cycle.is_some() && self.keep(setup, run.steps, run.cycle)
    }

    fn keep(&mut self, setup: &Arc<Setup>, steps: Vec<Step>, cycle: Option<usize>) -> bool {
        let size = |setup: &Setup, steps: &[Step]| {
            let touches: usize = setup.workload.tasks().iter().map(Vec::len).sum();
            (touches, steps.len())
        };
        let better = size(setup, &steps) < size(&self.best.setup, &self.best.steps);
        if better {
            self.best = Trace {
                setup: setup.clone(),
                steps,
                cycle,
                expected: Vec::new(),
                lines: Vec::new(),
            };
        }
        better
    }

    fn try_lists(&mut self, lists: Vec<Vec<Touch>>) -> bool {
        let Ok(workload) = Workload::new(self.best.setup.workload.pages(), lists) else {
            return false;
        };
        let setup = Arc::new(Setup {
            workload,
            ..(*self.best.setup).clone()
        });
        let steps = self.best.steps.clone();
        self.try_steps(&setup, &steps)
    }

    /// Tasks that do nothing keep their numbers, so that the steps of the others mean the same.
    fn fewer_tasks(&mut self) {
        let tasks = self.best.setup.workload.tasks().len();
        in_chunks(tasks, |from, to| {
            let mut lists = self.best.setup.workload.tasks().to_vec();
            let busy = lists[from..to].iter().any(|list| !list.is_empty());
            lists[from..to].fill(Vec::new());
            if busy && self.tries < TRIES {
                self.try_lists(lists);
            }
            // They keep their numbers.
            false
        });
    }

    fn fewer_touches(&mut self) {
        for task in 0..self.best.setup.workload.tasks().len() {
            let touches = self.best.setup.workload.tasks()[task].len();
            in_chunks(touches, |from, to| {
                let mut lists = self.best.setup.workload.tasks().to_vec();
                lists[task].drain(from..to);
                self.tries < TRIES && self.try_lists(lists)
            });
        }
    }

    fn fewer_steps(&mut self) {
        // The cycle is closed anew in any case.
        let steps = self.best.cycle.unwrap_or(self.best.steps.len());
        in_chunks(steps, |from, to| {
            let mut steps = self.best.steps.clone();
            steps.truncate(self.best.cycle.unwrap_or(steps.len()));
            if to > steps.len() || self.tries >= TRIES {
                return false;
            }
            steps.drain(from..to);
            let setup = self.best.setup.clone();
            self.try_steps(&setup, &steps)
        });
    }

    /// The shortest way to any world of the cycle, which is turned so that it begins there.
    fn shorter_way(&mut self) {
        let Some(at) = self.best.cycle else { return };
        let setup = self.best.setup.clone();
        let policy = self.policy.clone();
        let Ok(start) = World::with_policy(setup.clone(), Budgets::UNLIMITED, policy) else {
            return;
        };
        let cycle = self.best.steps[at..].to_vec();
        let mut world = after(&start, &self.best.steps[..at]);
        let mut wanted = HashMap::new();
        for (turn, step) in cycle.iter().enumerate() {
            wanted.entry(world.hash_view()).or_insert(turn);
            world.advance(step);
        }
        // Breadth first: a way is the number of the one before it, counted from 1, and a step.
        let mut seen = HashSet::from([start.hash_view()]);
        let mut ways: Vec<(usize, Step)> = Vec::new();
        let mut worlds = VecDeque::from([(0, start)]);
        let mut steps = Vec::new();
        while let Some((before, world)) = worlds.pop_front() {
            world.steps(&mut steps);
            for &step in steps.iter().filter(|step| !step.is_incident()) {
                let mut next = world.clone();
                next.advance(&step);
                let hash = next.hash_view();
                if !seen.insert(hash) {
                    continue;
                }
                ways.push((before, step));
                if let Some(&turn) = wanted.get(&hash) {
                    let mut way = way_to(&ways, Some(ways.len() - 1));
                    let begins = way.len();
                    let turned = [&cycle[turn..], &cycle[..turn]].concat();
                    if check_cycle(&next, &turned).is_ok() {
                        way.extend(turned);
                        self.keep(&setup, way, Some(begins));
                    }
                    return;
                }
                if ways.len() >= LOOK_AT {
                    return;
                }
                worlds.push_back((ways.len(), next));
            }
        }
    }

    /// Leaves steps of the cycle out, as long as it stays one.
    fn shorter_cycle(&mut self) {
        let Some(at) = self.best.cycle else { return };
        let policy = self.policy.clone();
        let setup = self.best.setup.clone();
        let Ok(start) = World::with_policy(setup.clone(), Budgets::UNLIMITED, policy) else {
            return;
        };
        let start = after(&start, &self.best.steps[..at]);
        in_chunks(self.best.steps.len() - at, |from, to| {
            let mut cycle = self.best.steps[at..].to_vec();
            if to > cycle.len() || self.tries >= TRIES {
                return false;
            }
            self.tries += 1;
            cycle.drain(from..to);
            let mut world = start.clone();
            cycle.retain(|step| world.apply(step).is_ok());
            if check_cycle(&start, &cycle).is_err() {
                return false;
            }
            let mut steps = self.best.steps[..at].to_vec();
            steps.extend(cycle);
            self.keep(&setup, steps, Some(at))
        });
    }
}

/// The steps that lead to the last of `ways`, each of which goes on from an earlier one.
fn way_to(ways: &[(usize, Step)], mut last: Option<usize>) -> Vec<Step> {
    let mut steps = Vec::new();
    while let Some(&(before, step)) = last.and_then(|at| ways.get(at)) {
        steps.push(step);
        last = before.checked_sub(1);
    }
    steps.reverse();
    steps
}

/// Tries to leave out each of `count` things, many neighbours at once first. Where `leave_out` succeeds
/// they are gone.
fn in_chunks(mut count: usize, mut leave_out: impl FnMut(usize, usize) -> bool) {
    let mut size = count.next_power_of_two();
    while size > 0 {
        let mut from = 0;
        while from < count {
            let to = (from + size).min(count);
            match leave_out(from, to) {
                true => count -= to - from,
                false => from = to,
            }
        }
        size /= 2;
    }
}
