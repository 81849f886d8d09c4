//! What the machine asks of a driver.

use crate::{Failure, Gfn, PageId, Token, VcpuId};

use super::{Fault, ItemId};

/// Something to be done by the driver, in the order in which [`poll_effect`] gives them.
///
/// Each names the input that completes it. Effects of one vCPU never overlap but for `Work`,
/// which goes on beside everything else.
///
/// [`poll_effect`]: super::Faults::poll_effect
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Effect {
    /// Tell the guest "page not present": write the flags, inject #PF with CR2 = `token`.
    /// Completed by [`handle_announced`](super::Faults::handle_announced).
    NotPresent {
        /// The vCPU.
        vcpu: VcpuId,
        /// The item that the answer names.
        item: ItemId,
        /// What the guest will be told again when the page is ready.
        token: Token,
    },
    /// Get the page, however long it takes. It never comes before the announcement is answered.
    /// Completed by [`handle_work_done`](super::Faults::handle_work_done).
    Work {
        /// The vCPU whose item it is.
        vcpu: VcpuId,
        /// The item that the answer names.
        item: ItemId,
        /// The page wanted.
        page: PageId,
    },
    /// Nobody wants this work any more; withdraw it, or let it end. Completed by
    /// [`handle_work_done`](super::Faults::handle_work_done), at once or late.
    CancelWork {
        /// The vCPU whose item it was.
        vcpu: VcpuId,
        /// The item.
        item: ItemId,
    },
    /// The vCPU waits for this page: the synchronous way. Completed by
    /// [`handle_settled`](super::Faults::handle_settled) or
    /// [`handle_interrupted`](super::Faults::handle_interrupted), after which the wait is
    /// forgotten and must not be answered.
    Wait {
        /// The vCPU.
        vcpu: VcpuId,
        /// The page wanted.
        page: PageId,
    },
    /// Keep the vCPU out of the guest: the artificial halt. Ended by
    /// [`handle_interrupt`](super::Faults::handle_interrupt) or a kick.
    Halt {
        /// The vCPU.
        vcpu: VcpuId,
    },
    /// Bring the vCPU's thread to the point before the guest, waking it from its halt (KVM's
    /// request and kick). Completed by [`handle_entry`](super::Faults::handle_entry), or without
    /// the thread by [`handle_service`](super::Faults::handle_service).
    Kick {
        /// The vCPU.
        vcpu: VcpuId,
    },
    /// Map the page for the guest, on the vCPU's thread. Completed by
    /// [`handle_prefaulted`](super::Faults::handle_prefaulted).
    Prefault {
        /// The vCPU.
        vcpu: VcpuId,
        /// The item that the answer names.
        item: ItemId,
        /// The page.
        page: PageId,
        /// The frame to map it at.
        gfn: Gfn,
    },
    /// Tell the guest "page ready": write the error word if there is one, then the token, and
    /// raise the interrupt. Completed by [`handle_ack`](super::Faults::handle_ack) or
    /// [`handle_ready_refused`](super::Faults::handle_ready_refused).
    Ready {
        /// The vCPU.
        vcpu: VcpuId,
        /// Who is woken; [`WAKE_ALL`](super::WAKE_ALL) for everybody.
        token: Token,
        /// The page failed, and the guest asked to be told.
        error: bool,
    },
    /// The fault is dealt with: the vCPU goes to the point before the guest, at the same
    /// instruction. Completed by [`handle_entry`](super::Faults::handle_entry).
    Resume {
        /// The vCPU.
        vcpu: VcpuId,
    },
    /// Bring the vCPU's thread out of the guest, where it is blocked in a fault. Completed by
    /// [`handle_fault`](super::Faults::handle_fault) for the page that was
    /// [noted](super::Faults::noted), or by
    /// [`handle_entry`](super::Faults::handle_entry) when there is nothing to be done about it.
    Interrupt {
        /// The vCPU.
        vcpu: VcpuId,
    },
    /// Enter the guest. Completed by whatever the vCPU exits with.
    Enter {
        /// The vCPU.
        vcpu: VcpuId,
    },
    /// Linux runs the faults: enter again at the same instruction, and see whether the failure
    /// comes again. Completed by the next observation, if there is one.
    Confirm {
        /// The vCPU.
        vcpu: VcpuId,
    },
    /// Linux runs the faults: the page is not failed any more; enter again.
    Retry {
        /// The vCPU.
        vcpu: VcpuId,
    },
    /// The access at which the vCPU stands has failed: find out whether the guest can be told.
    /// Completed by [`handle_listening`](super::Faults::handle_listening).
    Tell {
        /// The vCPU.
        vcpu: VcpuId,
        /// What it wanted, and where it stands.
        fault: Fault,
        /// Why it cannot have it.
        failure: Failure,
    },
    /// Tell the guest: queue a machine check that names the page, for the next entry at this
    /// instruction, and no other event with it. Completed by
    /// [`handle_entry`](super::Faults::handle_entry), or by whatever the vCPU exits with where Linux
    /// takes the faults.
    MachineCheck {
        /// The vCPU.
        vcpu: VcpuId,
        /// What it wanted, and where it stands.
        fault: Fault,
        /// Why it cannot have it.
        failure: Failure,
    },
    /// The vCPU is stopped at the faulting instruction: report it. Completed by
    /// [`handle_resume`](super::Faults::handle_resume).
    Report {
        /// The vCPU.
        vcpu: VcpuId,
        /// What it wanted, and where it stands.
        fault: Fault,
        /// Why it cannot have it.
        failure: Failure,
    },
    /// An asynchronous access failed and nobody came back for the error: log it, once. Nothing
    /// completes it, nothing waits for it.
    Unclaimed {
        /// The page.
        page: PageId,
        /// Why it could not be provided.
        failure: Failure,
    },
}
