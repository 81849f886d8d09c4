//! The items a vCPU has queued: one asynchronous fault each.
//!
//! ```text
//!            announced/refused        work done          popped, prefaulted
//! Announcing ───────────────► Working ─────────► Done ─────────────────────► free
//!      │                         │                │
//!      └───────── disable, reset ┴────────────────┤ (Done in the FIFO: free at once)
//!                                                 ▼
//!                                             Cancelled ──► free
//!                                    the answer still outstanding arrives
//! ```
//!
//! A cancelled item keeps its place until the answer that is still outstanding has come, so that a
//! late answer can never be taken for that of a newer item. Linux waits for the work instead.

use core::fmt;

use crate::policy::AddressKey;
use crate::{Failure, Gfn, Token};

use super::{Fault, Root};

/// An item's place: what answers name it by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemId(pub(super) u8);

impl ItemId {
    /// The place as an index, below [`FaultsConfig::item_slots`](super::FaultsConfig::item_slots).
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Debug for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// One asynchronous fault.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Item {
    pub(super) fault: Fault,
    pub(super) key: AddressKey,
    /// The address space of the fault, which the prefault needs under shadow paging.
    pub(super) root: Root,
    pub(super) token: Token,
    pub(super) state: ItemState,
    /// The guest was told, and waits for the token.
    pub(super) announced: bool,
    /// How the work ended. Linux drops it; here it is what an unclaimed error is made of.
    pub(super) failure: Option<Failure>,
}

/// What an item waits for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum ItemState {
    /// The answer to its announcement.
    Announcing,
    /// Its work.
    Working,
    /// Its turn, and then its prefault.
    Done,
    /// Nobody; only this answer is still to come.
    Cancelled(Answer),
}

/// An answer that an item waits for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Answer {
    /// `handle_announced`.
    Announced,
    /// `handle_work_done`.
    Work,
    /// `handle_prefaulted`.
    Prefaulted,
}

impl Item {
    pub(super) fn gfn(&self) -> Gfn {
        self.fault.gfn
    }

    pub(super) fn is_live(&self) -> bool {
        !matches!(self.state, ItemState::Cancelled(_))
    }
}

/// The places for a vCPU's items: a slab that hands out the lowest free one.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(super) struct Items {
    places: Box<[Option<Item>]>,
    /// Their tokens, beside them: every fault asks whether one is taken. 0, which is never dealt,
    /// where there is none.
    tokens: Box<[Token]>,
    used: u128,
}

crate::clone_in_place! { Items {
    places, tokens, used,
} }

impl Items {
    pub(super) fn new(places: u8) -> Items {
        Items {
            places: vec![None; usize::from(places)].into_boxed_slice(),
            tokens: vec![Token::default(); usize::from(places)].into_boxed_slice(),
            used: 0,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.used.trailing_ones() as usize == self.places.len()
    }

    /// Puts `item` in a free place; `None` when there is none.
    pub(super) fn insert(&mut self, item: Item) -> Option<ItemId> {
        let free = self.used.trailing_ones() as usize;
        let place = self.places.get_mut(free)?;
        self.tokens[free] = item.token;
        *place = Some(item);
        self.used |= 1 << free;
        Some(ItemId(free as u8))
    }

    pub(super) fn remove(&mut self, id: ItemId) -> Option<Item> {
        let item = self.places.get_mut(id.index())?.take()?;
        self.tokens[id.index()] = Token::default();
        self.used &= !(1 << id.index());
        Some(item)
    }

    /// The item waits for nobody but `answer`: its token is free.
    pub(super) fn cancel(&mut self, id: ItemId, answer: Answer) {
        if let Some(item) = self.get_mut(id) {
            item.state = ItemState::Cancelled(answer);
            self.tokens[id.index()] = Token::default();
        }
    }

    /// Whether a live item has the token.
    pub(super) fn has_token(&self, token: Token) -> bool {
        // To the end in any case, several at a time: there are few, and mostly it is none of them.
        let is = |has, &other| has | (other == token);
        self.tokens.iter().fold(false, is)
    }

    /// Whether the tokens that are searched are those of the live items.
    pub(super) fn is_sound(&self) -> bool {
        self.places.iter().zip(&self.tokens).all(|(item, &token)| {
            let live = item.as_ref().filter(|item| item.is_live());
            live.map_or(Token::default(), |item| item.token) == token
        })
    }

    pub(super) fn get(&self, id: ItemId) -> Option<&Item> {
        self.places.get(id.index())?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: ItemId) -> Option<&mut Item> {
        self.places.get_mut(id.index())?.as_mut()
    }

    /// All items, cancelled ones included, by place.
    pub(super) fn iter(&self) -> impl Iterator<Item = (ItemId, &Item)> {
        self.places
            .iter()
            .enumerate()
            .filter_map(|(index, place)| Some((ItemId(index as u8), place.as_ref()?)))
    }
}
