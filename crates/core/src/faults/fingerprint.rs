//! A hash of the canonical state, without making it: a checker asks for millions of them.
//!
//! Equal for states with equal [views](Faults::view), and different for others but by chance. A test
//! holds the two against each other.

use core::hash::{Hash, Hasher};

use crate::policy::Policy;
use crate::{Token, VcpuId};

use super::item::ItemState;
use super::vcpu::{Completion, Vcpu};
use super::{Faults, ItemId, VcpuState, WAKE_ALL};

impl<P: Policy> Faults<P> {
    /// Hashes what the [view](Self::view) consists of. To be asked when all effects have been polled;
    /// configurations are not told apart.
    pub fn hash_view(&self, hasher: &mut impl Hasher) {
        self.policy.hash(hasher);
        self.owed.hash(hasher);
        self.observed.hash(hasher);
        for vcpu in &self.vcpus {
            hash_vcpu(vcpu, hasher);
        }
    }

    /// The place of a live item among those of its vCPU, by age; 0 for one that is not known.
    pub fn rank_of_item(&self, vcpu: VcpuId, item: ItemId) -> u8 {
        self.vcpu(vcpu).map_or(0, |vcpu| rank(vcpu, item))
    }

    /// The same for a token: of the ready slot, or of a live item; 0 for one that is not known.
    pub fn rank_of_token(&self, vcpu: VcpuId, token: Token) -> u8 {
        let Some(vcpu) = self.vcpu(vcpu) else {
            return 0;
        };
        if vcpu.ready == Some(token) || token == WAKE_ALL {
            return u8::MAX - u8::from(token == WAKE_ALL);
        }
        let has = |&id: &ItemId| vcpu.items.get(id).is_some_and(|item| item.token == token);
        place(vcpu.queue.iter().position(has))
    }
}

fn place(at: Option<usize>) -> u8 {
    at.map_or(0, |at| at as u8 + 1)
}

fn rank(vcpu: &Vcpu, item: ItemId) -> u8 {
    place(vcpu.queue.iter().position(|&other| other == item))
}

fn hash_vcpu(vcpu: &Vcpu, hasher: &mut impl Hasher) {
    core::mem::discriminant(&vcpu.state).hash(hasher);
    match vcpu.state {
        VcpuState::Announcing(item) => rank(vcpu, item).hash(hasher),
        VcpuState::Servicing(item, root) => (rank(vcpu, item), root).hash(hasher),
        VcpuState::Waiting(fault) => fault.hash(hasher),
        VcpuState::Telling(fault, failure) | VcpuState::Stopped(fault, failure) => {
            (fault, failure).hash(hasher);
        }
        VcpuState::Guest | VcpuState::Entering | VcpuState::Halted => {}
    }
    let ready = vcpu.ready.map(|token| token == WAKE_ALL);
    (vcpu.settings, vcpu.lapic_enabled, ready).hash(hasher);
    (vcpu.noted, vcpu.kicked, vcpu.queue.len()).hash(hasher);
    vcpu.told.hash(hasher);
    for &id in &vcpu.queue {
        // The token follows from the place in the queue.
        if let Some(item) = vcpu.items.get(id) {
            (item.fault, item.key, item.root).hash(hasher);
            (item.state, item.announced, item.failure).hash(hasher);
        }
    }
    vcpu.done.len().hash(hasher);
    for &completion in &vcpu.done {
        match completion {
            Completion::Item(item) => rank(vcpu, item).hash(hasher),
            Completion::WakeAll => u8::MAX.hash(hasher),
        }
    }
    // Of the cancelled only what they wait for counts, in any order.
    let mut cancelled = [0u8; 3];
    for (_, item) in vcpu.items.iter() {
        match item.state {
            ItemState::Cancelled(answer) => cancelled[answer as usize] += 1,
            ItemState::Announcing | ItemState::Working | ItemState::Done => {}
        }
    }
    cancelled.hash(hasher);
}
