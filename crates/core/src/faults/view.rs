//! The canonical state: what a checker compares and stores.

use crate::policy::Policy;
use crate::{Gfn, Token, VcpuId};

use super::gfn_set::GfnSet;
use super::item::{Item, ItemState, Items};
use super::vcpu::{Completion, Vcpu};
use super::{Fault, Faults, ItemId, VcpuState, WAKE_ALL};

/// How a canonical state names what the original named otherwise. Whoever keeps items or tokens
/// beside the machine (outstanding work, the guest's waiters) renames them with it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Renaming {
    items: Vec<(VcpuId, ItemId, ItemId)>,
    tokens: Vec<(Token, Token)>,
}

impl Renaming {
    /// The canonical name of an item; `None` when the machine does not know it (any more).
    pub fn item(&self, vcpu: VcpuId, item: ItemId) -> Option<ItemId> {
        let found = self
            .items
            .iter()
            .find(|&&(of, old, _)| of == vcpu && old == item)?;
        Some(found.2)
    }

    /// The canonical name of a token; `None` when it is neither queued nor in the ready slot.
    pub fn token(&self, token: Token) -> Option<Token> {
        let found = self.tokens.iter().find(|&&(old, _)| old == token)?;
        Some(found.1)
    }
}

impl<P: Policy> Faults<P> {
    /// The canonical form of the state: items in the order of their age, tokens numbered by age,
    /// the gfn set rebuilt in that order, and of cancelled items only what they still wait for.
    ///
    /// To be taken when all effects have been polled. It is a machine itself: two states with equal views take equal inputs to states with equal
    /// views, up to the [`Renaming`].
    pub fn canonical(&self) -> (Faults<P>, Renaming) {
        let mut renaming = Renaming::default();
        let mut view = self.clone();
        for vcpu in &mut view.vcpus {
            canonical_vcpu(
                vcpu,
                self.config.gfn_slots,
                self.config.item_slots,
                &mut renaming,
            );
        }
        (view, renaming)
    }

    /// The canonical form alone.
    pub fn view(&self) -> Faults<P> {
        self.canonical().0
    }
}

fn canonical_vcpu(vcpu: &mut Vcpu, gfn_slots: u8, item_slots: u8, renaming: &mut Renaming) {
    let mut id = 0;
    let mut renumber = |tokens: &super::token::Tokens, old: Token| {
        id += 1;
        let new = tokens.token(id);
        renaming.tokens.push((old, new));
        new
    };
    if let Some(ready) = vcpu.ready
        && ready != WAKE_ALL
    {
        vcpu.ready = Some(renumber(&vcpu.tokens, ready));
    }

    let mut items = Items::new(item_slots);
    let mut gfns = GfnSet::new(gfn_slots);
    let mut names = Vec::new();
    for old in vcpu.queue.clone() {
        let Some(item) = vcpu.items.get(old) else {
            continue;
        };
        let token = renumber(&vcpu.tokens, item.token);
        let _ = gfns.insert(item.gfn());
        names.extend(items.insert(Item { token, ..*item }).map(|new| (old, new)));
    }
    let mut cancelled: Vec<_> = vcpu
        .items
        .iter()
        .filter_map(|(old, item)| match item.state {
            ItemState::Cancelled(answer) => Some((answer, old)),
            ItemState::Announcing | ItemState::Working | ItemState::Done => None,
        })
        .collect();
    cancelled.sort_unstable();
    for (answer, old) in cancelled {
        names.extend(
            items
                .insert(forgotten(ItemState::Cancelled(answer)))
                .map(|new| (old, new)),
        );
    }

    let rename = |old: ItemId| {
        let found = names.iter().find(|&&(name, _)| name == old);
        found.map_or(old, |&(_, new)| new)
    };
    vcpu.state = match vcpu.state {
        VcpuState::Announcing(item) => VcpuState::Announcing(rename(item)),
        VcpuState::Servicing(item, root) => VcpuState::Servicing(rename(item), root),
        state @ (VcpuState::Guest
        | VcpuState::Entering
        | VcpuState::Waiting(_)
        | VcpuState::Halted
        | VcpuState::Telling(..)
        | VcpuState::Stopped(..)) => state,
    };
    for item in &mut vcpu.queue {
        *item = rename(*item);
    }
    for completion in &mut vcpu.done {
        if let Completion::Item(item) = completion {
            *item = rename(*item);
        }
    }
    vcpu.items = items;
    vcpu.gfns = gfns;
    vcpu.tokens.restart_after(id);
    renaming
        .items
        .extend(names.into_iter().map(|(old, new)| (vcpu.id, old, new)));
}

/// A cancelled item: all of it but the answer it waits for is of no consequence.
fn forgotten(state: ItemState) -> Item {
    Item {
        fault: Fault {
            page: Default::default(),
            memslot: Default::default(),
            gfn: Gfn::default(),
            rip: Default::default(),
        },
        key: Default::default(),
        root: Default::default(),
        token: Token::default(),
        state,
        announced: false,
        failure: None,
    }
}
