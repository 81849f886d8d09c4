//! Contents of guest memory under construction.

/// Guest-physical memory from 0 on, filled from the bottom.
pub(crate) struct Memory {
    bytes: Vec<u8>,
}

impl Memory {
    /// Memory whose first allocation is at `start` or above.
    pub(crate) fn starting_at(start: u64) -> Memory {
        Memory {
            bytes: vec![0; start as usize],
        }
    }

    /// Reserves `len` zero bytes at a multiple of `align`, a power of two.
    pub(crate) fn reserve(&mut self, len: usize, align: u64) -> u64 {
        let at = self.align(align);
        self.bytes.resize(self.bytes.len() + len, 0);
        at
    }

    /// Appends `contents` at a multiple of `align`, a power of two.
    pub(crate) fn append(&mut self, contents: &[u8], align: u64) -> u64 {
        let at = self.align(align);
        self.bytes.extend_from_slice(contents);
        at
    }

    /// Moves the end up to a multiple of `align`, a power of two, and returns it.
    pub(crate) fn align(&mut self, align: u64) -> u64 {
        let end = (self.bytes.len() as u64).next_multiple_of(align);
        self.bytes.resize(end as usize, 0);
        end
    }

    /// Writes into reserved memory.
    pub(crate) fn put(&mut self, at: u64, contents: &[u8]) {
        self.bytes[at as usize..][..contents.len()].copy_from_slice(contents);
    }

    /// Writes the field of a structure at `at` that is `offset` bytes into it.
    pub(crate) fn put_u64(&mut self, at: u64, offset: usize, value: u64) {
        self.put(at + offset as u64, &value.to_le_bytes());
    }

    /// As [`put_u64`](Self::put_u64), for 32 bits.
    pub(crate) fn put_u32(&mut self, at: u64, offset: usize, value: u32) {
        self.put(at + offset as u64, &value.to_le_bytes());
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}
