//! How a fault is taken: at once, by waiting, or by telling the guest and going on.

use crate::policy::{Attempt, Policy};
use crate::residency::{PageOutcome, PageState};
use crate::{PageId, VcpuId};

use super::item::{Answer, Item, ItemState};
use super::observe::Belief;
use super::{
    Accepted, Announced, Defect, DoubleFault, Effect, Fault, Faults, GuestApf, ItemId, LinuxApf,
    Moment, Seen, VcpuState,
};

impl<P: Policy> Faults<P> {
    /// The vCPU faulted in the guest, and the page behind the frame is `page_state` right now
    /// (`kvm_mmu_faultin_pfn` after its no-wait attempt). Ends with one of `Resume`, `Wait`,
    /// `Halt`, `NotPresent`.
    pub fn handle_fault(
        &mut self,
        id: VcpuId,
        fault: Fault,
        moment: &Moment,
        page_state: PageState,
    ) -> Accepted {
        if self.vcpu_state(id) != Some(VcpuState::Guest) {
            return Accepted::Stale;
        }
        self.drop_note(id);
        // Whoever faults on the page comes back for its error, on whichever vCPU.
        let _claimed = self.owed.take(fault.page);
        if page_state == PageState::Present {
            self.policy.page_mapped(id, fault.gfn);
            self.resume(id);
        } else if !self.may_go_async(id, &fault, moment, page_state) {
            self.wait(id, fault);
        } else if self
            .vcpu(id)
            .is_some_and(|vcpu| vcpu.gfns.contains(fault.gfn))
            && self.config.double_fault == DoubleFault::Halt
        {
            // Double fault: somebody on this vCPU waits for the page already.
            self.halt(id);
        } else if !self.queue(id, fault, moment) {
            self.wait(id, fault);
        }
        self.taken()
    }

    /// The guest was told "page not present", or could not be: only now the work begins, so that
    /// "ready" never overtakes it.
    pub fn handle_announced(&mut self, id: VcpuId, item: ItemId, how: Announced) -> Accepted {
        if self.vcpu_state(id) != Some(VcpuState::Announcing(item)) {
            return self.last_answer(id, item, Answer::Announced);
        }
        self.start_work(id, item, how == Announced::Injected);
        match how {
            Announced::Injected => self.resume(id),
            Announced::Refused => self.halt(id),
        }
        self.taken()
    }

    /// The page that the vCPU waits for has settled.
    pub fn handle_settled(&mut self, id: VcpuId, page: PageId, how: PageOutcome) -> Accepted {
        let fault = match self.vcpu_state(id) {
            Some(VcpuState::Waiting(fault)) if fault.page == page => fault,
            _ => return Accepted::Stale,
        };
        match how {
            PageOutcome::Present => {
                self.policy.page_mapped(id, fault.gfn);
                self.resume(id);
            }
            PageOutcome::Cancelled => self.resume(id),
            PageOutcome::Failed(_) if self.has(Defect::FailureSwallowed) => self.resume(id),
            PageOutcome::Failed(failure) => {
                self.policy.abnormal_pfn_handled(id, self.config.paging);
                self.fail(id, fault, failure);
                self.policy.error_reported(id, page);
            }
        }
        self.taken()
    }

    /// A signal took the vCPU out of its wait (`KVM_PFN_ERR_SIGPENDING`), or it does not stand at the
    /// access any more of which its guest was to be told. The access is tried again when the guest
    /// is entered again.
    pub fn handle_interrupted(&mut self, id: VcpuId) -> Accepted {
        match self.vcpu_state(id) {
            Some(VcpuState::Waiting(_) | VcpuState::Telling(..)) => {
                self.resume(id);
                self.taken()
            }
            _ => Accepted::Stale,
        }
    }

    /// An interrupt for the guest ends the artificial halt.
    pub fn handle_interrupt(&mut self, id: VcpuId) -> Accepted {
        if self.vcpu_state(id) != Some(VcpuState::Halted) {
            return Accepted::Stale;
        }
        self.resume(id);
        self.taken()
    }

    /// Whoever got the report lets the vCPU run on, at the same instruction.
    pub fn handle_resume(&mut self, id: VcpuId) -> Accepted {
        match self.vcpu_state(id) {
            Some(VcpuState::Stopped(..)) => {
                self.resume(id);
                self.taken()
            }
            _ => Accepted::Stale,
        }
    }

    /// An abnormal pfn was handled without an error: a write to read-only memory that was emulated,
    /// a hardware poison signal. Matters to `error-pending`.
    pub fn handle_abnormal_pfn(&mut self, id: VcpuId) -> Accepted {
        if self.vcpu(id).is_none() {
            return Accepted::Stale;
        }
        self.policy.abnormal_pfn_handled(id, self.config.paging);
        self.taken()
    }

    /// Linux takes the faults, and the vCPU loop saw `seen` at `fault`, whose page is `page_state`.
    /// Ends with one of `Retry`, `Confirm`, `Report`, `Tell`. The policy is not asked: it is Linux's.
    pub fn handle_observed(
        &mut self,
        id: VcpuId,
        fault: Fault,
        seen: Seen,
        apf: LinuxApf,
        page_state: PageState,
    ) -> Accepted {
        match self.vcpu_state(id) {
            Some(VcpuState::Guest | VcpuState::Entering) => {}
            _ => return Accepted::Stale,
        }
        self.drop_note(id);
        match page_state {
            PageState::Absent | PageState::Pending | PageState::Present | PageState::Removed => {
                self.observed.forget(|page| page == fault.page);
                self.emit(Effect::Retry { vcpu: id });
            }
            PageState::Failed(failure) => {
                match self.observed.weigh(seen, apf, id, fault.page, fault.rip) {
                    Belief::Unconfirmed => self.emit(Effect::Confirm { vcpu: id }),
                    Belief::Real => {
                        let _claimed = self.owed.take(fault.page);
                        self.fail(id, fault, failure);
                    }
                }
            }
        }
        self.taken()
    }

    /// `kvm_can_do_async_pf`, and the policy.
    fn may_go_async(
        &mut self,
        id: VcpuId,
        fault: &Fault,
        moment: &Moment,
        page_state: PageState,
    ) -> bool {
        if moment.prefetch
            || moment.emulated
            || !self.config.lapic_in_kernel
            || moment.event_reinjection
            || moment.exception_pending
            || (self.config.hlt_in_guest && !self.is_deliverable(id, moment))
            || !moment.interrupts_allowed
        {
            return false;
        }
        self.policy.may_go_async(&Attempt {
            vcpu: id,
            gfn: fault.gfn,
            key: moment.key(self.config.paging, fault.gfn),
            page: fault.page,
            state: page_state,
        })
    }

    /// `kvm_can_deliver_async_pf`.
    fn is_deliverable(&self, id: VcpuId, moment: &Moment) -> bool {
        match self.guest_apf(id) {
            GuestApf::Off => false,
            GuestApf::On { send_always, .. } => {
                (send_always || !moment.kernel_mode)
                    && moment.guest_paging
                    && !(moment.nested || moment.smm || moment.unread)
            }
        }
    }

    /// `kvm_setup_async_pf`. False when the queue or the memory for items is full.
    fn queue(&mut self, id: VcpuId, fault: Fault, moment: &Moment) -> bool {
        let cap = usize::from(self.config.queue_cap) + usize::from(self.has(Defect::CapOffByOne));
        let key = moment.key(self.config.paging, fault.gfn);
        let tell = self.is_deliverable(id, moment);
        let early = self.has(Defect::ReadyBeforeAnnounce);
        let Some(vcpu) = self.vcpu_mut(id) else {
            return false;
        };
        if vcpu.queued() >= cap || vcpu.items.is_full() {
            return false;
        }
        let token = vcpu.deal_token();
        let Some(item) = vcpu.items.insert(Item {
            fault,
            key,
            root: moment.root,
            token,
            state: ItemState::Announcing,
            announced: false,
            failure: None,
        }) else {
            return false;
        };
        vcpu.queue.push(item);
        // There is room; the invariants would tell.
        let _ = vcpu.gfns.insert(fault.gfn);
        if tell {
            vcpu.state = VcpuState::Announcing(item);
            if early {
                self.emit(Effect::Work {
                    vcpu: id,
                    item,
                    page: fault.page,
                });
            }
            self.emit(Effect::NotPresent {
                vcpu: id,
                item,
                token,
            });
        } else {
            self.start_work(id, item, false);
            self.halt(id);
        }
        true
    }

    fn start_work(&mut self, id: VcpuId, item: ItemId, announced: bool) {
        let early = announced && self.has(Defect::ReadyBeforeAnnounce);
        let Some(entry) = self.vcpu_mut(id).and_then(|vcpu| vcpu.items.get_mut(item)) else {
            return;
        };
        entry.state = ItemState::Working;
        entry.announced = announced;
        let page = entry.fault.page;
        if !early {
            self.emit(Effect::Work {
                vcpu: id,
                item,
                page,
            });
        }
    }

    fn drop_note(&mut self, id: VcpuId) {
        if let Some(vcpu) = self.vcpu_mut(id) {
            vcpu.noted = None;
        }
    }

    fn wait(&mut self, id: VcpuId, fault: Fault) {
        if let Some(vcpu) = self.vcpu_mut(id) {
            vcpu.state = VcpuState::Waiting(fault);
            self.emit(Effect::Wait {
                vcpu: id,
                page: fault.page,
            });
        }
    }
}
