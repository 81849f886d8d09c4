//! The machine of vCPUs, driven: threads that enter, fault, sleep, are halted and kicked.

use surefault_core::faults::{Fault, LinuxApf, Moment, Root, Seen};
use surefault_core::policy::Policy;
use surefault_core::residency::PageState;
use surefault_core::run::ApfMode;
use surefault_core::{Gfn, Gva, PageId, PageIndex, VcpuId};

use super::{
    Ended, Happened, Listener, Machine, Move, Running, Vcpu, Why, address_of, page_id, vcpu_id,
};

/// Where a vCPU's thread is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Place {
    /// In the host, on the way to the guest.
    Host,
    /// In the guest.
    Guest,
    /// Asleep until the page settles.
    Asleep(PageId),
    /// Halted artificially.
    Halted,
}

/// A vCPU's thread.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Thread {
    pub(crate) place: Place,
    /// The move that it makes next.
    pub(crate) next: Option<Move>,
    /// A kick has come that no entry has answered yet.
    pub(crate) kicked: bool,
    /// A SIGBUS from the prefault is pending (Linux takes the faults, the page is poisoned).
    pub(crate) early_sigbus: Option<PageId>,
    /// KVM's own conditions let the current fault go the asynchronous way.
    pub(crate) may_go_async: bool,
    /// What its task wanted when it was halted artificially.
    pub(crate) halted_for: Option<PageIndex>,
    /// The work for that page has ended since.
    pub(crate) halt_answered: bool,
    /// The guest has interrupts off: what is pending waits.
    pub(crate) irqs_off: bool,
    /// The timer interrupt waits for that.
    pub(crate) tick_due: bool,
    /// Acks of the guest that are still to come.
    pub(crate) acks_due: u8,
    /// Stopped with a report of this page, until it is repaired.
    pub(crate) stopped_for: Option<PageIndex>,
}

impl Thread {
    pub(super) fn new() -> Thread {
        Thread {
            place: Place::Host,
            next: None,
            kicked: false,
            early_sigbus: None,
            may_go_async: false,
            halted_for: None,
            halt_answered: false,
            irqs_off: false,
            tick_due: false,
            acks_due: 0,
            stopped_for: None,
        }
    }
}
impl<P: Policy, L: Listener> Machine<P, L> {
    /// The thread stands before the guest.
    pub(super) fn entry(&mut self, v: Vcpu) {
        self.threads[v].next = None;
        self.threads[v].kicked = false;
        self.faults.handle_entry(vcpu_id(v), self.guest.root(v));
    }

    /// The guest runs on: its current task touches its next page.
    pub(super) fn touch(&mut self, v: Vcpu) {
        self.threads[v].next = None;
        let root = self.guest.root(v);
        let Some(page) = self.guest.current(v).and_then(|task| task.wants()) else {
            return;
        };
        self.threads[v].irqs_off |= self.setup.irqs_off.contains(&page);
        if !self.mapped.contains(root, page) {
            return self.fault(v, page_id(page), root);
        }
        self.access_ended(v, page);
        if self.setup.evicts {
            self.evict(page);
        }
        if !self.guest.advance(v) && !self.threads[v].irqs_off {
            self.want_pick(v, Why::Free);
        }
        self.runs.push_back(v);
    }

    fn fault(&mut self, v: Vcpu, page: PageId, root: Root) {
        let state = self.state_now(page);
        let failed = matches!(state, PageState::Failed(_));
        if let Some(task) = self.guest.current_mut(v) {
            task.retries += u64::from(failed && task.tried);
            task.again = task.again.saturating_add(u8::from(failed && task.tried));
            task.met_failure |= failed;
            task.tried = true;
            task.asked_again += u64::from(std::mem::take(&mut task.said_ready));
            let faulted = Happened::Faulted {
                vcpu: v,
                task: task.id,
                page: page.index(),
                failed,
                retries: task.retries,
                again: task.again,
                asked_again: task.asked_again,
            };
            self.happened(faulted);
        }
        let fault = self.fault_of(v, page);
        self.threads[v].place = Place::Host;
        if self.setup.is_watched() && failed {
            // The no-wait attempt already meets the poison.
            let (seen, apf) = (Seen::Sigbus, LinuxApf::On);
            self.faults
                .handle_observed(vcpu_id(v), fault, seen, apf, state);
            return;
        }
        if state == PageState::Present {
            self.mapped.insert(root, page.index());
        }
        let state = match failed && !self.setup.keeps_record {
            true => {
                self.forget_failure(page);
                self.state(page)
            }
            false => state,
        };
        let gva = address_of(page.index());
        let moment = Moment {
            kernel_mode: self.setup.is_kernel(page.index()),
            interrupts_allowed: !self.threads[v].irqs_off,
            ..Moment::user(gva, root)
        };
        let cap = usize::from(self.faults.config().queue_cap);
        self.threads[v].may_go_async = moment.interrupts_allowed
            && self.faults.queued(vcpu_id(v)) < cap
            && self.setup.apf != ApfMode::Off;
        self.faults.handle_fault(vcpu_id(v), fault, &moment, state);
    }

    pub(super) fn fault_of(&self, v: Vcpu, page: PageId) -> Fault {
        let gfn = self.setup.first_gfn.get() + u64::from(page.index().get());
        Fault {
            page,
            memslot: self.setup.memslot,
            gfn: Gfn::new(gfn),
            rip: self.guest.current(v).map_or(Gva::new(0), |task| task.rip()),
        }
    }

    /// The vCPU enters the guest.
    pub(super) fn enter(&mut self, v: Vcpu) {
        // Nobody tells a halted guest "ready": it just runs on, for the page again. It counts as told
        // only when the halt is over because its page has an answer, and not by a timer interrupt or for
        // another page.
        let answered = std::mem::take(&mut self.threads[v].halt_answered);
        if answered && let Some(task) = self.guest.current_mut(v) {
            task.said_ready = true;
        }
        self.threads[v].place = Place::Guest;
        if let Some(page) = self.threads[v].early_sigbus.take() {
            // KVM_RUN returns with the signal instead, wherever the guest stands.
            self.threads[v].place = Place::Host;
            let fault = self.fault_of(v, page);
            let state = self.state(page);
            let (seen, apf) = (Seen::Sigbus, LinuxApf::On);
            self.faults
                .handle_observed(vcpu_id(v), fault, seen, apf, state);
            return;
        }
        self.deliver(v);
        if self.guest.running(v) == Running::Counter {
            // Somebody may have been woken while the vCPU was outside.
            self.want_pick(v, Why::Free);
        }
        self.runs.push_back(v);
    }

    /// The guest's next move, unless it only counts.
    pub(super) fn run_guest(&mut self, v: Vcpu) {
        if self.threads[v].kicked {
            return self.go(v, Move::Enter);
        }
        match self.guest.running(v) {
            Running::Task(_) if self.is_stretch_over(v) => self.go(v, Move::IrqsOn),
            Running::Task(_) => self.go(v, Move::Touch),
            Running::Counter => {}
        }
    }

    /// The current task's access has its page.
    fn access_ended(&mut self, v: Vcpu, page: PageIndex) {
        if let Some(task) = self.guest.current(v) {
            let ended = Happened::Ended {
                task: task.id,
                page,
                how: Ended::Mapped,
                retries: task.retries,
                met_failure: task.met_failure,
            };
            self.happened(ended);
        }
    }
}

pub(super) fn index(vcpu: VcpuId) -> usize {
    vcpu.get() as usize
}
