//! What came of a check.

/// Whether a property holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict<A> {
    /// On every way through the whole machine.
    Holds,
    /// Not on this one.
    Violated(Counterexample<A>),
    /// It was not violated as far as was looked, which was not everywhere.
    Incomplete,
}

/// A way on which a property does not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Counterexample<A> {
    /// Steps from the beginning.
    pub stem: Vec<A>,
    /// Steps that may be taken round and round from there, and after which the state is the same.
    /// Empty for what must never happen, which the last step of the stem does, and where nothing
    /// more can happen.
    pub cycle: Vec<A>,
}

impl<A> Counterexample<A> {
    /// Steps in all.
    #[expect(clippy::len_without_is_empty, reason = "a way is never without steps")]
    pub fn len(&self) -> usize {
        self.stem.len() + self.cycle.len()
    }
}

impl<A> Verdict<A> {
    /// The word for it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Verdict::Holds => "holds",
            Verdict::Violated(_) => "violated",
            Verdict::Incomplete => "incomplete",
        }
    }
}
