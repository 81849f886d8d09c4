//! Breadth-first search over all cores.
//!
//! The oldest states that wait are expanded in batches: threads take the steps and compare with what
//! was known before the batch; then one thread numbers what is new, in the order of the states they
//! came from. So numbers, depths and counterexamples are the same however many threads there are.
//!
//! Only states that wait are kept in full. What is known of the others is in the [`Graph`].

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

use crate::graph::Graph;
use crate::model::{Model, Next};
use crate::verdict::Counterexample;

/// States that one thread expands at a time.
const BATCH: usize = 256;

/// States that one thread keeps to clone into.
const SPARE: usize = 8 * BATCH;

/// When to give up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// States stored.
    pub max_states: usize,
    /// Bytes of the graph, and of the states that wait.
    pub max_bytes: usize,
    /// Threads.
    pub threads: usize,
}

impl Default for Limits {
    /// As many states as can be numbered, 8 GiB, all cores.
    fn default() -> Limits {
        Limits {
            max_states: u32::MAX as usize - 1,
            max_bytes: 8 << 30,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// How far it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// States found.
    pub states: usize,
    /// Of which so many wait to be expanded.
    pub waiting: usize,
    /// Steps from the beginning to those that are being expanded.
    pub depth: usize,
    /// Time so far.
    pub elapsed: Duration,
}

/// What was found.
#[derive(Debug)]
pub struct Explored<A> {
    /// The states and edges.
    pub graph: Graph,
    /// By safety property: a shortest way to break it.
    pub broken: Vec<Option<Counterexample<A>>>,
    /// Everything was found.
    pub is_complete: bool,
    /// How long it took.
    pub elapsed: Duration,
    /// The most bytes that states in full took, by their size as [`Limits`] were held against.
    pub peak_waiting: usize,
}

/// Where an edge leads.
enum Target<S> {
    Known(u32),
    /// Not known before this batch.
    New(u64, S),
    /// To where an earlier edge of the batch leads.
    Twin(u64),
}

struct Edge<S> {
    target: Target<S>,
    acts: (u64, u64),
    broken: u32,
    is_wreck: bool,
    open: u32,
}

/// Explores `model`, as far as `limits` allow. `weight` says how many bytes a state in full takes.
pub fn explore<M: Model>(
    model: &M,
    limits: &Limits,
    weight: impl Fn(&M::State) -> usize,
    mut progress: impl FnMut(&Progress),
) -> Explored<M::Action> {
    let started = Instant::now();
    let initial = model.initial();
    let mut search = Search {
        graph: Graph::new(),
        waiting: VecDeque::new(),
        broken: vec![None; model.safety().len()],
        next_level: 1,
        spare: (0..limits.threads.max(1)).map(|_| Vec::new()).collect(),
    };
    let open = model.open(&initial);
    search.graph.add(model.fingerprint(&initial), 0, 0, open);
    search.graph.levels.push(0);
    let each = weight(&initial);
    search.waiting.push_back(Some(initial));
    let mut peak_waiting = 0;
    let mut is_complete = true;
    while !search.waiting.is_empty() {
        let waiting = search.waiting.len() * each;
        peak_waiting = peak_waiting.max(waiting);
        let full = search.graph.states() >= limits.max_states
            || search.graph.bytes() + waiting >= limits.max_bytes
            || search.graph.edges() >= u32::MAX as usize - 256 * BATCH * limits.threads;
        if full {
            is_complete = false;
            break;
        }
        let count = search.waiting.len().min(BATCH * limits.threads);
        let mut batch: Vec<Option<M::State>> = search.waiting.drain(..count).collect();
        let found = expand_all(model, &search.graph, &mut batch, &mut search.spare);
        for edges in found {
            search.merge(edges);
        }
        progress(&Progress {
            states: search.graph.states(),
            waiting: search.waiting.len(),
            depth: search.graph.levels.len() - 1,
            elapsed: started.elapsed(),
        });
    }
    let Search { graph, broken, .. } = search;
    let broken = broken.into_iter().map(|way| {
        way.map(|places| Counterexample {
            stem: Graph::steps_at(model, model.initial(), places).0,
            cycle: Vec::new(),
        })
    });
    Explored {
        broken: broken.collect(),
        graph,
        is_complete,
        elapsed: started.elapsed(),
        peak_waiting,
    }
}

struct Search<S> {
    graph: Graph,
    /// States that wait, from the first that is not expanded on; `None` for a wreck.
    waiting: VecDeque<Option<S>>,
    /// By safety property: the places of the steps that break it.
    broken: Vec<Option<Vec<u8>>>,
    /// The first state of the level after the one that is being expanded.
    next_level: u32,
    /// By thread: states to clone into.
    spare: Vec<Vec<S>>,
}

impl<S> Search<S> {
    /// Takes up what the steps of the next state led to.
    fn merge(&mut self, edges: Vec<Edge<S>>) {
        let from = self.graph.expanded() as u32;
        if from == self.next_level {
            self.next_level = self.graph.states() as u32;
        }
        for (place, edge) in edges.into_iter().enumerate() {
            let place = u8::try_from(place).expect("a state has at most 255 steps");
            let number = match edge.target {
                Target::Known(number) => number,
                Target::Twin(print) => {
                    let number = self.graph.fingerprints.get(print);
                    number.expect("a twin comes after the state itself")
                }
                Target::New(print, state) => match self.graph.fingerprints.get(print) {
                    Some(number) => {
                        let nth = place as usize % self.spare.len();
                        self.spare[nth].push(state);
                        number
                    }
                    None => {
                        let number = self.graph.add(print, from, place, edge.open);
                        if number == self.next_level {
                            self.graph.levels.push(number);
                        }
                        self.waiting.push_back((!edge.is_wreck).then_some(state));
                        number
                    }
                },
            };
            self.graph.add_edge(number, edge.acts);
            for (property, way) in self.broken.iter_mut().enumerate() {
                if edge.broken >> property & 1 == 1 && way.is_none() {
                    let mut places = self.graph.way_to(from);
                    places.push(place);
                    *way = Some(places);
                }
            }
        }
        self.graph.first_edge.push(self.graph.targets.len() as u32);
    }
}

/// The edges of each state of the batch, in its order.
fn expand_all<M: Model>(
    model: &M,
    graph: &Graph,
    batch: &mut [Option<M::State>],
    spare: &mut [Vec<M::State>],
) -> Vec<Vec<Edge<M::State>>> {
    let expand = |states: &mut [Option<M::State>], spare: &mut Vec<M::State>| {
        let mut work = Work {
            steps: Vec::new(),
            new: HashSet::default(),
            spare,
        };
        let edges = states.iter_mut().map(|state| match state.take() {
            Some(state) => {
                let edges = expand(model, graph, &state, &mut work);
                work.spare.push(state);
                edges
            }
            None => Vec::new(),
        });
        let edges = edges.collect::<Vec<_>>();
        work.spare.truncate(SPARE);
        edges
    };
    if let (true, Some(first)) = (batch.len() < 64 || spare.len() < 2, spare.first_mut()) {
        return expand(batch, first);
    }
    let share = batch.len().div_ceil(spare.len());
    std::thread::scope(|scope| {
        let workers: Vec<_> = batch
            .chunks_mut(share)
            .zip(spare)
            .map(|(states, spare)| scope.spawn(move || expand(states, spare)))
            .collect();
        let joined = workers.into_iter().flat_map(|worker| match worker.join() {
            Ok(edges) => edges,
            // A panic in the model is the model's bug, and its own message says which.
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.collect()
    })
}

/// What a thread has in hand while it expands its part of a batch.
struct Work<'a, M: Model> {
    steps: Vec<Next<M::Action, M::State>>,
    /// Fingerprints that this thread has found in this batch.
    new: HashSet<u64, BuildHasherDefault<Itself>>,
    spare: &'a mut Vec<M::State>,
}

/// Fingerprints are hashes already.
#[derive(Default)]
struct Itself(u64);

impl Hasher for Itself {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

fn expand<M: Model>(
    model: &M,
    graph: &Graph,
    state: &M::State,
    work: &mut Work<'_, M>,
) -> Vec<Edge<M::State>> {
    model.steps(state, &mut work.steps, work.spare);
    let edges = work.steps.drain(..).map(|next| {
        let print = model.fingerprint(&next.state);
        let (target, open) = match graph.fingerprints.get(print) {
            Some(number) => {
                work.spare.push(next.state);
                (Target::Known(number), 0)
            }
            None if !work.new.insert(print) => {
                work.spare.push(next.state);
                (Target::Twin(print), 0)
            }
            // Nothing is asked of a wreck.
            None if next.is_wreck => (Target::New(print, next.state), 0),
            None => {
                let open = model.open(&next.state);
                (Target::New(print, next.state), open)
            }
        };
        Edge {
            target,
            acts: (next.acts, next.offers),
            broken: next.broken,
            is_wreck: next.is_wreck,
            open,
        }
    });
    edges.collect()
}
