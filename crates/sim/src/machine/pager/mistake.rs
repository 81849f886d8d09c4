//! Deliberate mistakes, for the tests that must catch them. Never compiled into a product.

/// One mistake of the pager's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mistake {
    /// Events are read into memory of the worker's own: a removal goes on before it is recorded.
    ReadUnrecorded,
    /// The journal is cleared before what stands in it is noted.
    ClearedTooSoon,
    /// The next worker does not look at the journal.
    NotReplayed,
    /// The next worker looks at the journal when its machine of pages is there already.
    ReplayedTooLate,
    /// The next worker does not wake who waits.
    NotWoken,
    /// An install that was intended counts as carried out.
    IntentTrusted,
    /// A page is written down as present before it is installed.
    PresentTooSoon,
    /// A removed page counts as absent after a restart.
    RemovalForgotten,
    /// Nobody is woken once more after zeros were put in place and answered for.
    ZeroWokenOnce,
    /// Whether an install is still wanted is asked outside of the gate.
    AskedOutsideGate,
}

impl Mistake {
    /// All of them.
    pub const ALL: [Mistake; 10] = [
        Mistake::ReadUnrecorded,
        Mistake::ClearedTooSoon,
        Mistake::NotReplayed,
        Mistake::ReplayedTooLate,
        Mistake::NotWoken,
        Mistake::IntentTrusted,
        Mistake::PresentTooSoon,
        Mistake::RemovalForgotten,
        Mistake::ZeroWokenOnce,
        Mistake::AskedOutsideGate,
    ];
}
