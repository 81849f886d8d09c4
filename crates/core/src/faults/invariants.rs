//! What must be true of the machine between any two inputs.

use core::fmt;

use crate::VcpuId;
use crate::policy::Policy;

use super::item::ItemState;
use super::vcpu::{Completion, Vcpu};
use super::{Faults, Timer, VcpuState};

/// An invariant that does not hold: a bug in the machine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Violation {
    /// The vCPU it was found at, if it is about one.
    pub vcpu: Option<VcpuId>,
    /// The sentence that is not true.
    pub rule: &'static str,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vcpu {
            Some(vcpu) => write!(f, "vCPU {vcpu}: not true that {}", self.rule),
            None => write!(f, "not true that {}", self.rule),
        }
    }
}

impl std::error::Error for Violation {}

impl<P: Policy> Faults<P> {
    /// Holds the state against its invariants.
    ///
    /// # Errors
    /// The first one that does not hold.
    pub fn check_invariants(&self) -> Result<(), Violation> {
        for vcpu in &self.vcpus {
            self.check_vcpu(vcpu).map_err(|rule| Violation {
                vcpu: Some(vcpu.id),
                rule,
            })?;
        }
        let rule = if !self.owed.is_sound() {
            "owed errors are within bounds, one a page"
        } else if !self.observed.is_sound() {
            "observations are within bounds, each once"
        } else if self
            .timers
            .iter()
            .any(|&(timer, _)| timer == Timer::Unclaimed)
            && !self.owed.armed
        {
            "a timer to arm counts as armed"
        } else {
            return Ok(());
        };
        Err(Violation { vcpu: None, rule })
    }

    fn check_vcpu(&self, vcpu: &Vcpu) -> Result<(), &'static str> {
        let ensure = |holds: bool, rule| if holds { Ok(()) } else { Err(rule) };
        let cap = usize::from(self.config.queue_cap);
        // The broadcast counts as queued but does not ask (`kvm_async_pf_wakeup_all`).
        ensure(
            vcpu.queue.len() <= cap,
            "at most the cap of items is queued",
        )?;

        let live = || vcpu.queue.iter().filter_map(|&id| vcpu.items.get(id));
        let listed = vcpu.items.iter().filter(|(_, item)| item.is_live()).count();
        ensure(
            live().count() == vcpu.queue.len() && listed == vcpu.queue.len(),
            "the queue lists exactly the live items",
        )?;
        ensure(
            vcpu.gfns.len() == vcpu.queue.len()
                && live().all(|item| vcpu.gfns.contains(item.gfn())),
            "the gfn set holds exactly the gfns of the live items",
        )?;
        ensure(
            live().all(|item| vcpu.tokens.owns(item.token) && vcpu.ready != Some(item.token)),
            "a live item's token is this vCPU's, and not on its way to the guest",
        )?;
        ensure(
            vcpu.items.is_sound(),
            "the tokens in use are those of the live items",
        )?;
        let twins = |token| live().filter(|item| item.token == token).count() > 1;
        ensure(
            !live().any(|item| twins(item.token)),
            "no two items share a token",
        )?;
        ensure(
            vcpu.settings.is_on() || (vcpu.ready.is_none() && !live().any(|item| item.announced)),
            "a guest that is told nothing has no token",
        )?;

        ensure(
            vcpu.noted.is_none()
                || matches!(vcpu.state, VcpuState::Guest | VcpuState::Servicing(..)),
            "a note dies when its vCPU leaves the guest",
        )?;

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
        for &id in &vcpu.queue {
            let times = vcpu
                .done
                .iter()
                .filter(|&&other| other == Completion::Item(id))
                .count();
            let times = times + usize::from(serving == Some(id));
            match vcpu.items.get(id).map(|item| item.state) {
                Some(ItemState::Done) => {
                    ensure(
                        times == 1,
                        "an item that is done waits for its turn, or has it, once",
                    )?;
                }
                Some(ItemState::Announcing) => ensure(
                    times == 0 && vcpu.state == VcpuState::Announcing(id),
                    "an item is announced while its vCPU does nothing else",
                )?,
                Some(ItemState::Working | ItemState::Cancelled(_)) | None => {
                    ensure(times == 0, "what is served is done")?;
                }
            }
        }
        let broadcasts = vcpu
            .done
            .iter()
            .filter(|&&other| other == Completion::WakeAll)
            .count();
        let done = live().filter(|item| item.state == ItemState::Done).count();
        ensure(
            broadcasts <= 1
                && vcpu.done.len() == done + broadcasts - usize::from(serving.is_some()),
            "the FIFO holds what is done, and one broadcast at most",
        )?;

        let waiting = !vcpu.done.is_empty();
        match vcpu.state {
            VcpuState::Guest => ensure(
                !waiting || !vcpu.can_dequeue() || vcpu.kicked,
                "a vCPU in the guest is kicked for what can be served",
            ),
            VcpuState::Halted => {
                ensure(
                    !vcpu.queue.is_empty(),
                    "a halted vCPU has an item to wait for",
                )?;
                ensure(!waiting || vcpu.kicked, "a completion ends a halt")
            }
            VcpuState::Announcing(id) => ensure(
                vcpu.items
                    .get(id)
                    .is_some_and(|item| item.state == ItemState::Announcing),
                "what is announced is an item to announce",
            ),
            VcpuState::Servicing(id, _) => ensure(
                vcpu.items
                    .get(id)
                    .is_some_and(|item| item.state == ItemState::Done),
                "what is served is done",
            ),
            VcpuState::Entering
            | VcpuState::Waiting(_)
            | VcpuState::Telling(..)
            | VcpuState::Stopped(..) => Ok(()),
        }
    }
}
