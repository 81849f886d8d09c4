//! Deliberate mistakes, for the tests that must catch them. Never compiled into a product.

use super::Residency;

/// One mistake.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Defect {
    /// A fetch that comes back after a removal is installed over the removed page.
    LateCompletionAfterRemoval,
    /// What comes back under an old generation is taken for the present one.
    NoGenerationCheck,
    /// A range that fails fails all its pages.
    RangeFailureFailsAll,
    /// A prefetch that fails fails its page.
    PrefetchFailureSticks,
    /// A second demand starts the deadline anew.
    DeadlineRestarted,
    /// A page that is already being installed is fetched and installed again.
    DoubleInstall,
    /// A permanent error is retried for as long as the budget lasts, and one attempt longer.
    BudgetOverrun,
    /// Healing makes the page absent without removing its marker.
    HealWithoutUnmark,
}

impl Defect {
    /// All of them.
    pub const ALL: [Defect; 8] = [
        Defect::LateCompletionAfterRemoval,
        Defect::NoGenerationCheck,
        Defect::RangeFailureFailsAll,
        Defect::PrefetchFailureSticks,
        Defect::DeadlineRestarted,
        Defect::DoubleInstall,
        Defect::BudgetOverrun,
        Defect::HealWithoutUnmark,
    ];
}

impl Residency {
    /// The same machine with a mistake in it.
    pub fn with_defect(mut self, defect: Defect) -> Residency {
        self.defect = Some(defect);
        self
    }
}
