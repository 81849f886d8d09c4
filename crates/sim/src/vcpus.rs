//! The machine of vCPUs, driven: threads that enter, fault, sleep, are halted and kicked.

use std::time::Duration;

use surefault_core::faults::{
    Accepted, Announced, Effect, Fault, LinuxApf, Moment, Paging, Prefaulted, Root, Seen,
};
use surefault_core::policy::Policy;
use surefault_core::residency::{PageOutcome, PageState};
use surefault_core::run::{ApfMode, Reported};
use surefault_core::{CauseKind, Failure, Gfn, Gva, PageId, PageSize, VcpuId};

use crate::guest::Running;
use crate::sim::{Event, Place, Sim, page_id, vcpu_id};
use crate::source;
use crate::spec::{Host, OnReport};

/// From an exit to the next entry.
const EXIT: Duration = Duration::from_micros(5);
/// One touch of a page, and all that a task does between two.
const TOUCH: Duration = Duration::from_micros(2);

impl<P: Policy> Sim<P> {
    /// The thread stands before the guest.
    pub(crate) fn entry(&mut self, v: usize) {
        self.threads[v].kicked = false;
        self.faults.handle_entry(vcpu_id(v), self.guest.root(v));
    }

    /// The guest runs on: its current task touches its next page.
    pub(crate) fn instruction(&mut self, v: usize) {
        let root = self.guest.root(v);
        let Some(task) = self.guest.current(v) else {
            return;
        };
        let Some(page) = task.wants().map(page_id) else {
            return;
        };
        let space = self.space(root);
        if self.mapped.contains(&(space, page.index())) {
            self.done += 1;
            self.access_ended(v);
            if !self.guest.advance(v) {
                self.guest.reschedule(v, self.agenda.now());
            }
            self.run_guest(v);
        } else {
            self.fault(v, page, root);
        }
    }

    /// The guest's timer interrupt: the end of an artificial halt, or of a time slice.
    pub(crate) fn tick(&mut self, v: usize) {
        self.agenda.after(self.spec.tick, Event::Tick(v));
        match self.threads[v].place {
            Place::Halted => {
                self.faults.handle_interrupt(vcpu_id(v));
            }
            Place::Guest => {
                self.guest.reschedule(v, self.agenda.now());
                self.run_guest(v);
            }
            Place::Host | Place::Asleep(_) => {}
        }
    }

    fn fault(&mut self, v: usize, page: PageId, root: Root) {
        let state = self.state(page);
        let (mut retries, mut asked_again) = (0, 0);
        let failed = matches!(state, PageState::Failed(_));
        if let Some(task) = self.guest.current(v) {
            task.retries += u64::from(failed && task.tried);
            task.met_failure |= failed;
            task.tried = true;
            task.asked_again += u64::from(std::mem::take(&mut task.said_ready));
            (retries, asked_again) = (task.retries, task.asked_again);
        }
        self.counts.faults += 1;
        self.counts.max_retries = self.counts.max_retries.max(retries);
        self.counts.max_asked_again = self.counts.max_asked_again.max(asked_again);
        let fault = self.fault_of(v, page);
        self.threads[v].place = Place::Host;
        if self.spec.is_watched() && matches!(state, PageState::Failed(_)) {
            // The no-wait attempt already meets the poison.
            let (seen, apf) = (Seen::Sigbus, LinuxApf::On);
            self.faults
                .handle_observed(vcpu_id(v), fault, seen, apf, state);
            return;
        }
        if state == PageState::Present {
            self.map(root, page);
        }
        let state = match failed && !self.spec.keeps_record {
            true => {
                self.forget_failure(page);
                self.state(page)
            }
            false => state,
        };
        // One page of address space for each page of the region.
        let gva = Gva::new((0x10_0000 + u64::from(page.index().get())) << 12);
        let moment = Moment {
            kernel_mode: self.spec.kernel.contains(&page.index()),
            interrupts_allowed: !self.spec.irqs_off.contains(&page.index()),
            ..Moment::user(gva, root)
        };
        let cap = usize::from(self.faults.config().queue_cap);
        self.threads[v].may_go_async = moment.interrupts_allowed
            && self.faults.queued(vcpu_id(v)) < cap
            && self.spec.run.apf != ApfMode::Off;
        self.faults.handle_fault(vcpu_id(v), fault, &moment, state);
    }

    fn fault_of(&mut self, v: usize, page: PageId) -> Fault {
        let gfn = self.spec.first_gfn.get() + u64::from(page.index().get());
        Fault {
            page,
            memslot: self.spec.memslot,
            gfn: Gfn::new(gfn),
            rip: self.guest.current(v).map_or(Gva::new(0), |task| task.rip()),
        }
    }

    pub(crate) fn faults_effect(&mut self, effect: Effect) {
        match effect {
            Effect::NotPresent { vcpu, item, token } => {
                self.guest
                    .not_present(index(vcpu), token, self.agenda.now());
                self.faults
                    .handle_announced(vcpu, item, Announced::Injected);
            }
            Effect::Work { vcpu, item, page } => {
                self.counts.asynchronous += 1;
                self.workers.entry(page).or_default().push((vcpu, item));
                self.demand(page);
            }
            Effect::CancelWork { vcpu, item } => {
                for workers in self.workers.values_mut() {
                    workers.retain(|&worker| worker != (vcpu, item));
                }
                self.faults
                    .handle_work_done(vcpu, item, PageOutcome::Cancelled);
            }
            Effect::Wait { vcpu, page } => {
                self.counts.synchronous += 1;
                let healthy = !self.spec.is_failing(page.index());
                let refused = self.threads[index(vcpu)].may_go_async;
                self.counts.refused_healthy += u64::from(healthy && refused);
                self.threads[index(vcpu)].place = Place::Asleep(page);
                self.demand(page);
            }
            Effect::Halt { vcpu } => {
                self.counts.halts += 1;
                self.threads[index(vcpu)].place = Place::Halted;
            }
            Effect::Kick { vcpu } => {
                let thread = &mut self.threads[index(vcpu)];
                thread.kicked = true;
                match thread.place {
                    Place::Guest | Place::Halted => self.go(index(vcpu), EXIT, Event::Entry),
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
                self.counts.readies += 1;
                self.guest.raise_ready(index(vcpu), token, error);
            }
            Effect::Resume { vcpu } | Effect::Confirm { vcpu } | Effect::Retry { vcpu } => {
                let v = index(vcpu);
                self.threads[v].place = Place::Host;
                self.go(v, EXIT, Event::Entry);
            }
            Effect::Enter { vcpu } => self.enter(index(vcpu)),
            Effect::Report {
                vcpu,
                fault,
                failure,
            } => self.reported(vcpu, fault, failure),
            Effect::Interrupt { .. } => debug_assert!(false, "nothing is noted here"),
            Effect::Unclaimed { .. } => self.counts.unclaimed += 1,
        }
    }

    /// The vCPU enters the guest. Pending interrupts come before the next instruction.
    fn enter(&mut self, v: usize) {
        // Nobody tells a halted guest "ready": it just runs on, for the page again.
        let was_halted = self.threads[v].place == Place::Halted;
        if was_halted && let Some(task) = self.guest.current(v) {
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
        if let Some(woken) = self.guest.take_ready(v, self.agenda.now()) {
            self.counts.killed += woken.killed;
            self.measured.told += woken.told;
            if woken.killed + woken.told > 0 {
                self.dead_ended();
            }
            match self.spec.ack_delay {
                Duration::ZERO => drop(self.faults.handle_ack(vcpu_id(v))),
                delay => self.agenda.after(delay, Event::Ack(v)),
            }
            if let Some(other) = woken.moved_to {
                self.prod(other);
            }
        }
        if matches!(self.guest.running(v), Running::Counter(_)) {
            // Somebody may have been woken while the vCPU was outside.
            self.guest.reschedule(v, self.agenda.now());
        }
        self.run_guest(v);
    }

    /// An interrupt tells an idle vCPU that it has a task to run.
    fn prod(&mut self, v: usize) {
        let idle = matches!(self.guest.running(v), Running::Counter(_));
        if idle && self.threads[v].place == Place::Guest {
            self.guest.reschedule(v, self.agenda.now());
            self.run_guest(v);
        }
    }

    /// The guest writes `MSR_KVM_ASYNC_PF_EN`, once it runs.
    pub(crate) fn change_apf(&mut self, v: usize, on: bool) {
        const LATER: Duration = Duration::from_micros(10);
        if self.threads[v].place != Place::Guest {
            return self.agenda.after(LATER, Event::Apf(v, on));
        }
        let settings = self.guest_apf(on);
        if self.faults.handle_guest_apf(vcpu_id(v), settings) == Accepted::Taken && !on {
            self.guest.wake_all(v);
            self.prod(v);
        }
    }

    /// The current task's access has its page.
    fn access_ended(&mut self, v: usize) {
        let now = self.agenda.now();
        let Some(task) = self.guest.current(v) else {
            return;
        };
        let (healthy, met_failure, retries) = (task.healthy, task.met_failure, task.retries);
        if healthy {
            self.measured.healthy_done += 1;
            self.measured.healthy_last = now;
        }
        if met_failure {
            self.measured.retries.add(retries);
        }
    }

    /// Accesses of tasks that were killed have ended.
    fn dead_ended(&mut self) {
        for task in self.guest.tasks.iter_mut().filter(|task| task.is_dead()) {
            if std::mem::take(&mut task.met_failure) {
                self.measured.retries.add(task.retries);
            }
        }
    }

    /// Puts down the guest's next instruction, unless it only counts.
    fn run_guest(&mut self, v: usize) {
        if self.threads[v].kicked {
            return self.go(v, EXIT, Event::Entry);
        }
        match self.guest.running(v) {
            Running::Task(_) => self.go(v, TOUCH, Event::Instruction),
            Running::Counter(_) => {}
        }
    }

    fn prefault(&mut self, v: usize, page: PageId) -> Prefaulted {
        match self.state(page) {
            PageState::Present => {
                self.map(self.guest.root(v), page);
                Prefaulted::Fixed
            }
            PageState::Failed(_) if self.spec.is_watched() => {
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
        self.counts.reports += 1;
        self.counts.max_attempts = self.counts.max_attempts.max(failure.attempts);
        let healthy = !self.spec.is_failing(page);
        let since = self.failed.get(&page).copied();
        let took = self.agenda.now() - since.unwrap_or(self.agenda.now());
        self.measured.report_us.add(took.as_micros() as u64);
        let task = self.guest.current(v);
        let touched = task.as_ref().is_some_and(|task| task.wants() == Some(page));
        self.counts.wrong_reports += u64::from(healthy || !touched);
        let access = task.as_ref().map(|task| task.access());
        let id = task.map(|task| task.id);
        match self.spec.on_report {
            OnReport::Stop => {
                let access = access.unwrap_or(surefault_core::Access::Unknown);
                self.report = fault
                    .report(vcpu, access, failure, PageSize::KIB_4)
                    .map(|report| Reported {
                        report,
                        cause: source::text(failure.cause.kind, page),
                        task: id,
                        page,
                    });
            }
            OnReport::Heal => {
                self.repair(page);
                self.faults.handle_resume(vcpu);
            }
            OnReport::Wait if self.source.is_repaired(page) => {
                // A fetch that began before the repair has failed after it.
                self.repair(page);
                self.faults.handle_resume(vcpu);
            }
            OnReport::Wait => self.threads[v].stopped_for = Some(page),
        }
    }

    /// How a sleeping vCPU learns of a failure. Linux alone drops the cause and says "Bad address";
    /// where it meets poison it sends a signal and tries again.
    pub(crate) fn as_linux_says(&self, outcome: PageOutcome) -> PageOutcome {
        match (self.spec.host, outcome) {
            (Host::LinuxAlone, PageOutcome::Failed(mut failure)) => {
                failure.cause.kind = CauseKind::BadAddress;
                PageOutcome::Failed(failure)
            }
            (Host::Surefault, PageOutcome::Failed(_)) if self.spec.is_watched() => {
                PageOutcome::Cancelled
            }
            (Host::LinuxAlone | Host::Surefault, outcome) => outcome,
        }
    }

    pub(crate) fn map(&mut self, root: Root, page: PageId) {
        let space = self.space(root);
        self.mapped.insert((space, page.index()));
    }

    /// Under two-dimensional paging what is mapped is mapped for all.
    fn space(&self, root: Root) -> Root {
        match self.spec.paging {
            Paging::TwoDimensional => Root::default(),
            Paging::Shadow => root,
        }
    }
}

fn index(vcpu: VcpuId) -> usize {
    vcpu.get() as usize
}
