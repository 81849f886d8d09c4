//! Two bits a page: 64 MiB for 1 TiB of 4 KiB pages.

use core::hash::{Hash, Hasher};
use core::ops::Range;

/// What a page is when nothing is under way for it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub(super) enum SettledState {
    Absent = 0,
    Present = 1,
    Failed = 2,
    Removed = 3,
}

impl SettledState {
    const ALL: [SettledState; 4] = [
        SettledState::Absent,
        SettledState::Present,
        SettledState::Failed,
        SettledState::Removed,
    ];
}

const PAGES_PER_WORD: u64 = 32;

/// The settled state of every page, and how many pages are in each.
///
/// All zeros at first: the kernel backs the map as pages settle.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct SettledMap {
    words: Vec<u64>,
    counts: [u64; 4],
}

/// The counts follow from the map.
impl Hash for SettledMap {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.words.hash(state);
    }
}

crate::clone_in_place! { SettledMap {
    words, counts,
} }

impl SettledMap {
    pub(super) fn new(pages: u64) -> SettledMap {
        let words = usize::try_from(pages.div_ceil(PAGES_PER_WORD)).expect("the map fits memory");
        SettledMap {
            words: vec![0; words],
            counts: [pages, 0, 0, 0],
        }
    }

    pub(super) fn get(&self, position: u64) -> SettledState {
        let (word, shift) = locate(position);
        SettledState::ALL[(self.words[word] >> shift & 3) as usize]
    }

    pub(super) fn set(&mut self, position: u64, state: SettledState) {
        let (word, shift) = locate(position);
        let old = self.words[word] >> shift & 3;
        self.counts[old as usize] -= 1;
        self.counts[state as usize] += 1;
        self.words[word] = self.words[word] & !(3 << shift) | (state as u64) << shift;
    }

    pub(super) fn fill(&mut self, positions: Range<u64>, state: SettledState) {
        let mut position = positions.start;
        while position < positions.end {
            if position.is_multiple_of(PAGES_PER_WORD) && positions.end - position >= PAGES_PER_WORD
            {
                self.fill_word(locate(position).0, state);
                position += PAGES_PER_WORD;
            } else {
                self.set(position, state);
                position += 1;
            }
        }
    }

    fn fill_word(&mut self, word: usize, state: SettledState) {
        const LOW_BITS: u64 = u64::MAX / 3;
        let (low, high) = (
            self.words[word] & LOW_BITS,
            self.words[word] >> 1 & LOW_BITS,
        );
        for (old, pages) in [
            (SettledState::Absent, LOW_BITS & !low & !high),
            (SettledState::Present, low & !high),
            (SettledState::Failed, high & !low),
            (SettledState::Removed, low & high),
        ] {
            self.counts[old as usize] -= u64::from(pages.count_ones());
        }
        self.counts[state as usize] += PAGES_PER_WORD;
        self.words[word] = state as u64 * LOW_BITS;
    }

    pub(super) fn count(&self, state: SettledState) -> u64 {
        self.counts[state as usize]
    }
}

fn locate(position: u64) -> (usize, u32) {
    // The map was allocated, so a position in it fits a usize.
    (
        (position / PAGES_PER_WORD) as usize,
        (position % PAGES_PER_WORD) as u32 * 2,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tebibyte_costs_64_mebibytes() {
        let map = SettledMap::new((1 << 40) / 4096);
        assert_eq!(map.words.len() * 8, 64 << 20);
        assert_eq!(map.words.capacity() * 8, 64 << 20);
    }

    #[test]
    fn neighbours_do_not_disturb_each_other() {
        let mut map = SettledMap::new(100);
        for (n, state) in (0..100).zip(SettledState::ALL.into_iter().cycle()) {
            map.set(n, state);
        }
        for (n, state) in (0..100).zip(SettledState::ALL.into_iter().cycle()) {
            assert_eq!(map.get(n), state);
        }
        map.fill(30..99, SettledState::Failed);
        assert_eq!(map.count(SettledState::Failed), 69 + 7);
        for n in 30..99 {
            map.set(
                n,
                [SettledState::Failed, SettledState::Removed][usize::from(n % 4 == 3)],
            );
        }
        map.fill(30..70, SettledState::Removed);
        assert_eq!(map.counts.iter().sum::<u64>(), 100);
        assert_eq!(map.get(29), SettledState::Present);
        assert_eq!(map.get(70), SettledState::Failed);
        let counted = |state| (0..100).filter(|&n| map.get(n) == state).count() as u64;
        for state in SettledState::ALL {
            assert_eq!(map.count(state), counted(state), "{state:?}");
        }
    }
}
