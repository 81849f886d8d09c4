//! Room for what is read, at the beginning of a page.
//!
//! Copies of whole pages (`rep movs` in the kernel) take several times as long from or to the middle
//! of one.

use surefault_uffd::host_page_size;

/// Bytes at the beginning of a page. Grows, and never shrinks.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    /// Where the first whole page begins.
    start: usize,
    len: usize,
}

impl Buffer {
    /// Room for `len` bytes, whatever they are; what was there is lost.
    pub(crate) fn room(&mut self, len: usize) -> &mut [u8] {
        if self.len < len {
            let page = usize::try_from(host_page_size()).expect("a page fits the address space");
            // Not grown, because it might be copied to where pages begin elsewhere.
            self.bytes = vec![0; len + page - 1];
            self.start = self.bytes.as_ptr().align_offset(page).min(page - 1);
            self.len = len;
        }
        &mut self.bytes[self.start..self.start + len]
    }

    /// The `len` bytes from `offset` on.
    pub(crate) fn part(&self, offset: usize, len: usize) -> &[u8] {
        let start = self.start + offset;
        &self.bytes[start..start + len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_with_a_page() {
        let mut buffer = Buffer::default();
        for len in [1, 4096, 70_000, 4096] {
            let room = buffer.room(len);
            assert_eq!(room.len(), len);
            assert_eq!(room.as_ptr().addr() as u64 % host_page_size(), 0);
            room[len - 1] = 7;
            assert_eq!(buffer.part(len - 1, 1), [7]);
        }
    }
}
