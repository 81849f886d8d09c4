//! The guest's interrupts: "page ready" and the timer, and stretches in which both wait.
//!
//! ```text
//!   touch of a page in `irqs_off`            the last of them has its page
//!   ─────────────► interrupts off ──touch──► … ─────────────► irqs-on ─► what waits is delivered
//!                  │ a fault waits in the host, whatever the policy (`kvm_can_do_async_pf`)
//!                  │ "ready" is said, and stays pending; no other can be, for its slot is taken
//!                  │ the timer interrupt stays pending: nobody else gets a turn
//! ```
//!
//! A stretch is ended by its task alone: `irqs-on` is the vCPU's next move once the task wants no page
//! of `irqs_off` any more. How long that takes is the driver's to say.

use surefault_core::Token;
use surefault_core::faults::{Accepted, WAKE_ALL};
use surefault_core::policy::Policy;

use super::{Happened, Listener, Machine, Output, Place, Running, TaskState, Vcpu, Why, vcpu_id};

impl<P: Policy, L: Listener> Machine<P, L> {
    /// The guest's timer interrupt: the end of an artificial halt, or of a time slice; of that not
    /// before interrupts are on.
    pub(super) fn tick(&mut self, v: Vcpu) {
        match self.threads[v].place {
            Place::Halted => {
                self.faults.handle_interrupt(vcpu_id(v));
            }
            Place::Guest if self.threads[v].irqs_off => {
                self.threads[v].tick_due |= self.guest.able(v) > 1;
            }
            Place::Guest => {
                self.want_pick(v, Why::Tick);
                self.runs.push_back(v);
            }
            Place::Host | Place::Asleep(_) => {}
        }
    }

    /// Whether a timer interrupt changes anything: a time slice ends where another task could run, an
    /// artificial halt ends anyway.
    pub(crate) fn can_tick(&self, v: Vcpu) -> bool {
        match self.threads[v].place {
            Place::Halted => true,
            Place::Guest if self.threads[v].irqs_off => {
                self.guest.able(v) > 1 && !self.threads[v].tick_due
            }
            Place::Guest => match self.guest.running(v) {
                Running::Task(_) => self.guest.able(v) > 1,
                Running::Counter => self.guest.able(v) > 0,
            },
            Place::Host | Place::Asleep(_) => false,
        }
    }

    /// The guest writes `MSR_KVM_ASYNC_PF_ACK`.
    pub(super) fn ack(&mut self, v: Vcpu) {
        self.threads[v].acks_due = self.threads[v].acks_due.saturating_sub(1);
        self.faults.handle_ack(vcpu_id(v));
    }

    /// The task that runs has its last page with interrupts off, and turns them on.
    pub(super) fn irqs_on(&mut self, v: Vcpu) {
        self.threads[v].next = None;
        self.threads[v].irqs_off = false;
        let goes_on = |task: &super::Task| task.state == TaskState::Runnable;
        if !self.guest.current(v).is_some_and(goes_on) {
            self.want_pick(v, Why::Free);
        }
        self.deliver(v);
        self.runs.push_back(v);
    }

    /// Whether nothing is left of the stretch with interrupts off but its end.
    pub(super) fn is_stretch_over(&self, v: Vcpu) -> bool {
        let wants = || self.guest.current(v).and_then(|task| task.wants());
        self.threads[v].irqs_off && !wants().is_some_and(|page| self.setup.irqs_off.contains(&page))
    }

    /// Pending interrupts come before the next instruction, unless the guest has them off.
    pub(super) fn deliver(&mut self, v: Vcpu) {
        if self.threads[v].irqs_off {
            if self.guest.cpus[v].ready.is_some() {
                self.happened(Happened::Held(v));
            }
            return;
        }
        if std::mem::take(&mut self.threads[v].tick_due) {
            self.want_pick(v, Why::Tick);
        }
        if let Some((token, error)) = self.guest.cpus[v].ready.take() {
            self.page_ready(v, token, error);
        }
    }

    /// The guest's handler of "page ready": wakes whoever waits, and acknowledges.
    fn page_ready(&mut self, v: Vcpu, token: Token, error: bool) {
        let mut moved_to = None;
        for task in self.guest.take_waiters(v, token) {
            moved_to = self.wake(v, task, error).or(moved_to);
        }
        match self.guest.running(v) {
            Running::Counter => self.want_pick(v, Why::Free),
            Running::Task(_) => self.want_pick(v, Why::Woken),
        }
        match self.setup.acks_late {
            false => drop(self.faults.handle_ack(vcpu_id(v))),
            true => {
                let due = &mut self.threads[v].acks_due;
                *due = due.saturating_add(1);
                self.say(Output::AckDue(v));
            }
        }
        if let Some(other) = moved_to {
            self.prod(other);
        }
    }

    /// The guest writes `MSR_KVM_ASYNC_PF_EN`. On its way out it wakes its waiters itself.
    pub(super) fn change_apf(&mut self, v: Vcpu, on: bool) {
        let settings = self.setup.settings(on);
        if self.faults.handle_guest_apf(vcpu_id(v), settings) == Accepted::Taken && !on {
            self.guest.cpus[v].ready = None;
            for task in self.guest.take_waiters(v, WAKE_ALL) {
                self.guest.set_state(task, TaskState::Runnable);
            }
            self.prod(v);
        }
    }

    /// An interrupt tells an idle vCPU that it has a task to run.
    pub(super) fn prod(&mut self, v: Vcpu) {
        let idle = self.guest.running(v) == Running::Counter;
        if idle && self.threads[v].place == Place::Guest {
            self.want_pick(v, Why::Free);
            self.runs.push_back(v);
        }
    }
}
