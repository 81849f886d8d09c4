//! What came of a simulated run.

use surefault_core::run::RunResult;

/// The result that any machine gives, and what only this one can count.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SimResult {
    /// The result.
    pub run: RunResult,
    /// The counts.
    pub counts: Counts,
}

/// What was counted on the way.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Events played.
    pub steps: u64,
    /// Faults taken, on whichever way.
    pub faults: u64,
    /// Faults that were queued.
    pub asynchronous: u64,
    /// Faults for which a vCPU waited.
    pub synchronous: u64,
    /// Of these, faults on pages that the plan does not fail, while the guest had asynchronous
    /// faults on: what healthy pages pay.
    pub refused_healthy: u64,
    /// Artificial halts.
    pub halts: u64,
    /// Events "page ready" given to the guest.
    pub readies: u64,
    /// Reports.
    pub reports: u64,
    /// Reports of a page that the plan does not fail, or that the task on the vCPU did not touch.
    pub wrong_reports: u64,
    /// Errors that ended as unclaimed.
    pub unclaimed: u64,
    /// Tasks that the guest killed.
    pub killed: u64,
    /// The most attempts at a page that a report names.
    pub max_attempts: u8,
    /// The most often that one access met its page failed already: the retries that it took.
    pub max_retries: u64,
    /// The most often that one access was taken again after its page had been said ready.
    pub max_asked_again: u64,
}
