//! What is done about the error of an asynchronous page fault: the published proposals, and ours.
//!
//! The machine of faults ([`crate::faults`]) plays KVM's rules; a policy hangs in it by the hooks
//! of [`Policy`]. To add one: a file in here that implements the trait, and one line in the list at
//! the end of this file, from which the choice at run time, the parser and the help are made.

mod error_gfn;
mod error_gfn_table;
mod error_pending;
mod exact;
mod exit_on_completion;
mod guest_error;
mod list;
mod retry;
#[cfg(test)]
mod tests;

use core::fmt::Debug;
use core::hash::Hash;
use core::time::Duration;

use crate::faults::{FaultsConfig, Paging};
use crate::residency::PageState;
use crate::{Failure, Gfn, PageId, VcpuId};

pub use error_gfn::ErrorGfn;
pub use error_gfn_table::ErrorGfnTable;
pub use error_pending::ErrorPending;
pub use exact::Exact;
pub use exit_on_completion::ExitOnCompletion;
pub use guest_error::GuestError;
pub use list::UnknownPolicyError;
pub use retry::Retry;

/// An error policy. Every hook has a default that does nothing, which together is
/// [`Retry`]: Linux as it is.
///
/// A policy is part of the machine's state: what it keeps must be finite, and is best kept per
/// vCPU or per VM in tables sized once.
pub trait Policy: Clone + Eq + Hash + Debug {
    /// The policy for a VM of this shape, with nothing remembered.
    fn new(config: &FaultsConfig) -> Self;

    /// May this fault go the asynchronous way? Asked after all of KVM's own conditions, as each
    /// proposal placed it in `kvm_can_do_async_pf`.
    fn may_go_async(&mut self, attempt: &Attempt) -> bool {
        let _ = attempt;
        true
    }

    /// The work of an asynchronous fault ended with an error. Asked as its "ready" is about to be
    /// said, before the outcome of the prefault, which may have been skipped, or may have found the
    /// page there after all.
    fn work_failed(&mut self, failed: &AsyncFailure) -> AfterFailure {
        let _ = failed;
        AfterFailure::SayReady
    }

    /// The prefault at ready time found that the page cannot be provided.
    fn async_failed(&mut self, failed: &AsyncFailure) -> AfterFailure {
        let _ = failed;
        AfterFailure::SayReady
    }

    /// A synchronous fault of this vCPU was reported.
    fn error_reported(&mut self, vcpu: VcpuId, page: PageId) {
        let _ = (vcpu, page);
    }

    /// This vCPU handled an abnormal pfn (`handle_abnormal_pfn`): an error, also a prefault's, or
    /// what was no error after all (a write to read-only memory, a hardware poison signal).
    fn abnormal_pfn_handled(&mut self, vcpu: VcpuId, paging: Paging) {
        let _ = (vcpu, paging);
    }

    /// A page was mapped for this vCPU.
    fn page_mapped(&mut self, vcpu: VcpuId, gfn: Gfn) {
        let _ = (vcpu, gfn);
    }

    /// The gfns `first` to `last` belong to no memory slot any more.
    fn slot_removed(&mut self, first: Gfn, last: Gfn) {
        let _ = (first, last);
    }

    /// This vCPU was reset.
    fn vcpu_reset(&mut self, vcpu: VcpuId) {
        let _ = vcpu;
    }

    /// Whether this vCPU takes no fault the asynchronous way now, for what the policy remembers. Asked
    /// by those who measure, never by the machine.
    fn is_off(&self, vcpu: VcpuId) -> bool {
        let _ = vcpu;
        false
    }

    /// Bytes that a kernel would keep for this VM.
    fn state_bytes(&self) -> usize {
        0
    }

    /// Arms a timer: asked for after every input, once for each answer.
    fn poll_timer(&mut self) -> Option<(PolicyTimer, Duration)> {
        None
    }

    /// A timer fired, possibly one that is not wanted any more.
    fn timer_fired(&mut self, timer: PolicyTimer) {
        let _ = timer;
    }
}

/// A fault that might go the asynchronous way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Attempt {
    /// The vCPU.
    pub vcpu: VcpuId,
    /// The frame.
    pub gfn: Gfn,
    /// The address that the posted patches keyed by.
    pub key: AddressKey,
    /// The page behind the frame.
    pub page: PageId,
    /// What is known of it. Linux knows nothing; only [`Exact`] looks.
    pub state: PageState,
}

/// An asynchronous fault whose page cannot be provided, at the moment of its "ready".
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AsyncFailure {
    /// The vCPU.
    pub vcpu: VcpuId,
    /// The frame.
    pub gfn: Gfn,
    /// The address that the posted patches keyed by.
    pub key: AddressKey,
    /// The page behind the frame.
    pub page: PageId,
    /// Why it cannot be provided.
    pub failure: Failure,
    /// The guest was told "not present" and reads the error word of "ready".
    pub guest_reads_errors: bool,
}

/// What follows an asynchronous failure.
///
/// The later a variant, the more it says: of two answers to one failure the stronger counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum AfterFailure {
    /// The guest is told "ready", as if nothing had happened.
    SayReady,
    /// The guest is told "ready" with the error word set. Only where the guest reads it.
    TellGuest,
    /// The guest is told "ready", and the vCPU stops at once, with whatever registers it has.
    Exit,
}

/// `cr2_or_gpa >> PAGE_SHIFT`: a gfn under two-dimensional paging, a guest-virtual page number
/// under shadow paging. The posted patches remember faults by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct AddressKey(u64);

impl AddressKey {
    /// The key with this value.
    pub const fn new(raw: u64) -> AddressKey {
        AddressKey(raw)
    }

    /// The key as an integer.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// A policy's own timer, numbered by the policy.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PolicyTimer(pub u8);

list::policies! {
    /// Linux to this day: the error is dropped, the access tried again, for ever.
    Retry => "retry",
    /// RFC of 2020: each vCPU remembers the last address that failed, which then goes sync.
    ErrorGfn => "error-gfn",
    /// Counter-proposal of 2020: after an error a vCPU takes all faults sync until one is handled.
    ErrorPending => "error-pending",
    /// v4 of 2020: each vCPU has a table of 64 addresses that failed, each of which goes sync once.
    ErrorGfnTable => "error-gfn-table",
    /// A maintainer's alternative of 2020: the vCPU exits as soon as the error is known.
    ExitOnCompletion => "exit-on-completion",
    /// RFC of 2020: the ready event tells the guest, which kills the task; else as error-gfn.
    GuestError => "guest-error",
    /// Residency's failed pages are the record: a fault on one goes sync and is answered at once.
    Exact => "exact" (default),
}
