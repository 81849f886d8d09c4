//! The checker, on machines whose answers are known.

use surefault_check::{Class, Explored, Fairness, Limits, Model, Next, Verdict, explore, liveness};

/// The steps from a state: who takes each, and where it leads.
type Steps = fn(&[u8]) -> Vec<(u8, Vec<u8>)>;
type Predicate = fn(&[u8]) -> bool;
/// Who, and the place among the steps.
type Action = (u8, u8);

/// A machine of a few bytes.
struct Machine {
    initial: Vec<u8>,
    actions: Steps,
    safety: Vec<(&'static str, Predicate)>,
    obligations: Vec<&'static str>,
    open: fn(&[u8]) -> u32,
    classes: Vec<Class>,
}

impl Machine {
    fn new(initial: &[u8], actions: Steps) -> Machine {
        Machine {
            initial: initial.to_vec(),
            actions,
            safety: Vec::new(),
            obligations: Vec::new(),
            open: |_| 0,
            classes: Vec::new(),
        }
    }

    fn fair(mut self, count: usize, fairness: Fairness) -> Machine {
        self.classes = (0..count)
            .map(|n| Class {
                name: format!("process {n}"),
                fairness,
            })
            .collect();
        self
    }

    fn owes(mut self, names: &[&'static str], open: fn(&[u8]) -> u32) -> Machine {
        self.obligations = names.to_vec();
        self.open = open;
        self
    }

    fn never(mut self, name: &'static str, bad: Predicate) -> Machine {
        self.safety.push((name, bad));
        self
    }

    fn names(&self) -> Vec<&'static str> {
        self.safety.iter().map(|&(name, _)| name).collect()
    }

    fn explore(&self, limits: &Limits) -> Explored<Action> {
        explore(&Checked::of(self), limits, |_| 64, |_| {})
    }

    fn check(&self) -> (Explored<Action>, Vec<Verdict<Action>>) {
        let model = Checked::of(self);
        let explored = explore(&model, &Limits::default(), |_| 64, |_| {});
        let verdicts = liveness::judge(&model, &explored);
        (explored, verdicts)
    }
}

struct Checked<'a> {
    machine: &'a Machine,
    names: Vec<&'static str>,
}

impl Checked<'_> {
    fn of(machine: &Machine) -> Checked<'_> {
        Checked {
            names: machine.names(),
            machine,
        }
    }
}

impl Model for Checked<'_> {
    type State = Vec<u8>;
    type Action = Action;

    fn initial(&self) -> Vec<u8> {
        self.machine.initial.clone()
    }

    fn steps(&self, state: &Vec<u8>, into: &mut Vec<Next<Action, Vec<u8>>>, _: &mut Vec<Vec<u8>>) {
        let steps = (self.machine.actions)(state);
        for (place, (who, state)) in (0..).zip(steps) {
            let mut next = Next::fine((who, place), state);
            if usize::from(who) < self.machine.classes.len() {
                next.acts = 1 << who;
            }
            for (bit, (_, bad)) in self.machine.safety.iter().enumerate() {
                next.broken |= u32::from(bad(&next.state)) << bit;
            }
            into.push(next);
        }
    }

    fn fingerprint(&self, state: &Vec<u8>) -> u64 {
        state.iter().fold(0xcbf2_9ce4_8422_2325, |print, &byte| {
            (print ^ u64::from(byte))
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(23)
        })
    }

    fn safety(&self) -> &[&'static str] {
        &self.names
    }

    fn obligations(&self) -> &[&'static str] {
        &self.machine.obligations
    }

    fn open(&self, state: &Vec<u8>) -> u32 {
        (self.machine.open)(state)
    }

    fn classes(&self) -> &[Class] {
        &self.machine.classes
    }
}

fn set(state: &[u8], changes: &[(usize, u8)]) -> Vec<u8> {
    let mut state = state.to_vec();
    for &(at, value) in changes {
        state[at] = value;
    }
    state
}

/// Counters that count round independently: the states are the product.
#[test]
fn every_state_is_found_once_at_its_depth() {
    let machine = Machine::new(&[0; 5], |state| {
        let step = |n: usize| (0, set(state, &[(n, (state[n] + 1) % 6)]));
        (0..state.len()).map(step).collect()
    });
    let found: Vec<(usize, usize, usize)> = [1, 2, 3]
        .map(|threads| {
            let explored = machine.explore(&Limits {
                threads,
                ..Limits::default()
            });
            assert!(explored.is_complete);
            let graph = explored.graph;
            (graph.states(), graph.edges(), graph.deepest())
        })
        .into();
    assert_eq!(found, [(7776, 38880, 25); 3]);
}

#[test]
fn a_limit_leaves_it_incomplete() {
    let machine = Machine::new(&[0, 0], |state| {
        let step = |n: usize| (0, set(state, &[(n, state[n].wrapping_add(1))]));
        (0..2).map(step).collect()
    })
    .never("both at 9", |state| state == [9, 9])
    .owes(&["anything"], |_| 1);
    let limits = Limits {
        max_states: 1000,
        threads: 1,
        ..Limits::default()
    };
    let explored = machine.explore(&limits);
    assert!(!explored.is_complete);
    // It was found on the way all the same, at its depth.
    assert_eq!(
        explored.broken[0].as_ref().map(|way| way.stem.len()),
        Some(18)
    );
    let verdicts = liveness::judge(&Checked::of(&machine), &explored);
    assert_eq!(verdicts, [Verdict::Incomplete]);
}

/// Each philosopher takes the left fork, then the right one, and puts both down. Forks 0 to 2 in the
/// bytes 0 to 2, philosophers in 3 to 5: how many forks they have.
fn dine(state: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut steps = Vec::new();
    for n in 0..3 {
        let (left, right, me) = (n, (n + 1) % 3, n + 3);
        let who = n as u8;
        match state[me] {
            0 if state[left] == 0 => steps.push((who, set(state, &[(left, 1), (me, 1)]))),
            1 if state[right] == 0 => steps.push((who, set(state, &[(right, 1), (me, 2)]))),
            2 => steps.push((who, set(state, &[(left, 0), (right, 0), (me, 0)]))),
            _ => {}
        }
    }
    steps
}

#[test]
fn three_philosophers_starve_together_after_three_steps() {
    let hungry = |state: &[u8]| u32::from(state[3] == 1);
    let machine = Machine::new(&[0; 6], dine)
        .never("all have one fork", |state| state[3..] == [1, 1, 1])
        .owes(&["the first eats"], hungry)
        .fair(3, Fairness::Strong);
    let (explored, verdicts) = machine.check();
    assert!(explored.is_complete);
    let way = explored.broken[0].as_ref().expect("a deadlock");
    assert_eq!(way.stem.len(), 3);
    let Verdict::Violated(lasso) = &verdicts[0] else {
        panic!("{verdicts:?}");
    };
    assert_eq!((lasso.stem.len(), lasso.cycle.len()), (3, 0), "{lasso:?}");
}

/// Peterson's: bytes 0 and 1 are the places (0 away, 1 wants, 2 waits, 3 inside), 2 the turn.
fn peterson(state: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut steps = Vec::new();
    for me in [0, 1] {
        let other = 1 - me;
        let who = me as u8;
        match state[me] {
            // Nobody has to want anything.
            0 => steps.push((9, set(state, &[(me, 1)]))),
            1 => steps.push((who, set(state, &[(me, 2), (2, other as u8)]))),
            2 if state[other] == 0 || state[2] == who => steps.push((who, set(state, &[(me, 3)]))),
            3 => steps.push((who, set(state, &[(me, 0)]))),
            _ => {}
        }
    }
    steps
}

#[test]
fn petersons_lock_excludes_and_lets_everybody_in_under_weak_fairness() {
    let waits = |state: &[u8]| {
        u32::from((1..3).contains(&state[0])) | u32::from((1..3).contains(&state[1])) << 1
    };
    let machine = Machine::new(&[0, 0, 0], peterson)
        .never("both inside", |state| state[..2] == [3, 3])
        .owes(&["the first gets in", "the second gets in"], waits)
        .fair(2, Fairness::Weak);
    let (explored, verdicts) = machine.check();
    assert_eq!(explored.broken, [None]);
    assert_eq!(verdicts, [Verdict::Holds, Verdict::Holds]);
    // Whoever waits inside the protocol blocks the other, until it is the only one who can move.
    let (_, verdicts) = machine.fair(0, Fairness::Weak).check();
    assert_eq!(verdicts, [Verdict::Holds, Verdict::Holds]);
}

/// One lock, taken by whoever finds it free: possible again and again, but not without a pause.
fn grab(state: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut steps = Vec::new();
    for me in [0, 1] {
        let who = me as u8;
        match state[me] {
            0 => steps.push((9, set(state, &[(me, 1)]))),
            1 if state[2] == 0 => steps.push((who, set(state, &[(me, 2), (2, 1)]))),
            2 => steps.push((who, set(state, &[(me, 0), (2, 0)]))),
            _ => {}
        }
    }
    steps
}

#[test]
fn a_plain_lock_needs_strong_fairness() {
    let lock = || Machine::new(&[0, 0, 0], grab).owes(&["in"], |state| u32::from(state[0] == 1));
    let (_, verdicts) = lock().fair(2, Fairness::Strong).check();
    assert_eq!(verdicts, [Verdict::Holds]);
    let (_, verdicts) = lock().fair(2, Fairness::Weak).check();
    let Verdict::Violated(lasso) = &verdicts[0] else {
        panic!("{verdicts:?}");
    };
    // The first wants it, and the second takes it, gives it back and wants it again, for ever.
    assert_eq!((lasso.stem.len(), lasso.cycle.len()), (1, 3), "{lasso:?}");
    let others: Vec<u8> = lasso.cycle.iter().map(|&(who, _)| who).collect();
    assert!(!others.contains(&0), "{others:?}");
}

/// A strong class that stands in the way of the whole component, but not of a part of it: from 0 to 1
/// and back, and from 1 to 2 and back, where the exit from 2 is strong.
#[test]
fn a_part_of_an_unfair_component_may_be_fair() {
    let steps = |state: &[u8]| match state[0] {
        0 => vec![(9, vec![1])],
        1 => vec![(9, vec![0]), (9, vec![2])],
        2 => vec![(9, vec![1]), (0, vec![3])],
        _ => vec![(9, vec![3])],
    };
    let machine = Machine::new(&[0], steps)
        .owes(&["out", "out of 2"], |state| {
            u32::from(state[0] < 3) | u32::from(state[0] == 2) << 1
        })
        .fair(1, Fairness::Strong);
    let (_, verdicts) = machine.check();
    let Verdict::Violated(lasso) = &verdicts[0] else {
        panic!("{verdicts:?}");
    };
    assert_eq!((lasso.stem.len(), lasso.cycle.len()), (0, 2), "{lasso:?}");
    assert_eq!(verdicts[1], Verdict::Holds);
}
