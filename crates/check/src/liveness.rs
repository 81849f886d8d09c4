//! Cycles on which an obligation stays open although everybody is treated fairly.
//!
//! Such a cycle lies in a strongly connected component of the states in which the obligation is
//! open. A component is **fair**, as a whole, when
//!
//! * each *weak* class that is possible in all of its states is taken within it, and
//! * each *strong* class that is possible in some of its states is taken within it.
//!
//! If a weak class stands in the way, no part of the component is fair either. If a strong class
//! does, a part may be: without the states in which the class is possible, the rest is searched
//! again (Emerson and Lei 1987; Streett's condition). A state without steps is a component of its
//! own, and fair: nobody can do anything.
//!
//! Most states are on no fair cycle at all, whatever is asked. Those are sorted out once.

mod components;
mod lasso;

use crate::explore::Explored;
use crate::graph::Graph;
use crate::model::{Fairness, Model};
use crate::verdict::{Counterexample, Verdict};

use components::Components;
use lasso::Lasso;

/// The classes of each kind, bit by bit.
#[derive(Clone, Copy, Debug)]
struct Fair {
    weak: u64,
    strong: u64,
}

impl Fair {
    fn of<M: Model>(model: &M) -> Fair {
        let mut fair = Fair { weak: 0, strong: 0 };
        for (bit, class) in model.classes().iter().enumerate() {
            match class.fairness {
                Fairness::Weak => fair.weak |= 1 << bit,
                Fairness::Strong => fair.strong |= 1 << bit,
            }
        }
        fair
    }
}

/// Judges each obligation of `model` on what was explored of it.
pub fn judge<M: Model>(model: &M, explored: &Explored<M::Action>) -> Vec<Verdict<M::Action>> {
    let graph = &explored.graph;
    let fair = Fair::of(model);
    let mut components = Components::new(graph);
    let all = (0..graph.expanded() as u32).collect();
    let on_fair_cycles: Vec<u32> = fair_parts(&mut components, fair, all).concat();
    let judged = (0..model.obligations().len()).map(|obligation| {
        let is_open = |&state: &u32| graph.open[state as usize] >> obligation & 1 == 1;
        let open = on_fair_cycles.iter().copied().filter(is_open).collect();
        let parts = fair_parts(&mut components, fair, open);
        match shortest(&mut components, fair, parts) {
            Some(lasso) => Verdict::Violated(written(model, graph, &lasso)),
            None if explored.is_complete => Verdict::Holds,
            None => Verdict::Incomplete,
        }
    });
    judged.collect()
}

/// The fair components among `states`, as large as they are.
fn fair_parts(components: &mut Components<'_>, fair: Fair, states: Vec<u32>) -> Vec<Vec<u32>> {
    let graph = components.graph();
    let mut parts = Vec::new();
    let mut left = vec![states];
    while let Some(states) = left.pop() {
        for part in components.of(&states) {
            let (mut in_all, mut in_some, mut taken) = (!0, 0, 0);
            for &state in &part {
                let possible = graph.possible(state);
                in_all &= possible;
                in_some |= possible;
                for (target, acts) in graph.edges_of(state) {
                    if components.are_together(state, target) {
                        taken |= acts;
                    }
                }
            }
            let missed = in_some & fair.strong & !taken;
            if in_all & fair.weak & !taken != 0 {
                continue;
            }
            if missed == 0 {
                parts.push(part);
                continue;
            }
            let rest = part.into_iter();
            let rest: Vec<u32> = rest
                .filter(|&state| graph.possible(state) & missed == 0)
                .collect();
            if !rest.is_empty() {
                left.push(rest);
            }
        }
    }
    parts
}

/// A lasso into one of the parts: one with a short way there, and a short way round.
fn shortest(components: &mut Components<'_>, fair: Fair, parts: Vec<Vec<u32>>) -> Option<Lasso> {
    let graph = components.graph();
    let entry = |part: &Vec<u32>| part.iter().copied().min().unwrap_or(u32::MAX);
    let part = parts.into_iter().min_by_key(entry)?;
    let mut best = lasso::round(graph, fair, &part);
    // A large component is fair with all that it has. Parts of it, in which some class has nothing to
    // do, may be so with less.
    let mut part = part;
    for class in 0..64 {
        let strong = fair.strong >> class & 1 == 1;
        if !strong || best.cycle.len() <= 2 {
            continue;
        }
        let without = part.iter().copied();
        let without = without.filter(|&state| graph.possible(state) >> class & 1 == 0);
        let smaller = fair_parts(components, fair, without.collect());
        let Some(smaller) = smaller.into_iter().min_by_key(entry) else {
            continue;
        };
        let lasso = lasso::round(graph, fair, &smaller);
        if graph.depth(lasso.entry) + lasso.cycle.len() < graph.depth(best.entry) + best.cycle.len()
        {
            best = lasso;
            part = smaller;
        }
    }
    Some(best)
}

/// The lasso as steps of the model.
fn written<M: Model>(model: &M, graph: &Graph, lasso: &Lasso) -> Counterexample<M::Action> {
    let (stem, entry) = Graph::steps_at(model, model.initial(), graph.way_to(lasso.entry));
    let print = model.fingerprint(&entry);
    let (cycle, end) = Graph::steps_at(model, entry, lasso.cycle.iter().copied());
    assert_eq!(
        print,
        model.fingerprint(&end),
        "a cycle ends where it began"
    );
    Counterexample { stem, cycle }
}
