//! The states and edges that were found, in few bytes each.
//!
//! A state is a number, in the order of breadth-first search: its depth never falls as numbers rise.
//! It can be had again by taking the steps that led to it. An edge is its target and its class; the
//! step itself is the one at the edge's place among the steps of the state.

use crate::fingerprints::Fingerprints;
use crate::model::Model;

/// The class of a step that may be put off for ever.
pub(crate) const NO_CLASS: u8 = u8::MAX;

/// What was explored.
#[derive(Debug)]
pub struct Graph {
    pub(crate) fingerprints: Fingerprints,
    /// By number: the state it was found from.
    pub(crate) parents: Vec<u32>,
    /// By number: the place of the step among the parent's.
    pub(crate) steps: Vec<u8>,
    /// By number: open obligations.
    pub(crate) open: Vec<u32>,
    /// By number: its first edge; one more entry than states were expanded.
    pub(crate) first_edge: Vec<u32>,
    pub(crate) targets: Vec<u32>,
    pub(crate) classes: Vec<u8>,
    /// By depth: the first state of that depth.
    pub(crate) levels: Vec<u32>,
}

impl Graph {
    pub(crate) fn new() -> Graph {
        Graph {
            fingerprints: Fingerprints::new(),
            parents: Vec::new(),
            steps: Vec::new(),
            open: Vec::new(),
            first_edge: vec![0],
            targets: Vec::new(),
            classes: Vec::new(),
            levels: Vec::new(),
        }
    }

    /// States that were found.
    pub fn states(&self) -> usize {
        self.parents.len()
    }

    /// Edges that were found.
    pub fn edges(&self) -> usize {
        self.targets.len()
    }

    /// States whose steps were all taken: the first ones.
    pub fn expanded(&self) -> usize {
        self.first_edge.len() - 1
    }

    /// Bytes that all of it takes.
    pub fn bytes(&self) -> usize {
        let per_state = self.parents.len() * (4 + 1 + 4) + self.first_edge.len() * 4;
        self.fingerprints.bytes() + per_state + self.targets.len() * 4 + self.classes.len()
    }

    /// Steps on a shortest way to a state.
    pub fn depth(&self, state: u32) -> usize {
        self.levels.partition_point(|&first| first <= state) - 1
    }

    /// The depth of the deepest state.
    pub fn deepest(&self) -> usize {
        self.levels.len().saturating_sub(1)
    }

    pub(crate) fn add(&mut self, fingerprint: u64, parent: u32, step: u8, open: u32) -> u32 {
        let number = self.fingerprints.insert(fingerprint);
        self.parents.push(parent);
        self.steps.push(step);
        self.open.push(open);
        number
    }

    /// The edges of a state that was expanded: targets and classes.
    pub(crate) fn edges_of(&self, state: u32) -> impl Iterator<Item = (u32, u8)> + '_ {
        let (from, to) = self.range(state);
        let targets = self.targets[from..to].iter().copied();
        targets.zip(self.classes[from..to].iter().copied())
    }

    pub(crate) fn range(&self, state: u32) -> (usize, usize) {
        let at = state as usize;
        (
            self.first_edge[at] as usize,
            self.first_edge[at + 1] as usize,
        )
    }

    /// The places of the steps on a shortest way to `state`.
    pub(crate) fn way_to(&self, mut state: u32) -> Vec<u8> {
        let mut way = Vec::new();
        while state != 0 {
            way.push(self.steps[state as usize]);
            state = self.parents[state as usize];
        }
        way.reverse();
        way
    }

    /// The steps at these places, one after the other from `state` on, and where they lead.
    pub(crate) fn steps_at<M: Model>(
        model: &M,
        mut state: M::State,
        places: impl IntoIterator<Item = u8>,
    ) -> (Vec<M::Action>, M::State) {
        let mut taken = Vec::new();
        let mut actions = Vec::new();
        for place in places {
            actions.clear();
            model.actions(&state, &mut actions);
            let action = actions[usize::from(place)];
            taken.push(action);
            state = model.next(&state, action).state;
        }
        (taken, state)
    }
}
