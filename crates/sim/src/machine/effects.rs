//! What the machine of vCPUs asks for, carried out.

use surefault_core::faults::{Announced, Effect, Fault, Listening, Prefaulted};
use surefault_core::policy::Policy;
use surefault_core::residency::{PageOutcome, PageState};
use surefault_core::{CauseKind, Failure, PageId, VcpuId};

use super::threads::index;
use super::{Ended, Happened, Listener, Machine, Move, Place, Vcpu, Why};
use crate::spec::{Host, OnReport};

impl<P: Policy, L: Listener> Machine<P, L> {
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
                    kernel_mode: self.setup.is_kernel(fault.page.index()),
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
        // Stopped in the host, also where it was on its way past an entry: no interrupt moves it.
        self.threads[v].place = Place::Host;
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
