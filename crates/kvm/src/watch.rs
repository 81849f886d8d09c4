//! What the threads of a VM's vCPUs share: the machine of faults, which judges what they see while
//! Linux takes the faults.
//!
//! ```text
//!  vCPU thread ── SIGBUS, EFAULT, MMIO in a slot ──► Faults ──► Retry, Confirm: enter again
//!                      + the page's state               │
//!                                                       ├─────► Tell: can the guest be told?
//!                                                       │         └► MachineCheck: enter
//!                                                       └─────► Report: stop
//! ```
//!
//! The threads translate and obey. Which page, and what instruction, they find out; what to make of
//! it is decided in [`surefault_core::faults`] alone. The lock is held for single inputs, and the
//! effects of an input are its own thread's.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Serialize, Serializer};
use surefault_core::faults::{
    ConfigError, Effect, Fault, Faults, FaultsConfig, LinuxApf, Listening, Seen, Violation,
};
use surefault_core::policy::Retry;
use surefault_core::residency::PageState;
use surefault_core::{Failure, Gpa, PageId, VcpuId};

/// The machine of faults of a VM whose page faults Linux takes, under the policy that Linux has.
#[derive(Debug)]
pub struct Watch {
    apf: LinuxApf,
    machine: Mutex<Faults<Retry>>,
    returns: AtomicU64,
    refused: Mutex<Option<Refusal>>,
}

/// What `KVM_RUN` came back with, having been refused a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Refusal {
    /// Its error.
    pub errno: i32,
    /// `exit_reason`: 0 says nothing, 39 is a memory fault, which has an address.
    pub exit_reason: u32,
    /// The address that was named, if one was.
    #[serde(serialize_with = "address")]
    pub named: Option<Gpa>,
}

/// Addresses are written in hexadecimal.
fn address<S: Serializer>(named: &Option<Gpa>, serializer: S) -> Result<S::Ok, S::Error> {
    named.map(|gpa| gpa.to_string()).serialize(serializer)
}

/// What a vCPU is to do after it could not have a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Judgement {
    /// Enter the guest again, at the same instruction.
    Again,
    /// Find out whether the guest can be told, and say so.
    Ask,
    /// Have the guest take a machine check, and enter it.
    Tell,
    /// Stop, with a report of this.
    Report(Fault, Failure),
}

impl Watch {
    /// For a VM of `vcpus` vCPUs.
    ///
    /// # Errors
    /// When there are none, or more than 4096.
    pub fn new(vcpus: u16, apf: LinuxApf) -> Result<Watch, ConfigError> {
        Watch::with(FaultsConfig::new(vcpus), apf)
    }

    /// The same, whose failures go to the guest where it can be told.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn telling(vcpus: u16, apf: LinuxApf) -> Result<Watch, ConfigError> {
        let config = FaultsConfig {
            errors_to_guest: true,
            ..FaultsConfig::new(vcpus)
        };
        Watch::with(config, apf)
    }

    fn with(config: FaultsConfig, apf: LinuxApf) -> Result<Watch, ConfigError> {
        Ok(Watch {
            apf,
            machine: Mutex::new(Faults::new(config)?),
            returns: AtomicU64::new(0),
            refused: Mutex::new(None),
        })
    }

    /// A vCPU saw `seen` at `fault`, whose page is `state`.
    pub(crate) fn observed(
        &self,
        vcpu: VcpuId,
        fault: Fault,
        seen: Seen,
        state: PageState,
    ) -> Judgement {
        let mut machine = self.machine();
        // Not taken only from a vCPU that has been told to stop, which does not run.
        machine.handle_observed(vcpu, fault, seen, self.apf, state);
        drain(&mut machine)
    }

    /// Whether the guest can be told of what its vCPU has seen.
    pub(crate) fn listening(&self, vcpu: VcpuId, listening: Listening) -> Judgement {
        let mut machine = self.machine();
        // Stale when the page was healed meanwhile: then the vCPU just enters again.
        machine.handle_listening(vcpu, listening);
        drain(&mut machine)
    }

    /// A vCPU runs, possibly after a report.
    pub(crate) fn running(&self, vcpu: VcpuId) {
        let mut machine = self.machine();
        machine.handle_resume(vcpu);
        drain(&mut machine);
    }

    /// `page` is not failed any more: what was seen of it before counts for nothing.
    pub fn healed(&self, page: PageId) {
        let mut machine = self.machine();
        machine.handle_healed(page);
        drain(&mut machine);
    }

    /// Holds the machine against its invariants.
    ///
    /// # Errors
    /// The first that does not hold.
    pub fn check_invariants(&self) -> Result<(), Violation> {
        self.machine().check_invariants()
    }

    /// Times that `KVM_RUN` came back for another reason than a kick, on any vCPU.
    pub fn returns(&self) -> u64 {
        self.returns.load(Ordering::Relaxed)
    }

    pub(crate) fn count_return(&self) {
        self.returns.fetch_add(1, Ordering::Relaxed);
    }

    /// What `KVM_RUN` last came back with, on any vCPU, having been refused a page by an error.
    pub fn last_refusal(&self) -> Option<Refusal> {
        *self.refused()
    }

    pub(crate) fn note_refusal(&self, refusal: Refusal) {
        *self.refused() = Some(refusal);
    }

    fn refused(&self) -> MutexGuard<'_, Option<Refusal>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn machine(&self) -> MutexGuard<'_, Faults<Retry>> {
        // A machine that has met a bug in itself is no worse than none.
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Carries out the effects of one input.
fn drain(machine: &mut Faults<Retry>) -> Judgement {
    let mut judgement = Judgement::Again;
    while let Some(effect) = machine.poll_effect() {
        match effect {
            Effect::Retry { .. } | Effect::Confirm { .. } | Effect::Resume { .. } => {}
            Effect::Tell { .. } => judgement = Judgement::Ask,
            Effect::MachineCheck { .. } => judgement = Judgement::Tell,
            Effect::Report { fault, failure, .. } => judgement = Judgement::Report(fault, failure),
            // Linux takes the faults: the machine is given none.
            Effect::NotPresent { .. }
            | Effect::Work { .. }
            | Effect::CancelWork { .. }
            | Effect::Wait { .. }
            | Effect::Halt { .. }
            | Effect::Kick { .. }
            | Effect::Interrupt { .. }
            | Effect::Prefault { .. }
            | Effect::Ready { .. }
            | Effect::Enter { .. }
            | Effect::Unclaimed { .. } => debug_assert!(false, "asked for by nobody: {effect:?}"),
        }
    }
    judgement
}

#[cfg(test)]
mod tests {
    use surefault_core::{Cause, CauseId, CauseKind, Gfn, Gva, PageIndex, RegionId, SlotId};

    use super::*;

    #[test]
    fn a_signal_is_confirmed_under_linux_apf_and_forgotten_when_healed() {
        let vcpu = VcpuId::new(0);
        let page = PageId::new(RegionId::new(0), PageIndex::new(3));
        let fault = Fault {
            page,
            memslot: SlotId::new(1),
            gfn: Gfn::new(3),
            rip: Gva::new(0x10),
        };
        let cause = Cause {
            kind: CauseKind::Injected,
            id: CauseId::default(),
        };
        let failure = Failure { cause, attempts: 1 };
        let state = PageState::Failed(failure);
        let report = Judgement::Report(fault, failure);

        let watch = Watch::new(1, LinuxApf::On).unwrap();
        let see = || watch.observed(vcpu, fault, Seen::Sigbus, state);
        assert_eq!(see(), Judgement::Again);
        watch.healed(page);
        assert_eq!(see(), Judgement::Again);
        assert_eq!(see(), report);
        watch.running(vcpu);
        assert_eq!(see(), Judgement::Again);

        let watch = Watch::new(1, LinuxApf::Off).unwrap();
        assert_eq!(watch.observed(vcpu, fault, Seen::Sigbus, state), report);
    }
}
