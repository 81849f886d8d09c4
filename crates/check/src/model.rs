//! What can be checked.

use core::fmt::Debug;

/// A machine with finitely many states, whose steps are chosen by nobody.
pub trait Model: Sync {
    /// A state.
    type State: Send + Sync;
    /// A step. A state has at most 255 of them.
    type Action: Clone + PartialEq + Debug + Send + Sync;

    /// Where it begins. To begin in one of several states, begin with a step that chooses.
    fn initial(&self) -> Self::State;

    /// Appends what can happen in `state`, always in the same order for states of the same
    /// fingerprint. `spare` are states that nobody needs any more: whoever clones a large state may
    /// clone it into one of them.
    fn steps(
        &self,
        state: &Self::State,
        into: &mut Vec<Next<Self::Action, Self::State>>,
        spare: &mut Vec<Self::State>,
    );

    /// Tells states apart. Equal for states that take equal steps to states of equal fingerprints.
    fn fingerprint(&self, state: &Self::State) -> u64;

    /// Names of what must never happen, at most 32.
    fn safety(&self) -> &[&'static str] {
        &[]
    }

    /// Names of the obligations, at most 32: a predicate of states each that may become true, and
    /// must not stay so.
    fn obligations(&self) -> &[&'static str] {
        &[]
    }

    /// The obligations that are open in `state`, bit by bit.
    fn open(&self, state: &Self::State) -> u32 {
        let _ = state;
        0
    }

    /// Who must be treated fairly, at most 64.
    fn classes(&self) -> &[Class] {
        &[]
    }
}

/// A step, judged, and what comes of it.
#[derive(Clone, Debug)]
pub struct Next<A, S> {
    /// The step.
    pub action: A,
    /// The classes that it belongs to, bit by bit. A step of none may be put off for ever.
    pub acts: u64,
    /// Classes that are shown by this step to be able to act, although it does not act for them.
    pub offers: u64,
    /// The state after it.
    pub state: S,
    /// What happened that must never happen, bit by bit.
    pub broken: u32,
    /// The state makes no sense any more: nothing is looked for behind it.
    pub is_wreck: bool,
}

impl<A, S> Next<A, S> {
    /// A step with which all is well, and which nobody has to take.
    pub fn fine(action: A, state: S) -> Next<A, S> {
        Next {
            action,
            acts: 0,
            offers: 0,
            state,
            broken: 0,
            is_wreck: false,
        }
    }
}

/// Steps of one party, that is to be treated fairly.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Class {
    /// What it is, for people.
    pub name: String,
    /// How fairly it is treated.
    pub fairness: Fairness,
}

/// What is assumed of a class of steps.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fairness {
    /// If some step of it is possible from some time on, without a pause, one is taken.
    Weak,
    /// If some step of it is possible again and again, one is taken.
    Strong,
}
