//! Pages that are refused until they have been asked for.
//!
//! Where a first access is refused instead of waiting
//! ([`PagerConfig::refuse_absent`](surefault_pager::PagerConfig::refuse_absent)), the vCPU's own thread
//! learns of a fault at once, with the address: no other thread has to see it, and nobody needs to be
//! brought out of a wait.
//!
//! ```text
//!  KVM_RUN ─► SIGBUS ─► asked for ─┬─ there, or soon enough (patience) ──────► KVM_RUN
//!                                  └─ not yet ─► Faults ─┬─ told ────────────► KVM_RUN
//!                                                        └─ waits: sleeps ───► KVM_RUN
//! ```

use std::time::Instant;

use surefault_core::residency::PageState;
use surefault_core::{PageId, VcpuId};

use super::Apf;
use crate::signals::Kicker;

impl Apf {
    /// The vCPU was refused `page`. If that is only because nobody had asked for it, asks, and gives
    /// it the time that a thread is left alone for before a kick. Says whether the access can be made
    /// again.
    pub(crate) fn ask(&self, id: VcpuId, page: PageId, kicker: &Kicker) -> bool {
        let Some(pages) = self.pages().filter(|pages| pages.refuses_absent()) else {
            return false;
        };
        if let PageState::Failed(_) = pages.state(page) {
            return false;
        }
        let mut state = self.state();
        state.counted.refused += 1;
        state.demanded.entry(page).or_insert_with(Instant::now);
        state.vcpu(id).asleep_for = Some(page);
        let wait = state.patience.before_a_kick();
        drop(state);
        pages.demand(page);
        if !wait.is_zero() && pages.state(page) == PageState::Pending {
            kicker.sleep_for(wait);
        }
        let is_there = match pages.state(page) {
            PageState::Present | PageState::Removed => true,
            PageState::Absent | PageState::Pending | PageState::Failed(_) => false,
        };
        let mut state = self.state();
        state.vcpu(id).asleep_for = None;
        if is_there {
            state.demanded.remove(&page);
            state.counted.spared += 1;
        }
        is_there
    }

    /// Whether a vCPU that waits for `page`, of which it was refused the first access, has to sleep.
    pub(crate) fn is_slept_for(&self, page: PageId) -> bool {
        let pages = self.pages().filter(|pages| pages.refuses_absent());
        pages.is_some_and(|pages| pages.state(page) == PageState::Pending)
    }

    /// Sleeps until `page` has settled, or somebody wants the vCPU.
    pub(crate) fn sleep_for(&self, id: VcpuId, page: PageId, kicker: &Kicker) {
        self.state().vcpu(id).asleep_for = Some(page);
        // Looked at again: it may have settled before the line above.
        if self.is_slept_for(page) {
            kicker.sleep();
        }
        self.state().vcpu(id).asleep_for = None;
    }
}
