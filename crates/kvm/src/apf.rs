//! Asynchronous page faults from user space, on a kernel that knows nothing of it.
//!
//! To KVM every fault is synchronous. Either it is refused at once ([`ApfSpec::refuse_absent`]), and the
//! vCPU's thread asks for the page itself; or the thread waits in the host's page fault. Then the pager
//! sees who waits for what, and whoever is worth it is taken out of the fault by a signal. Its guest is
//! told "page not present" as KVM itself would say it, so that it runs something else.
//!
//! ```text
//!  vCPU thread                     pager's threads
//!  KVM_RUN ─► refused ─ SIGBUS ─┬─► asked for ── fetch ──► ...
//!     │  or                     │
//!     ├─────► blocked ──────────┼─► event: noted ── fetch ──► ...
//!     ▲          │ EINTR ◄──────┼──── kick, if it is worth one (patience)
//!     │          ▼              ▼
//!     │    Faults::handle_fault(moment) ─┬─ NotPresent: flags, #PF with the token
//!     │          │                       └─ Wait: back into the fault
//!     └──────────┘                       ... page installed, or failed: settled
//!  guest runs on ◄── token, interrupt ────── Faults::handle_service
//!  wrmsr ACK ──────► Faults::handle_ack
//! ```
//!
//! | file | what is in it |
//! |---|---|
//! | `state` | what a VM's threads share, and the carrying out of effects |
//! | `observer` | what the pager's threads say: blocked, settled; and the kicks |
//! | `refused` | pages that are refused until they have been asked for, so that nobody need be kicked |
//! | `patience` | when a blocked thread is worth a kick |
//! | `area` | the memory that the guest shares with the host |
//! | `moment` | from a vCPU's registers to what decides about its fault, and the injection |
//! | `msr` | the guest's MSRs, kept from KVM; what a VM needs for all this |
//!
//! What is done about a fault is decided by [`surefault_core::faults`] alone, under any of its
//! policies. One lock covers the machine and what is known of the threads; nothing is waited for
//! with it held, and the pager's own locks are taken inside it, never outside.

mod area;
mod moment;
mod msr;
mod observer;
mod patience;
mod refused;
mod state;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use kvm_bindings::kvm_vcpu_events;
use kvm_ioctls::VmFd;
use surefault_core::faults::{
    ConfigError, DoubleFault, Fault, Faults, FaultsConfig, Listening, Moment, Root, VcpuState,
    Violation,
};
use surefault_core::policy::PolicyKind;
use surefault_core::residency::{PageOutcome, PageState};
use surefault_core::run::Counters;
use surefault_core::{Failure, Gfn, Hva, PageId, VcpuId};

use crate::interrupts::Interrupts;
use crate::pages::PageSource;
use crate::signals::Kicker;
use crate::vm::{Slot, Vm};

pub use patience::Patience;

pub(crate) use moment::moment;
pub(crate) use msr::{Lack, enable, is_ours};

use state::{Counted, State};

/// What is asked of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ApfSpec {
    /// vCPUs.
    pub vcpus: u16,
    /// What is done about the error of an asynchronous fault.
    pub policy: PolicyKind,
    /// Residency's record of failed pages holds. Without, as in a kernel, a fault on a page that has
    /// failed asks the source anew, and only the policy remembers.
    pub keeps_record: bool,
    /// The guest is offered an error word in "ready" (our own CPUID leaf says so).
    pub error_word: bool,
    /// A failed access goes to the guest where it can be told.
    pub errors_to_guest: bool,
    /// The guest kills a task whose page has failed, whatever the policy says, as if it had been
    /// killed while it waited: for the laboratory, and only with a guest that reads the error word.
    pub guest_kills: bool,
    /// When a blocked thread is worth a kick.
    pub patience: Patience,
    /// Where the pager is made for it: first accesses are refused instead of waiting
    /// ([`PagerConfig::refuse_absent`](surefault_pager::PagerConfig::refuse_absent)). For guests whose
    /// tables, and the area that they share with the host, are not in the memory that is served.
    pub refuse_absent: bool,
}

impl ApfSpec {
    /// What a run under `policy` has.
    pub fn new(vcpus: u16, policy: PolicyKind) -> ApfSpec {
        ApfSpec {
            vcpus,
            policy,
            keeps_record: true,
            // The guest that this policy was proposed with reads it.
            error_word: policy == PolicyKind::GuestError,
            errors_to_guest: false,
            guest_kills: false,
            patience: Patience::default(),
            refuse_absent: true,
        }
    }
}

/// What became of a page that failed at least once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageFate {
    /// When it first failed.
    pub failed: Instant,
    /// How often it was asked for again after it had been said ready, in vain.
    pub asked_again: u64,
    /// From the first failure to the first report.
    pub reported_after: Option<Duration>,
}

/// The asynchronous faults of a VM: shared by its vCPUs' threads and by its pager's.
pub struct Apf {
    spec: ApfSpec,
    state: Mutex<State>,
    outside: OnceLock<Outside>,
}

/// What it works on. The pager holds on to this, so not this to the pager.
pub(crate) struct Outside {
    vm: Arc<VmFd>,
    slots: Vec<Slot>,
    pages: Weak<dyn PageSource>,
}

/// What is counted: the names in [`Apf::counters`].
pub fn counter_names() -> impl Iterator<Item = &'static str> {
    let counted = Counted::NAMES.iter().copied();
    counted.chain([MOST_ASKED_AGAIN])
}

const MOST_ASKED_AGAIN: &str = "most_asked_again";

/// What a vCPU is to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// Enter the guest.
    Enter,
    /// Stop, with a report of this.
    Report(Fault, Failure),
}

/// What came of a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Taken {
    /// The guest is told at the next entry: the exception is in the events.
    Announced,
    /// It stops with a report.
    Stopped,
    /// It stands at a failed access of which the guest is to be told, if it can be.
    Ask,
    /// It waits, or there is nothing to wait for.
    Waits,
}

impl Apf {
    /// For a VM to be.
    ///
    /// # Errors
    /// When there are no vCPUs, or more than 4096.
    pub fn new(spec: ApfSpec) -> Result<Apf, ConfigError> {
        let config = FaultsConfig {
            // What KVM would halt a vCPU for waits in the host.
            hlt_in_guest: true,
            double_fault: DoubleFault::Queue,
            error_word: spec.error_word,
            errors_to_guest: spec.errors_to_guest,
            ..FaultsConfig::new(spec.vcpus)
        };
        let machine = Faults::with(config, spec.policy.build(&config))?;
        Ok(Apf {
            spec,
            state: Mutex::new(State::new(machine, &spec)),
            outside: OnceLock::new(),
        })
    }

    /// What was asked of it.
    pub fn spec(&self) -> &ApfSpec {
        &self.spec
    }

    /// Tells it of its VM, with the memory slots that there are now: once, before a vCPU runs.
    pub fn attach(&self, vm: &Vm, pages: &Arc<dyn PageSource>) {
        let first = self.outside.set(Outside {
            vm: vm.shared_fd(),
            slots: vm.slots().to_vec(),
            pages: Arc::downgrade(pages),
        });
        debug_assert!(first.is_ok(), "attached twice");
    }

    /// This thread is going to run the vCPU, possibly after a report. `interrupts` are its own where
    /// KVM has no interrupt controllers.
    pub(crate) fn running(
        &self,
        id: VcpuId,
        kicker: &Arc<Kicker>,
        interrupts: Option<&Arc<Interrupts>>,
        thread: u32,
    ) {
        let mut state = self.state();
        let vcpu = state.vcpu(id);
        vcpu.kicker = Some(Arc::clone(kicker));
        vcpu.interrupts = interrupts.cloned();
        vcpu.thread = thread;
        state.machine.handle_resume(id);
        self.drain(&mut state, None);
    }

    /// The vCPU's thread stands before the guest, or sleeps where that has halted: completions are
    /// served. It goes in at once, or (not `at_once`) has to finish something of the guest's first.
    pub(crate) fn enter(&self, id: VcpuId, at_once: bool) -> Next {
        let mut state = self.state();
        state.fire_timers(Instant::now());
        if let Some((fault, failure)) = state.vcpu(id).report.take() {
            return Next::Report(fault, failure);
        }
        // A vCPU that waits goes back into its fault, and one whose guest is to be told is refused
        // the page there.
        if !matches!(
            state.machine.vcpu_state(id),
            Some(VcpuState::Waiting(_) | VcpuState::Telling(..))
        ) {
            state.machine.handle_entry(id, Root::default());
            self.drain(&mut state, None);
            if let Some((fault, failure)) = state.vcpu(id).report.take() {
                return Next::Report(fault, failure);
            }
        }
        state.ring_again(self.outside(), id);
        let vcpu = state.vcpu(id);
        vcpu.blocked = None;
        vcpu.in_kvm = at_once;
        Next::Enter
    }

    /// The vCPU's thread is out of the guest: by a signal that says no more, or `refused` a page, or
    /// for something of the guest's. Gives where it was blocked, if it was seen.
    pub(crate) fn exited(&self, id: VcpuId, interrupted: bool, refused: bool) -> Option<Hva> {
        if interrupted && let Some(pages) = self.pages() {
            // What was read of this thread before it came out is noted after this.
            pages.pass_events();
        }
        let mut state = self.state();
        state.vcpu(id).in_kvm = false;
        if !refused && matches!(state.machine.vcpu_state(id), Some(VcpuState::Telling(..))) {
            // An interrupt has taken it away from the access, which will come again.
            state.machine.handle_interrupted(id);
            self.drain(&mut state, None);
        }
        let page = state.machine.noted(id)?;
        let blocked = state.vcpu(id).blocked?;
        debug_assert_eq!(blocked.page, page, "noted in one step");
        Some(blocked.address)
    }

    /// The vCPU's thread leaves its loop, for now.
    pub(crate) fn left(&self, id: VcpuId) {
        let mut state = self.state();
        state.machine.handle_interrupted(id);
        self.drain(&mut state, None);
    }

    /// What is known of a page that a vCPU could not have, as this takes it: without a record a
    /// page that has failed is absent again.
    pub(crate) fn state_of(&self, page: PageId) -> PageState {
        let Some(pages) = self.pages() else {
            return PageState::Absent;
        };
        match pages.state(page) {
            PageState::Failed(_) if !self.spec.keeps_record && !self.is_waited_for(page) => {
                pages.forget_failure(page);
                pages.state(page)
            }
            state => state,
        }
    }

    /// Its failure is somebody's answer.
    fn is_waited_for(&self, page: PageId) -> bool {
        let state = self.state();
        (0..u32::from(self.spec.vcpus)).any(|id| {
            let vcpu = state.machine.vcpu_state(VcpuId::new(id));
            matches!(vcpu, Some(VcpuState::Waiting(fault)) if fault.page == page)
        })
    }

    /// The vCPU stands at `fault`: it was blocked there, or was refused the page.
    pub(crate) fn fault(
        &self,
        id: VcpuId,
        fault: Fault,
        moment: &Moment,
        events: &mut kvm_vcpu_events,
    ) -> Taken {
        let known = self.state_of(fault.page);
        let mut state = self.state();
        let moment = Moment {
            unread: !state.vcpu(id).can_be_told(),
            ..*moment
        };
        match state.machine.vcpu_state(id) {
            Some(VcpuState::Waiting(waiting)) if waiting.page == fault.page => {
                let outcome = match known {
                    PageState::Failed(failure) => Some(PageOutcome::Failed(failure)),
                    PageState::Present => Some(PageOutcome::Present),
                    // It is about to be marked as failed, or to be asked for again.
                    PageState::Absent | PageState::Pending | PageState::Removed => None,
                };
                if let Some(outcome) = outcome {
                    state.machine.handle_settled(id, fault.page, outcome);
                }
            }
            Some(VcpuState::Telling(telling, _)) if is_same(&telling, &fault) => {}
            // The page it waited for came; this is another page of the same instruction. Or it is
            // not at the access any more of which its guest was to be told.
            Some(VcpuState::Waiting(_) | VcpuState::Telling(..)) => {
                state.machine.handle_interrupted(id);
            }
            _ => {
                state.asked(fault.page, known);
                state.machine.handle_fault(id, fault, &moment, known);
            }
        }
        let announced = self.drain(&mut state, Some((id, events)));
        drop(state);
        self.demand_what_is_wanted();
        let mut state = self.state();
        match state.machine.vcpu_state(id) {
            _ if announced => Taken::Announced,
            _ if state.vcpu(id).report.is_some() => Taken::Stopped,
            // Refused the page already, at this access; otherwise it is about to be.
            Some(VcpuState::Telling(telling, _)) if is_same(&telling, &fault) => Taken::Ask,
            _ => Taken::Waits,
        }
    }

    /// Whether the guest can be told of the access at which the vCPU has just been refused its page.
    /// True when it is to be, by a machine check.
    pub(crate) fn listening(&self, id: VcpuId, listening: Listening) -> bool {
        let mut state = self.state();
        state.machine.handle_listening(id, listening);
        self.drain(&mut state, None);
        std::mem::take(&mut state.vcpu(id).machine_check)
    }

    /// `page` is not failed any more: what is remembered of its failure counts for nothing.
    pub fn healed(&self, page: PageId) {
        let mut state = self.state();
        state.machine.handle_healed(page);
        state.said_ready.retain(|&other| other != page);
        self.drain(&mut state, None);
    }

    /// The most often that a page was asked for again after it had been said ready, in vain.
    pub fn most_asked_again(&self) -> u64 {
        self.state().most_asked_again()
    }

    /// Holds the machine against its invariants.
    ///
    /// # Errors
    /// The first that does not hold.
    pub fn check_invariants(&self) -> Result<(), Violation> {
        self.state().machine.check_invariants()
    }

    /// What was counted so far, by name.
    pub fn counters(&self) -> Counters {
        let state = self.state();
        let most = state.most_asked_again();
        let named = state.counted.named().chain([(MOST_ASKED_AGAIN, most)]);
        named.map(|(name, value)| (name.into(), value)).collect()
    }

    /// The pages that failed, and what became of each.
    pub fn fates(&self) -> BTreeMap<PageId, PageFate> {
        self.state().fates.clone()
    }

    /// How often the rules or the policy left a fault on a page synchronous.
    pub fn waits(&self) -> BTreeMap<PageId, u64> {
        self.state().waits.clone()
    }

    /// Errors whose task has not come back, so far; and the bytes that the policy keeps.
    pub fn owed_and_bytes(&self) -> (usize, usize) {
        use surefault_core::policy::Policy as _;
        let state = self.state();
        (state.machine.owed(), state.machine.policy().state_bytes())
    }

    /// How long the policy has had asynchronous faults off, over all vCPUs.
    pub fn off(&self) -> Duration {
        self.state().off()
    }

    /// Frames of guest memory that were written since the last call, for whoever logs dirty memory:
    /// KVM does not see these writes.
    pub fn take_dirty(&self) -> Vec<Gfn> {
        self.state().take_dirty()
    }

    /// Asks for the pages that items or vCPUs wait for. Not with the lock held: asking may install.
    fn demand_what_is_wanted(&self) {
        use surefault_pager::FaultObserver as _;
        loop {
            let wanted = std::mem::take(&mut self.state().wanted);
            if wanted.is_empty() {
                return;
            }
            let Some(pages) = self.pages() else {
                return;
            };
            for page in wanted {
                // One that has failed settles in here.
                pages.demand(page);
                match pages.state(page) {
                    PageState::Pending => {}
                    PageState::Present => self.settled(page, PageOutcome::Present),
                    PageState::Failed(failure) => self.settled(page, PageOutcome::Failed(failure)),
                    // There was no room.
                    PageState::Absent | PageState::Removed => self.state().postponed.push(page),
                }
            }
        }
    }

    fn pages(&self) -> Option<Arc<dyn PageSource>> {
        self.outside.get()?.pages.upgrade()
    }

    fn outside(&self) -> Option<&Outside> {
        self.outside.get()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A machine that has met a bug in itself is no worse than none.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drain(&self, state: &mut State, own: Option<(VcpuId, &mut kvm_vcpu_events)>) -> bool {
        match self.outside() {
            Some(outside) => state.drain(outside, own),
            None => false,
        }
    }
}

/// The same access: its page, and the instruction.
fn is_same(one: &Fault, other: &Fault) -> bool {
    (one.page, one.rip) == (other.page, other.rip)
}
