//! One vCPU's share of the machine.

use std::collections::VecDeque;

use crate::{Failure, PageId, Token, VcpuId};

use super::gfn_set::GfnSet;
use super::item::Items;
use super::tell::Told;
use super::token::Tokens;
use super::{Fault, FaultsConfig, GuestApf, ItemId, Root};

/// What a vCPU is doing, as far as faults are concerned. The table in the module's documentation
/// says what leaves each state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum VcpuState {
    /// It runs the guest.
    Guest,
    /// Its thread is in the host, on the way to the guest.
    Entering,
    /// The guest is being told "page not present".
    Announcing(ItemId),
    /// It waits for a page: the synchronous way.
    Waiting(Fault),
    /// It is halted artificially.
    Halted,
    /// A page is being prefaulted on its way to the guest, into this address space.
    Servicing(ItemId, Root),
    /// It stands at an access that has failed, and the guest is to be told if it can be.
    Telling(Fault, Failure),
    /// It is stopped with a report.
    Stopped(Fault, Failure),
}

/// One entry of the FIFO of completions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Completion {
    /// An item whose work is done.
    Item(ItemId),
    /// The broadcast after (re-)enabling. It counts as queued, as in Linux.
    WakeAll,
}

/// One vCPU.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(super) struct Vcpu {
    pub(super) id: VcpuId,
    pub(super) state: VcpuState,
    pub(super) settings: GuestApf,
    /// The guest has its local APIC on: a ready interrupt can be raised.
    pub(super) lapic_enabled: bool,
    pub(super) items: Items,
    /// Live items, oldest first.
    pub(super) queue: Vec<ItemId>,
    /// The gfns of the live items.
    pub(super) gfns: GfnSet,
    /// Completions in the order in which they came.
    pub(super) done: VecDeque<Completion>,
    /// The token that the guest has not acknowledged yet.
    pub(super) ready: Option<Token>,
    /// Its thread was seen blocked on this page since it entered the guest.
    pub(super) noted: Option<PageId>,
    /// A kick is on its way.
    pub(super) kicked: bool,
    pub(super) tokens: Tokens,
    pub(super) told: Told,
}

crate::clone_in_place! { Vcpu {
    id, state, settings, lapic_enabled, items, queue, gfns, ready, noted, kicked, tokens, told;
    queues done
} }

impl Vcpu {
    pub(super) fn new(id: VcpuId, config: &FaultsConfig) -> Vcpu {
        let cap = usize::from(config.queue_cap);
        Vcpu {
            id,
            state: VcpuState::Entering,
            settings: GuestApf::Off,
            lapic_enabled: true,
            items: Items::new(config.item_slots),
            queue: Vec::with_capacity(cap),
            gfns: GfnSet::new(config.gfn_slots),
            done: VecDeque::with_capacity(cap + 1),
            ready: None,
            noted: None,
            kicked: false,
            tokens: Tokens::new(id, config.token_id_bits),
            told: Told::default(),
        }
    }

    /// `vcpu->async_pf.queued`.
    pub(super) fn queued(&self) -> usize {
        self.queue.len() + usize::from(self.done.contains(&Completion::WakeAll))
    }

    /// Whether the oldest completion may be served (`kvm_arch_can_dequeue_async_page_present`).
    pub(super) fn can_dequeue(&self) -> bool {
        !self.settings.is_on() || (self.lapic_enabled && self.ready.is_none())
    }

    /// Takes a token that no live item and no unacknowledged ready has.
    pub(super) fn deal_token(&mut self) -> Token {
        let Vcpu {
            tokens,
            items,
            ready,
            ..
        } = self;
        tokens.deal(|token| *ready == Some(token) || items.has_token(token))
    }
}
