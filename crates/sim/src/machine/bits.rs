//! Sets of small numbers, as bitmaps.

/// A set of numbers below a bound that is set once.
#[derive(PartialEq, Eq, Hash, Debug)]
pub(crate) struct Bits {
    words: Vec<u64>,
    count: usize,
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
        let mut seen = 0;
        for (at, &word) in self.words.iter().enumerate().skip(start / 64) {
            let mut word = match at == start / 64 {
                true => word & (!0 << (start % 64)),
                false => word,
            };
            let here = word.count_ones() as usize;
            if seen + here > nth {
                for _ in seen..nth {
                    word &= word - 1;
                }
                return Ok(at * 64 + word.trailing_zeros() as usize);
            }
            seen += here;
        }
        Err(seen)
    }
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
}
