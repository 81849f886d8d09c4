//! The machine of vCPUs: how a page fault is taken, synchronously or asynchronously, and ends.
//!
//! It plays KVM's rules for asynchronous page faults (`kvm_faultin_pfn`, `virt/kvm/async_pf.c`,
//! `kvm_arch_async_page_*`), with an error [policy](crate::policy) hung in where the proposals of
//! 2020 hung theirs, and it ends every access:
//!
//! ```text
//!                        present
//!              ┌──────────────────────────────────────────────┐
//!              │  may not go async      present, gone         ▼
//!   Guest ──fault──────► Waiting ───────────────────────► Entering ──entry──► Guest
//!     ▲        │            │ failed                          ▲  │ done, slot free
//!     │        │            ▼                  resume         │  ▼
//!     │        │         Stopped ─────────────────────────────┤ Servicing ──prefaulted──┐
//!     │        │                                              │  ▲ next completion      │
//!     │        ├──► Announcing ──injected─────────────────────┤  └─────────────────────┤
//!     │        │        │ refused                             │                        │
//!     │        └──► Halted ◄┘ ───── interrupt, kick ──────────┘                        │
//!     └──────────────────────────────────────────── nothing left to serve ─────────────┘
//! ```
//!
//! | state of a vCPU | left by (and by a reset, from everywhere) |
//! |---|---|
//! | [`Guest`](VcpuState::Guest) | `handle_fault`, `handle_observed` with a failure believed; where a completion waits, `handle_entry`, `handle_service` |
//! | [`Entering`](VcpuState::Entering) | `handle_entry`, `handle_observed` with a failure believed |
//! | [`Announcing`](VcpuState::Announcing) | `handle_announced` |
//! | [`Waiting`](VcpuState::Waiting) | `handle_settled`, `handle_interrupted` |
//! | [`Halted`](VcpuState::Halted) | `handle_interrupt`, `handle_entry` when a completion is there |
//! | [`Servicing`](VcpuState::Servicing) | `handle_prefaulted` |
//! | [`Telling`](VcpuState::Telling) | `handle_listening`, `handle_interrupted`, `handle_healed`, `handle_removed` |
//! | [`Stopped`](VcpuState::Stopped) | `handle_resume` |
//!
//! How an access ends: **mapped** (`Resume` after the page came), **reported** (`Report`), **told**
//! to the guest (`Ready` with an error, or `MachineCheck`), **cancelled** (reset), or, when it failed asynchronously
//! and its task never came back, **unclaimed** (`Unclaimed`). What an item in the queue goes
//! through is drawn in the module `item`, what a vCPU loop sees when Linux takes the faults is
//! weighed in `observe`, whether the guest is told instead of stopped is decided in `tell`, what becomes of a fault that shows in the host first is in `note`.
//!
//! # Rules for a driver
//! * Poll all effects after every input, and carry them out in order.
//! * Hand in a fault with the page's state as it is then. Where failures expire (`failure_ttl`),
//!   register the demand with residency first: an expired failure is then not taken for one.
//! * A kick stays due until `handle_entry` was called, whatever the vCPU does in between.
//! * Effects of a vCPU are carried out by its own thread, but for `Work`, and for what follows
//!   `handle_service`.
//! * Deliver pending interrupts when entering the guest, before the faulting instruction runs again.
//!
//! A page that cannot be provided, on the asynchronous way, with a guest that is told nothing:
//!
//! ```
//! use surefault_core::faults::{Effect, Fault, Faults, FaultsConfig, Moment, Prefaulted, Root};
//! use surefault_core::policy::Exact;
//! use surefault_core::residency::{PageOutcome, PageState};
//! # use surefault_core::*;
//! # let failure = Failure {
//! #     cause: Cause { kind: CauseKind::Truncated, id: CauseId::default() },
//! #     attempts: 1,
//! # };
//! # let page = PageId::default();
//! # let (memslot, gfn, rip) = (SlotId::new(0), Gfn::new(5), Gva::new(0x40_1000));
//! let (vcpu, root) = (VcpuId::new(0), Root::new(0x1000));
//! let fault = Fault { page, memslot, gfn, rip };
//! let moment = Moment::user(Gva::new(0x7000), root);
//!
//! let mut faults = Faults::<Exact>::new(FaultsConfig::new(1))?;
//! faults.handle_entry(vcpu, root);
//! assert_eq!(faults.poll_effect(), Some(Effect::Enter { vcpu }));
//!
//! // The guest touches a page that is not there. It cannot be told, so its vCPU is halted.
//! faults.handle_fault(vcpu, fault, &moment, PageState::Absent);
//! let Some(Effect::Work { item, .. }) = faults.poll_effect() else { panic!() };
//! assert_eq!(faults.poll_effect(), Some(Effect::Halt { vcpu }));
//!
//! // The page fails. The vCPU wakes up, the prefault meets the error, the guest runs on.
//! faults.handle_work_done(vcpu, item, PageOutcome::Failed(failure));
//! assert_eq!(faults.poll_effect(), Some(Effect::Kick { vcpu }));
//! faults.handle_entry(vcpu, root);
//! assert_eq!(faults.poll_effect(), Some(Effect::Prefault { vcpu, item, page, gfn }));
//! faults.handle_prefaulted(vcpu, item, Prefaulted::Error(failure));
//! assert_eq!(faults.poll_effect(), Some(Effect::Enter { vcpu }));
//!
//! // The instruction runs again. Linux would go round for ever; under `Exact` this time it waits
//! // for residency, which has its answer ready.
//! faults.handle_fault(vcpu, fault, &moment, PageState::Failed(failure));
//! assert_eq!(faults.poll_effect(), Some(Effect::Wait { vcpu, page }));
//! faults.handle_settled(vcpu, page, PageOutcome::Failed(failure));
//! assert_eq!(faults.poll_effect(), Some(Effect::Report { vcpu, fault, failure }));
//! # Ok::<(), surefault_core::faults::ConfigError>(())
//! ```
//!
//! # Modelled otherwise than Linux, on purpose
//! * Disabling does not wait for the work of cancelled items; see the module `item`.
//! * The ready slot is free again at the ack, not already when the token word is zeroed.
//! * A token is never dealt twice at a time; see the module `token`.
//! * A ready slot still taken is given up when the guest enables anew: its area is a fresh one.

mod config;
mod control;
mod defect;
mod effect;
mod fingerprint;
mod gfn_set;
mod input;
mod invariants;
mod item;
mod note;
mod observe;
mod owed;
mod serve;
mod settings;
mod take;
mod tell;
#[cfg(test)]
mod tests;
mod token;
mod vcpu;
mod view;

use core::time::Duration;
use std::collections::VecDeque;

use crate::policy::{Policy, PolicyTimer};
use crate::{PageId, VcpuId};

pub use config::{ConfigError, DoubleFault, FaultsConfig, Paging};
pub use defect::Defect;
pub use effect::Effect;
pub(crate) use gfn_set::hash_32;
pub use input::{Accepted, Announced, Fault, Moment, Prefaulted, Root};
pub use invariants::Violation;
pub use item::ItemId;
pub use observe::{LinuxApf, Seen};
pub use settings::GuestApf;
pub use tell::Listening;
pub use token::WAKE_ALL;
pub use vcpu::VcpuState;
pub use view::Renaming;

use observe::Observations;
use owed::Owed;
use vcpu::Vcpu;

/// The faults of one VM under the error policy `P`. See the [module](self) for the states.
#[derive(PartialEq, Eq, Hash, Debug)]
pub struct Faults<P> {
    config: FaultsConfig,
    policy: P,
    vcpus: Box<[Vcpu]>,
    owed: Owed,
    observed: Observations,
    effects: VecDeque<Effect>,
    timers: VecDeque<(Timer, Duration)>,
    #[cfg(any(test, feature = "defects"))]
    defect: Option<Defect>,
}

crate::clone_in_place! { Faults<P> {
    config, policy, vcpus, owed, observed,
    #[cfg(any(test, feature = "defects"))] defect; queues effects, timers
} }

/// A timer of the machine. The driver keeps at most one of each running; a stale one is harmless.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Timer {
    /// Errors that nobody came back for are getting old.
    Unclaimed,
    /// The policy's own.
    Policy(PolicyTimer),
}

impl<P: Policy> Faults<P> {
    /// A machine whose vCPUs stand before the guest, with a policy that remembers nothing.
    ///
    /// # Errors
    /// When a number in `config` is out of bounds.
    pub fn new(config: FaultsConfig) -> Result<Faults<P>, ConfigError> {
        config.validate()?;
        Ok(Faults::with_policy(config, P::new(&config)))
    }

    /// The same with a policy made elsewhere, for a choice at run time.
    ///
    /// # Errors
    /// When a number in `config` is out of bounds.
    pub fn with(config: FaultsConfig, policy: P) -> Result<Faults<P>, ConfigError> {
        config.validate()?;
        Ok(Faults::with_policy(config, policy))
    }

    fn with_policy(config: FaultsConfig, policy: P) -> Faults<P> {
        Faults {
            policy,
            vcpus: (0..u32::from(config.vcpus))
                .map(|id| Vcpu::new(VcpuId::new(id), &config))
                .collect(),
            owed: Owed::new(config.owed_slots),
            observed: Observations::new(config.observed_slots),
            effects: VecDeque::with_capacity(32),
            timers: VecDeque::with_capacity(4),
            config,
            #[cfg(any(test, feature = "defects"))]
            defect: None,
        }
    }

    /// The next thing to do, oldest first.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// A timer to arm, from now. Poll until `None` after every input.
    pub fn poll_timer(&mut self) -> Option<(Timer, Duration)> {
        if self.owed.len() > 0 && !self.owed.armed {
            self.owed.armed = true;
            self.timers
                .push_back((Timer::Unclaimed, self.config.unclaimed_after));
        }
        if let Some((timer, after)) = self.policy.poll_timer() {
            self.timers.push_back((Timer::Policy(timer), after));
        }
        self.timers.pop_front()
    }

    /// What the machine was built with.
    pub fn config(&self) -> &FaultsConfig {
        &self.config
    }

    /// The policy and what it remembers.
    pub fn policy(&self) -> &P {
        &self.policy
    }

    /// What a vCPU is doing; `None` when there is no such vCPU.
    pub fn vcpu_state(&self, vcpu: VcpuId) -> Option<VcpuState> {
        self.vcpu(vcpu).map(|vcpu| vcpu.state)
    }

    /// Items that a vCPU has queued, as KVM counts them.
    pub fn queued(&self, vcpu: VcpuId) -> usize {
        self.vcpu(vcpu).map_or(0, Vcpu::queued)
    }

    /// What a vCPU's guest asked of asynchronous page faults.
    pub fn guest_apf(&self, vcpu: VcpuId) -> GuestApf {
        self.vcpu(vcpu).map_or(GuestApf::Off, |vcpu| vcpu.settings)
    }

    /// Errors whose task has not come back yet.
    pub fn owed(&self) -> usize {
        self.owed.len()
    }

    /// The pages whose error waits for its task, the oldest first.
    pub fn owed_pages(&self) -> impl Iterator<Item = PageId> + '_ {
        self.owed.pages()
    }

    /// Whether the guest is still to be told this token. A task that sleeps for one which is neither
    /// queued nor on its way to the guest sleeps for ever.
    pub fn is_queued(&self, vcpu: VcpuId, token: crate::Token) -> bool {
        self.vcpu(vcpu).is_some_and(|vcpu| {
            let has = |id: &ItemId| vcpu.items.get(*id).is_some_and(|item| item.token == token);
            match token {
                WAKE_ALL => vcpu.done.contains(&vcpu::Completion::WakeAll),
                _ => vcpu.queue.iter().any(has),
            }
        })
    }

    /// The same machine broken in one way, for tests that must notice.
    #[cfg(any(test, feature = "defects"))]
    pub fn with_defect(mut self, defect: Defect) -> Faults<P> {
        self.defect = Some(defect);
        self
    }

    #[cfg(any(test, feature = "defects"))]
    fn has(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    #[cfg(not(any(test, feature = "defects")))]
    #[inline(always)]
    fn has(&self, _: Defect) -> bool {
        false
    }

    fn vcpu(&self, id: VcpuId) -> Option<&Vcpu> {
        self.vcpus.get(id.get() as usize)
    }

    fn vcpu_mut(&mut self, id: VcpuId) -> Option<&mut Vcpu> {
        self.vcpus.get_mut(id.get() as usize)
    }

    fn set_state(&mut self, id: VcpuId, state: VcpuState) {
        if let Some(vcpu) = self.vcpu_mut(id) {
            vcpu.state = state;
        }
    }

    fn emit(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }

    /// Every input ends here: debug builds hold the state against its invariants.
    fn taken(&self) -> Accepted {
        #[cfg(debug_assertions)]
        if !self.is_broken()
            && let Err(violation) = self.check_invariants()
        {
            panic!("{violation}\nin {self:#?}");
        }
        Accepted::Taken
    }

    /// A machine with a defect is judged by the tests, which want to say who caught it.
    #[cfg(debug_assertions)]
    fn is_broken(&self) -> bool {
        Defect::ALL.iter().any(|&defect| self.has(defect))
    }

    /// Asks for `vcpu` to come to the point before the guest, unless that is asked for already.
    fn kick(&mut self, id: VcpuId) {
        if let Some(vcpu) = self.vcpu_mut(id)
            && !vcpu.kicked
        {
            vcpu.kicked = true;
            self.emit(Effect::Kick { vcpu: id });
        }
    }

    fn resume(&mut self, id: VcpuId) {
        if let Some(vcpu) = self.vcpu_mut(id) {
            vcpu.state = VcpuState::Entering;
            self.emit(Effect::Resume { vcpu: id });
        }
    }

    fn halt(&mut self, id: VcpuId) {
        let Some(vcpu) = self.vcpu_mut(id) else {
            return;
        };
        vcpu.state = VcpuState::Halted;
        // A completion that waits ends the halt as it begins (`kvm_vcpu_has_events`).
        let over = !vcpu.done.is_empty();
        self.emit(Effect::Halt { vcpu: id });
        if over {
            self.kick(id);
        }
    }

    fn report(&mut self, id: VcpuId, fault: Fault, failure: crate::Failure) {
        if let Some(vcpu) = self.vcpu_mut(id) {
            vcpu.state = VcpuState::Stopped(fault, failure);
            vcpu.noted = None;
        }
        let vcpu = if self.has(Defect::WrongVcpuReported) {
            VcpuId::new((id.get() + 1) % u32::from(self.config.vcpus))
        } else {
            id
        };
        self.emit(Effect::Report {
            vcpu,
            fault,
            failure,
        });
    }

    /// Ends owed errors of pages that `of` holds for, forgets what was seen of them, and has nobody
    /// told of them any more.
    fn forget_pages(&mut self, of: impl Fn(PageId) -> bool) {
        self.observed.forget(&of);
        for id in (0..u32::from(self.config.vcpus)).map(VcpuId::new) {
            if let Some(VcpuState::Telling(fault, _)) = self.vcpu_state(id)
                && of(fault.page)
            {
                self.resume(id);
            }
        }
        while let Some((page, failure)) = self.owed.take_if(&of) {
            self.unclaimed(page, failure);
        }
    }

    fn unclaimed(&mut self, page: PageId, failure: crate::Failure) {
        if !self.has(Defect::UnclaimedLost) {
            self.emit(Effect::Unclaimed { page, failure });
        }
    }
}
