//! The machine of vCPUs, driven: threads that enter, fault, sleep, are halted and kicked.

use surefault_core::faults::{
    Accepted, Announced, Effect, Fault, LinuxApf, Listening, Moment, Prefaulted, Root, Seen,
    WAKE_ALL,
};
use surefault_core::policy::Policy;
use surefault_core::residency::{PageOutcome, PageState};
use surefault_core::run::{ApfMode, TaskId};
use surefault_core::{CauseKind, Failure, Gfn, Gva, PageId, PageIndex, VcpuId};

use super::{
    Ended, Happened, Machine, Move, Output, Running, TaskState, Vcpu, Why, address_of, page_id,
    vcpu_id,
};
use crate::spec::{Host, OnReport};

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
            acks_due: 0,
            stopped_for: None,
        }
    }
}

impl<P: Policy> Machine<P> {
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
        if !self.mapped.contains(root, page) {
            return self.fault(v, page_id(page), root);
        }
        self.access_ended(v, page);
        if self.setup.evicts {
            self.evict(page);
        }
        if !self.guest.advance(v) {
            self.want_pick(v, Why::Free);
        }
        self.runs.push_back(v);
    }

    /// The guest's timer interrupt: the end of an artificial halt, or of a time slice.
    pub(super) fn tick(&mut self, v: Vcpu) {
        match self.threads[v].place {
            Place::Halted => {
                self.faults.handle_interrupt(vcpu_id(v));
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

    fn fault(&mut self, v: Vcpu, page: PageId, root: Root) {
        let state = self.state(page);
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
            kernel_mode: self.setup.kernel.contains(&page.index()),
            interrupts_allowed: !self.setup.irqs_off.contains(&page.index()),
            ..Moment::user(gva, root)
        };
        let cap = usize::from(self.faults.config().queue_cap);
        self.threads[v].may_go_async = moment.interrupts_allowed
            && self.faults.queued(vcpu_id(v)) < cap
            && self.setup.apf != ApfMode::Off;
        self.faults.handle_fault(vcpu_id(v), fault, &moment, state);
    }

    fn fault_of(&self, v: Vcpu, page: PageId) -> Fault {
        let gfn = self.setup.first_gfn.get() + u64::from(page.index().get());
        Fault {
            page,
            memslot: self.setup.memslot,
            gfn: Gfn::new(gfn),
            rip: self.guest.current(v).map_or(Gva::new(0), |task| task.rip()),
        }
    }

    pub(super) fn faults_effect(&mut self, effect: Effect) {
        match effect {
            Effect::NotPresent { vcpu, item, token } => {
                self.guest.sleep(index(vcpu), token);
                self.want_pick(index(vcpu), Why::Free);
                self.faults
                    .handle_announced(vcpu, item, Announced::Injected);
            }
            Effect::Work { vcpu, item, page } => {
                self.happened(Happened::Queued {
                    vcpu: index(vcpu),
                    page: page.index(),
                });
                let at = self.workers.partition_point(|&(of, _, _)| of <= page);
                self.workers.insert(at, (page, vcpu, item));
                self.demand(page);
            }
            Effect::CancelWork { vcpu, item } => {
                self.workers
                    .retain(|&(_, of, worker)| (of, worker) != (vcpu, item));
                self.faults
                    .handle_work_done(vcpu, item, PageOutcome::Cancelled);
            }
            Effect::Wait { vcpu, page } => {
                let thread = &mut self.threads[index(vcpu)];
                thread.place = Place::Asleep(page);
                let waits = Happened::Waits {
                    vcpu: index(vcpu),
                    page: page.index(),
                    refused: thread.may_go_async,
                };
                self.happened(waits);
                self.demand(page);
            }
            Effect::Halt { vcpu } => {
                let wants = self
                    .guest
                    .current(index(vcpu))
                    .and_then(|task| task.wants());
                let thread = &mut self.threads[index(vcpu)];
                thread.place = Place::Halted;
                thread.halted_for = wants;
                // It may have ended already, before the halt began.
                let works = |&(page, of, _): &(PageId, VcpuId, _)| {
                    of == vcpu && Some(page.index()) == wants
                };
                thread.halt_answered = !self.workers.iter().any(works);
                self.happened(Happened::Halted(index(vcpu)));
            }
            Effect::Kick { vcpu } => {
                let thread = &mut self.threads[index(vcpu)];
                thread.kicked = true;
                match thread.place {
                    Place::Guest | Place::Halted => self.go(index(vcpu), Move::Enter),
                    // It comes past the entry anyway.
                    Place::Host | Place::Asleep(_) => {}
                }
            }
            Effect::Prefault {
                vcpu, item, page, ..
            } => {
                let how = self.prefault(index(vcpu), page);
                self.faults.handle_prefaulted(vcpu, item, how);
            }
            Effect::Ready { vcpu, token, error } => {
                self.guest.cpus[index(vcpu)].ready = Some((token, error));
                self.happened(Happened::Ready {
                    vcpu: index(vcpu),
                    token,
                    error,
                });
            }
            Effect::Resume { vcpu } | Effect::Confirm { vcpu } | Effect::Retry { vcpu } => {
                self.threads[index(vcpu)].place = Place::Host;
                self.go(index(vcpu), Move::Enter);
            }
            Effect::Enter { vcpu } => self.enter(index(vcpu)),
            Effect::Tell { vcpu, fault, .. } => {
                let listening = Listening {
                    kernel_mode: self.setup.kernel.contains(&fault.page.index()),
                    event_pending: false,
                    machine_checks: true,
                };
                self.faults.handle_listening(vcpu, listening);
            }
            Effect::MachineCheck { vcpu, .. } => {
                let v = index(vcpu);
                if let Some(task) = self.guest.current(v) {
                    self.die(usize::from(task.id.get()), Ended::Told);
                }
                self.want_pick(v, Why::Free);
                self.threads[v].place = Place::Host;
                self.go(v, Move::Enter);
            }
            Effect::Report {
                vcpu,
                fault,
                failure,
            } => self.reported(vcpu, fault, failure),
            Effect::Interrupt { .. } => debug_assert!(false, "nothing is noted here"),
            Effect::Unclaimed { page, .. } => self.happened(Happened::Unclaimed(page.index())),
        }
    }

    /// The vCPU enters the guest. Pending interrupts come before the next instruction.
    fn enter(&mut self, v: Vcpu) {
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
        if let Some((token, error)) = self.guest.cpus[v].ready.take() {
            self.page_ready(v, token, error);
        }
        if self.guest.running(v) == Running::Counter {
            // Somebody may have been woken while the vCPU was outside.
            self.want_pick(v, Why::Free);
        }
        self.runs.push_back(v);
    }

    /// The guest's handler of "page ready": wakes whoever waits, and acknowledges.
    fn page_ready(&mut self, v: Vcpu, token: surefault_core::Token, error: bool) {
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
                self.out.push(Output::AckDue(v));
            }
        }
        if let Some(other) = moved_to {
            self.prod(other);
        }
    }

    /// Wakes a task. Says where it went, if it went elsewhere.
    fn wake(&mut self, v: Vcpu, woken: usize, error: bool) -> Option<Vcpu> {
        let task = &mut self.guest.tasks[woken];
        task.said_ready = true;
        let killed = task.doomed || task.met_failure && self.setup.killed.contains(&task.id);
        if killed || error {
            let how = if killed { Ended::Killed } else { Ended::Told };
            self.die(woken, how);
            return None;
        }
        let id = task.id;
        self.guest.set_state(woken, TaskState::Runnable);
        let next = (v + 1) % self.threads.len();
        let moved = self.setup.migrate && next != v;
        if moved {
            self.guest.move_to(woken, next);
        }
        let vcpu = if moved { next } else { v };
        self.happened(Happened::Woken { task: id, vcpu });
        moved.then_some(next)
    }

    fn die(&mut self, task: usize, how: Ended) {
        self.guest.set_state(task, TaskState::Killed);
        let task = &mut self.guest.tasks[task];
        let (met_failure, retries) = (std::mem::take(&mut task.met_failure), task.retries);
        if let (task, Some(page)) = (task.id, task.wants()) {
            self.happened(Happened::Ended {
                task,
                page,
                how,
                retries,
                met_failure,
            });
        }
    }

    /// Somebody kills a task that does not run: at once, or as soon as it is woken.
    pub(super) fn kill(&mut self, task: TaskId) {
        let task = usize::from(task.get());
        match self.guest.tasks[task].state {
            TaskState::Waiting(_) => self.guest.tasks[task].doomed = true,
            TaskState::Runnable => self.die(task, Ended::Killed),
            TaskState::Finished | TaskState::Killed => {}
        }
    }

    /// A task that waits for its turn goes on elsewhere.
    pub(super) fn migrate(&mut self, task: TaskId, to: Vcpu) {
        self.guest.move_to(usize::from(task.get()), to);
        self.prod(to);
    }

    /// An interrupt tells an idle vCPU that it has a task to run.
    fn prod(&mut self, v: Vcpu) {
        let idle = self.guest.running(v) == Running::Counter;
        if idle && self.threads[v].place == Place::Guest {
            self.want_pick(v, Why::Free);
            self.runs.push_back(v);
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

    /// The guest's next move, unless it only counts.
    pub(super) fn run_guest(&mut self, v: Vcpu) {
        if self.threads[v].kicked {
            return self.go(v, Move::Enter);
        }
        match self.guest.running(v) {
            Running::Task(_) => self.go(v, Move::Touch),
            Running::Counter => {}
        }
    }

    fn prefault(&mut self, v: Vcpu, page: PageId) -> Prefaulted {
        match self.state(page) {
            PageState::Present => {
                self.mapped.insert(self.guest.root(v), page.index());
                Prefaulted::Fixed
            }
            PageState::Failed(_) if self.setup.is_watched() => {
                self.threads[v].early_sigbus = Some(page);
                Prefaulted::Retry
            }
            PageState::Failed(failure) => Prefaulted::Error(failure),
            // It went away again: the access will tell.
            PageState::Absent | PageState::Pending | PageState::Removed => Prefaulted::Retry,
        }
    }

    fn reported(&mut self, vcpu: VcpuId, fault: Fault, failure: Failure) {
        let v = index(vcpu);
        let page = fault.page.index();
        let task = self.guest.current(v);
        let touched = task.is_some_and(|task| task.wants() == Some(page));
        let reported = Happened::Reported {
            vcpu: v,
            fault,
            failure,
            task: task.map(|task| task.id),
            access: task.map_or(surefault_core::Access::Unknown, |task| task.access()),
            right: touched && self.setup.is_failing(page),
        };
        self.happened(reported);
        match self.setup.on_report {
            OnReport::Stop => self.stopped = true,
            OnReport::Heal => {
                self.repair(page);
                self.faults.handle_resume(vcpu);
            }
            OnReport::Wait if self.repaired.contains(page.get() as usize) => {
                // A fetch that began before the repair has failed after it.
                self.repair(page);
                self.faults.handle_resume(vcpu);
            }
            OnReport::Wait => self.threads[v].stopped_for = Some(page),
        }
    }

    /// How a sleeping vCPU learns of a failure. Linux alone drops the cause and says "Bad address";
    /// where it meets poison it sends a signal and tries again.
    pub(super) fn as_linux_says(&self, outcome: PageOutcome) -> PageOutcome {
        match (self.setup.host, outcome) {
            (Host::LinuxAlone, PageOutcome::Failed(mut failure)) => {
                failure.cause.kind = CauseKind::BadAddress;
                PageOutcome::Failed(failure)
            }
            (Host::Surefault, PageOutcome::Failed(_)) if self.setup.is_watched() => {
                PageOutcome::Cancelled
            }
            (Host::LinuxAlone | Host::Surefault, outcome) => outcome,
        }
    }
}

pub(super) fn index(vcpu: VcpuId) -> usize {
    vcpu.get() as usize
}
