//! Sets of small numbers, as bitmaps.

use std::hash::{Hash, Hasher};

/// A set of numbers below a bound that is set once.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Bits {
    words: Vec<u64>,
    count: usize,
}

/// The count follows from the map.
impl Hash for Bits {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.words.hash(state);
    }
}

surefault_core::clone_in_place! { Bits {
    words, count,
} }

impl Bits {
    /// An empty set of numbers below `bound`.
    pub(crate) fn new(bound: usize) -> Bits {
        Bits {
            words: vec![0; bound.div_ceil(64)],
            count: 0,
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn contains(&self, n: usize) -> bool {
        let word = self.words.get(n / 64).copied().unwrap_or(0);
        word >> (n % 64) & 1 == 1
    }

    pub(crate) fn insert(&mut self, n: usize) {
        if n / 64 >= self.words.len() {
            self.words.resize(n / 64 + 1, 0);
        }
        let word = &mut self.words[n / 64];
        self.count += usize::from(*word >> (n % 64) & 1 == 0);
        *word |= 1 << (n % 64);
    }

    pub(crate) fn remove(&mut self, n: usize) {
        if let Some(word) = self.words.get_mut(n / 64) {
            self.count -= usize::from(*word >> (n % 64) & 1 == 1);
            *word &= !(1 << (n % 64));
        }
    }

    /// The `nth` of them (from 0), counted upwards from `start` and around.
    pub(crate) fn nth_from(&self, start: usize, nth: usize) -> Option<usize> {
        if nth >= self.count {
            return None;
        }
        match self.nth_above(start, nth) {
            Ok(found) => Some(found),
            Err(above) => self.nth_above(0, nth - above).ok(),
        }
    }

    /// The `nth` of those that are not below `start`, or else how many of these there are.
    fn nth_above(&self, start: usize, nth: usize) -> Result<usize, usize> {
        let mut left = nth;
        let mut mask = !0 << (start % 64);
        for (at, &word) in self.words.iter().enumerate().skip(start / 64) {
            let word = word & std::mem::replace(&mut mask, !0);
            if left == 0 && word != 0 {
                return Ok(at * 64 + word.trailing_zeros() as usize);
            }
            let here = word.count_ones() as usize;
            if here > left {
                return Ok(at * 64 + nth_bit(word, left as u32));
            }
            left -= here;
        }
        Err(nth - left)
    }
}

/// The `nth` bit of `word` that is set, from 0, of more than `nth`: the byte by sums over the bytes, then
/// the bit within it.
fn nth_bit(word: u64, nth: u32) -> usize {
    const BYTES: u64 = u64::MAX / 0xff;
    const PAIRS: u64 = BYTES * 0x55;
    const NIBBLES: u64 = BYTES * 0x33;
    const LOW: u64 = BYTES * 0x0f;
    let pairs = word - ((word >> 1) & PAIRS);
    let nibbles = (pairs & NIBBLES) + ((pairs >> 2) & NIBBLES);
    let bytes = (nibbles + (nibbles >> 4)) & LOW;
    // In each byte the bits that are set in it and below.
    let sums = bytes.wrapping_mul(BYTES);
    let nth = u64::from(nth);
    let has = |&shift: &u32| nth < (sums >> shift) & 0xff;
    let shift = (0..64).step_by(8).find(has).unwrap_or(56);
    let below = ((sums << 8) >> shift) & 0xff;
    let mut byte = (word >> shift) & 0xff;
    for _ in below..nth {
        byte &= byte - 1;
    }
    (shift + byte.trailing_zeros()) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_counted_upwards_and_around() {
        let mut bits = Bits::new(200);
        for n in [3, 64, 65, 130, 199] {
            bits.insert(n);
            bits.insert(n);
        }
        bits.remove(65);
        bits.remove(66);
        assert_eq!((bits.count(), bits.contains(64)), (4, true));
        let from =
            |start| -> Vec<usize> { (0..5).map_while(|nth| bits.nth_from(start, nth)).collect() };
        assert_eq!(from(0), [3, 64, 130, 199]);
        assert_eq!(from(64), [64, 130, 199, 3]);
        assert_eq!(from(131), [199, 3, 64, 130]);
        assert_eq!(from(200), [3, 64, 130, 199]);
    }

    #[test]
    fn the_nth_bit_is_found_by_bytes() {
        for word in [
            1,
            1 << 63,
            u64::MAX,
            0x8000_0100_0030_0201,
            0xf0f0_0000_0000_000f,
        ] {
            let slow = (0..64).filter(|at| word >> at & 1 == 1);
            for (nth, at) in slow.enumerate() {
                assert_eq!(nth_bit(word, nth as u32), at, "{word:#x}, {nth}");
            }
        }
    }
}
