//! From fingerprints to numbers of states.

/// A hash table by open addressing. Slots hold numbers; the fingerprints themselves lie in a plain
/// array by number, so that a state costs 8 bytes there and 5 to 11 here.
#[derive(Debug)]
pub(crate) struct Fingerprints {
    by_number: Vec<u64>,
    slots: Vec<u32>,
}

const EMPTY: u32 = u32::MAX;

impl Fingerprints {
    pub(crate) fn new() -> Fingerprints {
        Fingerprints {
            by_number: Vec::new(),
            slots: vec![EMPTY; 1 << 10],
        }
    }

    /// Bytes of both arrays, as far as they are used.
    pub(crate) fn bytes(&self) -> usize {
        self.by_number.len() * 8 + self.slots.len() * 4
    }

    /// The state with this fingerprint, if there is one.
    pub(crate) fn get(&self, fingerprint: u64) -> Option<u32> {
        match self.slots[self.find(fingerprint)] {
            EMPTY => None,
            number => Some(number),
        }
    }

    /// Numbers a new state. The caller has seen that there is none with this fingerprint.
    pub(crate) fn insert(&mut self, fingerprint: u64) -> u32 {
        let number = self.by_number.len() as u32;
        self.by_number.push(fingerprint);
        if self.by_number.len() * 4 > self.slots.len() * 3 {
            self.grow();
        } else {
            let slot = self.find(fingerprint);
            self.slots[slot] = number;
        }
        number
    }

    fn grow(&mut self) {
        self.slots = vec![EMPTY; self.slots.len() * 2];
        for number in 0..self.by_number.len() {
            let slot = self.find(self.by_number[number]);
            self.slots[slot] = number as u32;
        }
    }

    /// The slot of this fingerprint, or the one where it would go. There always is an empty one.
    fn find(&self, fingerprint: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = (fingerprint >> 20) as usize & mask;
        loop {
            let number = self.slots[slot];
            if number == EMPTY || self.by_number[number as usize] == fingerprint {
                return slot;
            }
            slot = (slot + 1) & mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_again() {
        let mut table = Fingerprints::new();
        let print = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for n in 0..100_000 {
            assert_eq!(table.get(print(n)), None);
            assert_eq!(u64::from(table.insert(print(n))), n);
        }
        assert!((0..100_000).all(|n| table.get(print(n)) == Some(n as u32)));
        assert_eq!(table.get(print(100_000)), None);
    }
}
