//! The gfns that a vCPU has queued: Linux's own hash table, probe for probe.

use crate::Gfn;

/// A set of gfns: open addressing by `hash_32`, linear probing, deletion that shifts back
/// (`kvm_add_async_pf_gfn`, `kvm_find_async_pf_gfn`, `kvm_del_async_pf_gfn`).
///
/// It never holds more gfns than it has slots, which the caller's cap sees to; in Linux each gfn once
/// ([`DoubleFault`](super::DoubleFault) allows more).
#[derive(PartialEq, Eq, Hash, Debug)]
pub(super) struct GfnSet {
    slots: Box<[u64]>,
}

crate::clone_in_place! { GfnSet {
    slots,
} }

/// An empty slot: all ones, as in Linux. No guest has such a gfn.
const EMPTY: u64 = !0;

/// `GOLDEN_RATIO_32` of `include/linux/hash.h`.
const GOLDEN_RATIO_32: u32 = 0x61c8_8647;

impl GfnSet {
    /// An empty set of `slots` slots, a power of two.
    pub(super) fn new(slots: u8) -> GfnSet {
        GfnSet {
            slots: vec![EMPTY; usize::from(slots)].into_boxed_slice(),
        }
    }

    /// Adds `gfn`; false when there is no room, which the cap on items rules out.
    pub(super) fn insert(&mut self, gfn: Gfn) -> bool {
        let mut key = self.hash(gfn.get());
        for _ in 0..self.slots.len() {
            if self.slots[key] == EMPTY {
                self.slots[key] = gfn.get();
                return true;
            }
            key = self.next(key);
        }
        false
    }

    pub(super) fn contains(&self, gfn: Gfn) -> bool {
        self.slots[self.find(gfn)] == gfn.get()
    }

    /// Removes `gfn`; false when it was not there.
    pub(super) fn remove(&mut self, gfn: Gfn) -> bool {
        let mut hole = self.find(gfn);
        if self.slots[hole] != gfn.get() {
            return false;
        }
        self.slots[hole] = EMPTY;
        let mut probe = hole;
        // Whatever follows without a gap moves into the hole, unless its own hash lies
        // (cyclically) after the hole: then a probe from there would not pass the hole.
        for _ in 1..self.slots.len() {
            probe = self.next(probe);
            let moved = self.slots[probe];
            if moved == EMPTY {
                break;
            }
            let home = self.hash(moved);
            let stays = if hole <= probe {
                hole < home && home <= probe
            } else {
                hole < home || home <= probe
            };
            if !stays {
                self.slots[hole] = moved;
                self.slots[probe] = EMPTY;
                hole = probe;
            }
        }
        true
    }

    pub(super) fn clear(&mut self) {
        self.slots.fill(EMPTY);
    }

    pub(super) fn len(&self) -> usize {
        self.slots.iter().filter(|&&slot| slot != EMPTY).count()
    }

    /// The slot that holds `gfn`, or the one where the search for it ends.
    fn find(&self, gfn: Gfn) -> usize {
        let mut key = self.hash(gfn.get());
        for _ in 0..self.slots.len() {
            if self.slots[key] == gfn.get() || self.slots[key] == EMPTY {
                break;
            }
            key = self.next(key);
        }
        key
    }

    fn next(&self, key: usize) -> usize {
        (key + 1) & (self.slots.len() - 1)
    }

    fn hash(&self, gfn: u64) -> usize {
        hash_32(gfn as u32, self.slots.len().trailing_zeros()) as usize
    }
}

/// `hash_32` of `include/linux/hash.h`: the `bits` highest bits of a product.
pub(crate) const fn hash_32(value: u32, bits: u32) -> u32 {
    if bits == 0 {
        return 0;
    }
    value.wrapping_mul(GOLDEN_RATIO_32) >> (32 - bits)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hashes_as_linux_does() {
        // 1 * 0x61c88647 >> 26, and so on.
        assert_eq!(hash_32(1, 6), 0x61c8_8647 >> 26);
        assert_eq!(hash_32(2, 6), 0xc391_0c8e >> 26);
        assert_eq!(hash_32(7, 0), 0);
    }

    proptest! {
        /// Against a set without tricks; few slots and gfns, so that runs wrap and collide.
        #[test]
        fn agrees_with_a_plain_set(steps in prop::collection::vec((any::<bool>(), 0u64..12), 0..200)) {
            let mut set = GfnSet::new(8);
            let mut plain = BTreeSet::new();
            for (insert, raw) in steps {
                let gfn = Gfn::new(raw);
                if insert {
                    if plain.len() < 8 && plain.insert(gfn) {
                        set.insert(gfn);
                    }
                } else {
                    prop_assert_eq!(set.remove(gfn), plain.remove(&gfn));
                }
                prop_assert_eq!(set.len(), plain.len());
                for raw in 0..12 {
                    let gfn = Gfn::new(raw);
                    prop_assert_eq!(set.contains(gfn), plain.contains(&gfn));
                }
            }
        }
    }
}
