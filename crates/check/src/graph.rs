//! The states and edges that were found, in few bytes each.
//!
//! A state is a number, in the order of breadth-first search: its depth never falls as numbers rise.
//! It can be had again by taking the steps that led to it. An edge is its target and the classes that
//! it acts for, of which there are few different sets; the step itself is the one at the edge's place
//! among the steps of the state.

use crate::fingerprints::Fingerprints;
use crate::model::Model;

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
    /// By edge: its place among `acts`.
    acts_of: Vec<u16>,
    /// The different sets of classes: those that an edge acts for, and those it shows to be able to.
    acts: Vec<(u64, u64)>,
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
            acts_of: Vec::new(),
            acts: Vec::new(),
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
        self.fingerprints.bytes() + per_state + self.targets.len() * (4 + 2)
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

    /// Adds an edge of the state that is being expanded.
    pub(crate) fn add_edge(&mut self, target: u32, acts: (u64, u64)) {
        let known = self.acts.iter().position(|&other| other == acts);
        let place = known.unwrap_or_else(|| {
            self.acts.push(acts);
            self.acts.len() - 1
        });
        self.targets.push(target);
        let place = u16::try_from(place).expect("few steps act for the same classes");
        self.acts_of.push(place);
    }

    /// The edges of a state that was expanded: targets, and the classes they act for.
    pub(crate) fn edges_of(&self, state: u32) -> impl Iterator<Item = (u32, u64)> + '_ {
        let (from, to) = self.range(state);
        let acts = self.acts_of[from..to].iter();
        let targets = self.targets[from..to].iter().copied();
        targets.zip(acts.map(|&place| self.acts[usize::from(place)].0))
    }

    /// The classes that could act in a state that was expanded.
    pub(crate) fn possible(&self, state: u32) -> u64 {
        let (from, to) = self.range(state);
        self.acts_of[from..to].iter().fold(0, |all, &place| {
            let (acts, offers) = self.acts[usize::from(place)];
            all | acts | offers
        })
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
        let mut steps = Vec::new();
        let mut spare = Vec::new();
        for place in places {
            model.steps(&state, &mut steps, &mut spare);
            let next = steps.swap_remove(usize::from(place));
            steps.clear();
            taken.push(next.action);
            state = next.state;
        }
        (taken, state)
    }
}
