//! Strongly connected components of parts of the graph: Tarjan's algorithm, without recursion.

use crate::graph::Graph;

/// Finds components, and remembers of the last search which states lie together.
#[derive(Debug)]
pub(super) struct Components<'a> {
    graph: &'a Graph,
    /// By state: the search that it belongs to, so that others are passed over.
    search: Vec<u32>,
    searches: u32,
    /// By state: when it was met; `DONE` once its component is complete, 0 before it was met.
    low: Vec<u32>,
    /// By state: its component, over all searches.
    component: Vec<u32>,
    components: u32,
}

const DONE: u32 = u32::MAX;

impl Components<'_> {
    pub(super) fn new(graph: &Graph) -> Components<'_> {
        let states = graph.states();
        Components {
            graph,
            search: vec![0; states],
            searches: 0,
            low: vec![0; states],
            component: vec![0; states],
            components: 0,
        }
    }

    /// Whether two states were in one component when they were last looked at, in the same search.
    pub(super) fn are_together(&self, a: u32, b: u32) -> bool {
        self.component[a as usize] == self.component[b as usize]
    }
}

impl<'a> Components<'a> {
    pub(super) fn graph(&self) -> &'a Graph {
        self.graph
    }

    /// The components of the graph of these states (all expanded) that have a cycle, or are a single
    /// state without steps.
    pub(super) fn of(&mut self, states: &[u32]) -> Vec<Vec<u32>> {
        self.searches += 1;
        for &state in states {
            self.search[state as usize] = self.searches;
            self.low[state as usize] = 0;
        }
        let mut found = Vec::new();
        let mut met = 0;
        let mut stack = Vec::new();
        for &state in states {
            if self.low[state as usize] == 0 {
                self.search_from(state, &mut met, &mut stack, &mut found);
            }
        }
        found
    }

    fn search_from(
        &mut self,
        root: u32,
        met: &mut u32,
        stack: &mut Vec<u32>,
        found: &mut Vec<Vec<u32>>,
    ) {
        // State, when it was met, its next edge.
        let mut calls: Vec<(u32, u32, u32)> = Vec::new();
        let mut enter = |low: &mut Vec<u32>, stack: &mut Vec<u32>, state: u32, first: u32| {
            *met += 1;
            low[state as usize] = *met;
            stack.push(state);
            (state, *met, first)
        };
        let first = self.graph.range(root).0 as u32;
        calls.push(enter(&mut self.low, stack, root, first));
        while let Some((state, order, edge)) = calls.pop() {
            let at = state as usize;
            if (edge as usize) < self.graph.range(state).1 {
                calls.push((state, order, edge + 1));
                let target = self.graph.targets[edge as usize];
                if self.search[target as usize] != self.searches {
                    continue;
                }
                match self.low[target as usize] {
                    0 => {
                        let first = self.graph.range(target).0 as u32;
                        calls.push(enter(&mut self.low, stack, target, first));
                    }
                    // Of a completed component `low` is the largest number, and lowers nothing.
                    low => self.low[at] = self.low[at].min(low),
                }
                continue;
            }
            let low = self.low[at];
            if low == order {
                self.complete(state, stack, found);
            } else if let Some(&(parent, ..)) = calls.last() {
                let of_parent = &mut self.low[parent as usize];
                *of_parent = low.min(*of_parent);
            }
        }
    }

    /// Takes a component off the stack, down to its root.
    fn complete(&mut self, root: u32, stack: &mut Vec<u32>, found: &mut Vec<Vec<u32>>) {
        let at = stack.iter().rposition(|&state| state == root);
        let at = at.expect("a root is on the stack");
        self.components += 1;
        for &state in &stack[at..] {
            self.low[state as usize] = DONE;
            self.component[state as usize] = self.components;
        }
        let has_cycle =
            stack.len() - at > 1 || self.graph.edges_of(root).any(|(target, _)| target == root);
        let is_end = self.graph.edges_of(root).next().is_none();
        if has_cycle || is_end {
            found.push(stack[at..].to_vec());
        }
        stack.truncate(at);
    }
}
