//! What happens around faults: settings, resets, repairs, removals, timers.

use crate::policy::Policy;
use crate::{Gfn, PageCount, PageId, VcpuId};

use super::item::{Answer, ItemState};
use super::vcpu::Completion;
use super::{Accepted, Defect, Effect, Faults, GuestApf, Timer, VcpuState};

impl<P: Policy> Faults<P> {
    /// The guest wrote `MSR_KVM_ASYNC_PF_EN` on this vCPU (`kvm_pv_enable_async_pf`).
    ///
    /// On: everybody who may still wait from an earlier life is woken by the broadcast token,
    /// unless completions are there anyway. Off: queued items are cancelled, nothing is delivered
    /// any more, and the work of the cancelled ends unheard.
    pub fn handle_guest_apf(&mut self, id: VcpuId, settings: GuestApf) -> Accepted {
        let Some(vcpu) = self.vcpu_mut(id) else {
            return Accepted::Stale;
        };
        match vcpu.state {
            // The guest wrote it, so its vCPU is not in the middle of a fault.
            VcpuState::Guest | VcpuState::Entering => {}
            VcpuState::Announcing(_)
            | VcpuState::Waiting(_)
            | VcpuState::Halted
            | VcpuState::Servicing(..)
            | VcpuState::Telling(..)
            | VcpuState::Stopped(..) => return Accepted::Stale,
        }
        vcpu.settings = settings;
        vcpu.ready = None;
        match settings {
            GuestApf::Off => self.cancel_items(id),
            GuestApf::On { .. } if vcpu.done.is_empty() => self.complete(id, Completion::WakeAll),
            GuestApf::On { .. } => self.kick_if_servable(id),
        }
        self.taken()
    }

    /// The guest turned its local APIC on or off. Completions wait while it is off.
    pub fn handle_lapic(&mut self, id: VcpuId, enabled: bool) -> Accepted {
        let Some(vcpu) = self.vcpu_mut(id) else {
            return Accepted::Stale;
        };
        vcpu.lapic_enabled = enabled;
        self.kick_if_servable(id);
        self.taken()
    }

    /// The vCPU was reset (`kvm_vcpu_reset`): whatever it was doing is cancelled. Ends with
    /// `Resume`.
    pub fn handle_reset(&mut self, id: VcpuId) -> Accepted {
        let Some(vcpu) = self.vcpu_mut(id) else {
            return Accepted::Stale;
        };
        vcpu.settings = GuestApf::Off;
        vcpu.lapic_enabled = true;
        vcpu.ready = None;
        vcpu.noted = None;
        vcpu.told = Default::default();
        self.cancel_items(id);
        self.observed.forget_vcpu(id);
        self.policy.vcpu_reset(id);
        self.resume(id);
        self.taken()
    }

    /// The whole VM was reset: every vCPU, and nobody comes back for any error.
    pub fn handle_vm_reset(&mut self) -> Accepted {
        for id in 0..u32::from(self.config.vcpus) {
            self.handle_reset(VcpuId::new(id));
        }
        self.forget_pages(|_| true);
        self.taken()
    }

    /// A failed page is not failed any more: healed, resumed, or its failure has expired.
    pub fn handle_healed(&mut self, page: PageId) -> Accepted {
        self.forget_pages(|other| other == page);
        self.taken()
    }

    /// `count` pages from `first` on were removed; they read as zeros from now on.
    pub fn handle_removed(&mut self, first: PageId, count: PageCount) -> Accepted {
        self.forget_pages(|page| {
            page.region() == first.region()
                && page.index() >= first.index()
                && u64::from(page.index().get() - first.index().get()) < count.get()
        });
        self.taken()
    }

    /// The gfns `first` to `last` belong to no memory slot any more.
    pub fn handle_slot_removed(&mut self, first: Gfn, last: Gfn) -> Accepted {
        self.policy.slot_removed(first, last);
        self.taken()
    }

    /// A timer has fired; one that is not wanted any more does nothing.
    pub fn handle_timer(&mut self, timer: Timer) -> Accepted {
        match timer {
            Timer::Unclaimed => {
                self.owed.armed = false;
                while let Some((page, failure)) = self.owed.take_old() {
                    self.unclaimed(page, failure);
                }
                self.owed.age();
            }
            Timer::Policy(timer) => self.policy.timer_fired(timer),
        }
        self.taken()
    }

    /// `kvm_clear_async_pf_completion_queue` and `kvm_async_pf_hash_reset`, without the wait.
    fn cancel_items(&mut self, id: VcpuId) {
        let reuse_at_once = self.has(Defect::OldGeneration);
        let keep_done = self.has(Defect::StaleTokenAfterDisable);
        let Some(vcpu) = self.vcpu_mut(id) else {
            return;
        };
        let serving = match vcpu.state {
            VcpuState::Servicing(item, _) => Some(item),
            VcpuState::Guest
            | VcpuState::Entering
            | VcpuState::Announcing(_)
            | VcpuState::Waiting(_)
            | VcpuState::Halted
            | VcpuState::Telling(..)
            | VcpuState::Stopped(..) => None,
        };
        vcpu.gfns.clear();
        if !keep_done {
            vcpu.done.clear();
        }
        while let Some(item) = self.vcpu_mut(id).and_then(|vcpu| vcpu.queue.pop()) {
            let Some(vcpu) = self.vcpu_mut(id) else {
                return;
            };
            let Some(entry) = vcpu.items.get(item) else {
                continue;
            };
            let awaited = match entry.state {
                ItemState::Announcing => Some(Answer::Announced),
                ItemState::Working => Some(Answer::Work),
                ItemState::Done => (serving == Some(item)).then_some(Answer::Prefaulted),
                ItemState::Cancelled(answer) => Some(answer),
            };
            match awaited {
                Some(answer) if !reuse_at_once => vcpu.items.cancel(item, answer),
                Some(_) => drop(vcpu.items.remove(item)),
                None if keep_done => {}
                None => drop(vcpu.items.remove(item)),
            }
            if awaited == Some(Answer::Work) {
                self.emit(Effect::CancelWork { vcpu: id, item });
            }
        }
    }
}
