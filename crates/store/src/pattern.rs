//! A source without a source: every word follows from a seed and its place.

use surefault_core::plan::mix;

use crate::{ReadRequest, Store, StoreError};

/// Bytes in a word of the pattern.
const WORD: u64 = 8;

/// A source whose every little-endian 64-bit word is a function of the seed and its offset: nothing
/// to prepare, nothing to store, and whoever knows the seed can check what was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PatternStore {
    seed: u64,
    size: u64,
}

impl PatternStore {
    /// `size` bytes of the pattern of `seed`.
    pub const fn new(seed: u64, size: u64) -> PatternStore {
        PatternStore { seed, size }
    }

    /// The word of `seed`'s pattern that begins at byte `offset`, a multiple of 8 (rounded down to
    /// one).
    pub const fn word(seed: u64, offset: u64) -> u64 {
        numbered(mix(seed), offset / WORD)
    }
}

/// SplitMix64's output number `number`, from a state that nearby seeds do not share.
const fn numbered(state: u64, number: u64) -> u64 {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    mix(state.wrapping_add(number.wrapping_add(1).wrapping_mul(GOLDEN)))
}

/// Fills `buf` with the pattern from `offset` on.
fn fill(seed: u64, offset: u64, buf: &mut [u8]) {
    let state = mix(seed);
    let mut number = offset / WORD;
    let mut next = || {
        let word = numbered(state, number).to_le_bytes();
        number += 1;
        word
    };
    let skipped = (offset % WORD) as usize;
    let head_len = ((WORD as usize - skipped) % WORD as usize).min(buf.len());
    let (head, rest) = buf.split_at_mut(head_len);
    if !head.is_empty() {
        head.copy_from_slice(&next()[skipped..skipped + head_len]);
    }
    let (words, tail) = rest.as_chunks_mut::<{ WORD as usize }>();
    for word in words {
        *word = next();
    }
    if !tail.is_empty() {
        tail.copy_from_slice(&next()[..tail.len()]);
    }
}

impl Store for PatternStore {
    fn size(&self) -> u64 {
        self.size
    }

    fn describe(&self) -> String {
        format!("seeded pattern {}", self.seed)
    }

    fn read(&self, request: ReadRequest, buf: &mut [u8]) -> Result<(), StoreError> {
        let needed = request.end(buf.len());
        if needed > self.size {
            return Err(StoreError::Truncated {
                source_name: self.describe(),
                found: self.size,
                needed,
            });
        }
        fill(self.seed, request.offset, buf);
        Ok(())
    }

    fn read_now(&self, request: ReadRequest, buf: &mut [u8]) -> Option<Result<(), StoreError>> {
        Some(self.read(request, buf))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_end_is_the_end() {
        let store = PatternStore::new(1, 4096);
        let mut page = [0; 4096];
        assert_eq!(store.read(ReadRequest::first(0), &mut page), Ok(()));
        let error = store.read(ReadRequest::first(1), &mut page);
        assert!(matches!(
            error,
            Err(StoreError::Truncated {
                found: 4096,
                needed: 4097,
                ..
            })
        ));
        assert!(store.read(ReadRequest::first(u64::MAX), &mut page).is_err());
    }

    #[test]
    fn seeds_differ() {
        assert_ne!(PatternStore::word(1, 0), PatternStore::word(2, 0));
        assert_ne!(PatternStore::word(1, 0), PatternStore::word(1, 8));
        // Pinned: guests and checks of other builds compute the same.
        assert_eq!(PatternStore::word(0, 0), 0xe220_a839_7b1d_cdaf);
    }

    proptest! {
        #[test]
        fn however_it_is_cut(
            seed: u64,
            start in 0u64..100,
            cuts in prop::collection::vec(0usize..50, 0..20),
        ) {
            let store = PatternStore::new(seed, 4096);
            let len = cuts.iter().sum::<usize>();
            let mut whole = vec![0; len];
            store.read(ReadRequest::first(start), &mut whole)?;
            let mut pieces = Vec::new();
            for cut in cuts {
                let mut piece = vec![0; cut];
                store.read(ReadRequest::first(start + pieces.len() as u64), &mut piece)?;
                pieces.extend(piece);
            }
            prop_assert_eq!(&whole, &pieces);
            for (at, &byte) in (start..).zip(&whole) {
                let word = PatternStore::word(seed, at).to_le_bytes();
                prop_assert_eq!(byte, word[(at % 8) as usize]);
            }
        }
    }
}
