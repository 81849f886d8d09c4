//! `exact`: residency's record.

use crate::faults::FaultsConfig;
use crate::residency::PageState;

use super::{Attempt, Policy};

/// Surefault's own, and the default: the failed pages that residency knows are the record.
///
/// A fault on a failed page goes the synchronous way, where residency answers at once; every other
/// fault keeps the asynchronous way. The record is per page and per VM, so that it holds for as
/// many failing tasks as there are, for a task that migrates, and whatever address space runs; a
/// heal or a removal ends it. There is no table to overflow and nothing to clear: this policy has
/// no state. What it costs is a record of residency, which a host kernel does not keep.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Exact;

impl Policy for Exact {
    fn new(_: &FaultsConfig) -> Exact {
        Exact
    }

    fn may_go_async(&mut self, attempt: &Attempt) -> bool {
        match attempt.state {
            PageState::Failed(_) => false,
            PageState::Absent | PageState::Pending | PageState::Present | PageState::Removed => {
                true
            }
        }
    }
}
