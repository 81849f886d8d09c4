//! A short way round a fair component.

use std::collections::{HashMap, VecDeque};

use super::Fair;
use crate::graph::Graph;

/// A cycle, and where it is entered.
#[derive(Clone, Debug)]
pub(super) struct Lasso {
    /// The state of the cycle that a shortest way leads to.
    pub(super) entry: u32,
    /// The places of its steps; none where nothing more can happen.
    pub(super) cycle: Vec<u8>,
}

/// A cycle through `part`, a fair component, that is fair itself: breadth first from what is still
/// to be done to what is still to be done, and back.
pub(super) fn round(graph: &Graph, fair: Fair, part: &[u32]) -> Lasso {
    let round = Round {
        graph,
        places: part.iter().copied().zip(0..).collect(),
    };
    let entry = part.iter().copied().min().expect("a component has states");
    let in_some = part
        .iter()
        .fold(0, |all, &state| all | graph.possible(state));
    // A strong class is to be taken. A weak one is to be taken, or found impossible.
    let mut strong = fair.strong & in_some;
    let mut weak = fair.weak & graph.possible(entry);
    let mut at = entry;
    let mut cycle = Vec::new();
    while strong | weak != 0 {
        let useful = |acts: u64, target: u32| {
            acts & (strong | weak) != 0 || !graph.possible(target) & weak != 0
        };
        let Some(way) = round.way(at, useful) else {
            // Not so in a fair component.
            debug_assert!(false, "something to be done cannot be reached");
            break;
        };
        for (place, acts, target) in way {
            cycle.push(place);
            at = target;
            strong &= !acts;
            weak &= !acts & graph.possible(target);
        }
    }
    if (at != entry || cycle.is_empty())
        && let Some(way) = round.way(at, |_, target| target == entry)
    {
        cycle.extend(way.into_iter().map(|(place, ..)| place));
    }
    Lasso { entry, cycle }
}

struct Round<'a> {
    graph: &'a Graph,
    /// The states of the component.
    places: HashMap<u32, u32>,
}

impl Round<'_> {
    /// The shortest way within the component from `start`, of at least one step, to a step that
    /// `ends` holds for: place, classes and target of each step.
    fn way(&self, start: u32, ends: impl Fn(u64, u32) -> bool) -> Option<Vec<(u8, u64, u32)>> {
        let mut came: HashMap<u32, (u32, u8, u64)> = HashMap::new();
        let mut queue = VecDeque::from([start]);
        while let Some(state) = queue.pop_front() {
            for (place, (target, acts)) in (0..).zip(self.graph.edges_of(state)) {
                if !self.places.contains_key(&target) {
                    continue;
                }
                if ends(acts, target) {
                    let mut way = vec![(place, acts, target)];
                    let mut at = state;
                    while at != start {
                        let &(from, place, acts) = came.get(&at)?;
                        way.push((place, acts, at));
                        at = from;
                    }
                    way.reverse();
                    return Some(way);
                }
                if target != start && !came.contains_key(&target) {
                    came.insert(target, (state, place, acts));
                    queue.push_back(target);
                }
            }
        }
        None
    }
}
