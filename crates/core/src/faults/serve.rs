//! How completions are served: done, prefaulted, told "ready", acknowledged.

use crate::policy::{AfterFailure, AsyncFailure, Policy};
use crate::residency::PageOutcome;
use crate::{Failure, Token, VcpuId};

use super::item::{Answer, ItemState};
use super::vcpu::{Completion, Vcpu};
use super::{
    Accepted, Defect, Effect, Faults, ItemId, Paging, Prefaulted, Root, VcpuState, WAKE_ALL,
};

impl<P: Policy> Faults<P> {
    /// An item's work has ended (`async_pf_execute`). Linux drops how; here it is kept until the
    /// prefault has its say, for an error that nobody comes back for.
    pub fn handle_work_done(&mut self, id: VcpuId, item: ItemId, how: PageOutcome) -> Accepted {
        let Some(vcpu) = self.vcpu_mut(id) else {
            return Accepted::Stale;
        };
        match vcpu.items.get_mut(item) {
            Some(entry) if entry.state == ItemState::Working => {
                entry.state = ItemState::Done;
                entry.failure = match how {
                    PageOutcome::Failed(failure) => Some(failure),
                    PageOutcome::Present | PageOutcome::Cancelled => None,
                };
                self.complete(id, Completion::Item(item));
                self.taken()
            }
            _ => self.last_answer(id, item, Answer::Work),
        }
    }

    /// The vCPU's thread stands before the guest, `root` is the address space that will run:
    /// completions are served, as far as the ready slot allows (`kvm_check_async_pf_completion`).
    /// Ends with `Enter`, or with `Prefault` first. A halted vCPU without a completion stays so.
    pub fn handle_entry(&mut self, id: VcpuId, root: Root) -> Accepted {
        let Some(vcpu) = self.vcpu_mut(id) else {
            return Accepted::Stale;
        };
        match vcpu.state {
            VcpuState::Guest | VcpuState::Entering => {}
            VcpuState::Halted => {
                if vcpu.done.is_empty() {
                    // The kick was for a completion that an earlier entry has served.
                    vcpu.kicked = false;
                    return Accepted::Stale;
                }
            }
            VcpuState::Announcing(_)
            | VcpuState::Waiting(_)
            | VcpuState::Servicing(..)
            | VcpuState::Telling(..)
            | VcpuState::Stopped(..) => return Accepted::Stale,
        }
        vcpu.kicked = false;
        vcpu.noted = None;
        vcpu.state = VcpuState::Entering;
        self.serve(id, root);
        self.taken()
    }

    /// Completions are served while the vCPU runs the guest, by whichever thread: the answer to a
    /// [`Kick`](Effect::Kick) where "ready" can be said without taking the vCPU out (an interrupt by
    /// message, an area that may be written at any time). As [`handle_entry`](Self::handle_entry),
    /// but that the note stays: the thread may be blocked in a fault. The driver answers a
    /// `Prefault` before it tells the machine anything else of this vCPU.
    pub fn handle_service(&mut self, id: VcpuId, root: Root) -> Accepted {
        let Some(vcpu) = self.vcpu_mut(id) else {
            return Accepted::Stale;
        };
        if vcpu.state != VcpuState::Guest {
            return Accepted::Stale;
        }
        vcpu.kicked = false;
        self.serve(id, root);
        self.taken()
    }

    /// The prefault of an item has ended (`kvm_arch_async_page_ready`).
    pub fn handle_prefaulted(&mut self, id: VcpuId, item: ItemId, how: Prefaulted) -> Accepted {
        let root = match self.vcpu_state(id) {
            Some(VcpuState::Servicing(serving, root)) if serving == item => root,
            _ => return self.last_answer(id, item, Answer::Prefaulted),
        };
        self.set_state(id, VcpuState::Entering);
        self.finish(id, item, how);
        // Unless the policy has stopped the vCPU.
        if self.vcpu_state(id) == Some(VcpuState::Entering) {
            self.serve(id, root);
        }
        self.taken()
    }

    /// The guest acknowledged the token it was given (`MSR_KVM_ASYNC_PF_ACK`): the next may come.
    pub fn handle_ack(&mut self, id: VcpuId) -> Accepted {
        if self.has(Defect::AckIgnored) {
            return Accepted::Taken;
        }
        let token = self.vcpu(id).and_then(|vcpu| vcpu.ready);
        let accepted = self.free_slot(id);
        if self.has(Defect::DoubleDelivery)
            && let Some(token) = token
        {
            self.say_ready(id, token, false);
        }
        accepted
    }

    /// The token could not be written; the guest is not told (as in Linux: such a guest has broken
    /// its own shared area).
    pub fn handle_ready_refused(&mut self, id: VcpuId) -> Accepted {
        self.free_slot(id)
    }

    fn free_slot(&mut self, id: VcpuId) -> Accepted {
        match self.vcpu_mut(id) {
            Some(vcpu) if vcpu.ready.is_some() => {
                vcpu.ready = None;
                self.kick_if_servable(id);
                self.taken()
            }
            _ => Accepted::Stale,
        }
    }

    /// A completion joins the FIFO: the first raises a request, and any ends a halt.
    pub(super) fn complete(&mut self, id: VcpuId, completion: Completion) {
        let Some(vcpu) = self.vcpu_mut(id) else {
            return;
        };
        vcpu.done.push_back(completion);
        let wanted = vcpu.done.len() == 1 || vcpu.state == VcpuState::Halted;
        if wanted && !self.has(Defect::DroppedWakeUp) {
            self.kick(id);
        }
    }

    /// What held completions up has gone.
    pub(super) fn kick_if_servable(&mut self, id: VcpuId) {
        if self
            .vcpu(id)
            .is_some_and(|vcpu| !vcpu.done.is_empty() && vcpu.can_dequeue())
        {
            self.kick(id);
        }
    }

    fn serve(&mut self, id: VcpuId, root: Root) {
        while let Some(completion) = self.next_completion(id) {
            let item = match completion {
                Completion::Item(item) => item,
                Completion::WakeAll => {
                    self.say_ready(id, WAKE_ALL, false);
                    continue;
                }
            };
            let Some(served) = self.vcpu(id).and_then(|vcpu| vcpu.items.get(item)) else {
                debug_assert!(false, "a completion without its item");
                continue;
            };
            let (page, gfn) = (served.fault.page, served.gfn());
            let elsewhere = served.root != root && !self.has(Defect::WrongAddressSpace);
            if self.config.paging == Paging::Shadow && elsewhere {
                self.finish(id, item, Prefaulted::Skipped);
                if self.vcpu_state(id) != Some(VcpuState::Entering) {
                    // The policy has stopped the vCPU.
                    return;
                }
                continue;
            }
            self.set_state(id, VcpuState::Servicing(item, root));
            self.emit(Effect::Prefault {
                vcpu: id,
                item,
                page,
                gfn,
            });
            return;
        }
        self.set_state(id, VcpuState::Guest);
        self.emit(Effect::Enter { vcpu: id });
    }

    fn next_completion(&mut self, id: VcpuId) -> Option<Completion> {
        let overwrite = self.has(Defect::SlotOverwritten);
        let newest_first = self.has(Defect::UnfairFifo);
        let vcpu: &mut Vcpu = self.vcpu_mut(id)?;
        if !vcpu.can_dequeue() && !overwrite {
            None
        } else if newest_first {
            vcpu.done.pop_back()
        } else {
            vcpu.done.pop_front()
        }
    }

    /// An item's last step (`kvm_arch_async_page_present`): its gfn leaves the set, the guest is
    /// told, and what the prefault found goes to the policy.
    fn finish(&mut self, id: VcpuId, item: ItemId, how: Prefaulted) {
        let leave_gfn = self.has(Defect::HashEntryLeft);
        let Some(vcpu) = self.vcpu_mut(id) else {
            return;
        };
        let Some(ended) = vcpu.items.remove(item) else {
            return;
        };
        if let Some(at) = vcpu.queue.iter().position(|&queued| queued == item) {
            vcpu.queue.remove(at);
        }
        if !leave_gfn {
            vcpu.gfns.remove(ended.gfn());
        }
        let reads_errors = ended.announced && vcpu.settings.wants_errors();
        let failed = |failure| AsyncFailure {
            vcpu: id,
            gfn: ended.gfn(),
            key: ended.key,
            page: ended.fault.page,
            failure,
            guest_reads_errors: reads_errors,
        };
        let of_work = match ended.failure {
            Some(failure) => self.policy.work_failed(&failed(failure)),
            None => AfterFailure::SayReady,
        };
        let of_prefault = match how {
            Prefaulted::Fixed => {
                self.policy.page_mapped(id, ended.gfn());
                AfterFailure::SayReady
            }
            Prefaulted::Retry | Prefaulted::Skipped => AfterFailure::SayReady,
            Prefaulted::Error(failure) => {
                self.policy.abnormal_pfn_handled(id, self.config.paging);
                self.policy.async_failed(&failed(failure))
            }
        };
        let after = of_work.max(of_prefault);
        let left = left_over(how, ended.failure);
        // Whoever reads the error in the ready event is not told again by a machine check.
        let after = match left {
            Some(_) if self.config.errors_to_guest && reads_errors => AfterFailure::TellGuest,
            Some(_) | None => after,
        };
        let tell = after == AfterFailure::TellGuest && reads_errors;
        if ended.announced {
            self.say_ready(id, ended.token, tell);
        }
        let Some(failure) = left else {
            return;
        };
        match after {
            AfterFailure::TellGuest if tell => {}
            // The vCPU may stand at anybody's instruction: that is nobody's to be told of.
            AfterFailure::Exit => {
                self.report(id, ended.fault, failure);
                self.policy.error_reported(id, ended.fault.page);
            }
            AfterFailure::SayReady | AfterFailure::TellGuest => {
                if let Some((page, failure)) = self.owed.note(ended.fault.page, failure) {
                    self.unclaimed(page, failure);
                }
            }
        }
    }

    fn say_ready(&mut self, id: VcpuId, token: Token, error: bool) {
        if let Some(vcpu) = self.vcpu_mut(id)
            && vcpu.settings.is_on()
        {
            vcpu.ready = Some(token);
            self.emit(Effect::Ready {
                vcpu: id,
                token,
                error,
            });
        }
    }

    /// The answer that a cancelled item kept its place for.
    pub(super) fn last_answer(&mut self, id: VcpuId, item: ItemId, answer: Answer) -> Accepted {
        let Some(vcpu) = self.vcpu_mut(id) else {
            return Accepted::Stale;
        };
        match vcpu.items.get(item) {
            Some(entry) if entry.state == ItemState::Cancelled(answer) => {
                vcpu.items.remove(item);
                self.taken()
            }
            _ => Accepted::Stale,
        }
    }
}

/// The error that the task which waits for this item will meet when it comes back.
fn left_over(prefault: Prefaulted, work: Option<Failure>) -> Option<Failure> {
    match prefault {
        Prefaulted::Fixed => None,
        Prefaulted::Error(failure) => Some(failure),
        Prefaulted::Retry | Prefaulted::Skipped => work,
    }
}
