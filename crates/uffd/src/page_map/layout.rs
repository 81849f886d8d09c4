//! Where things are in a page map, and the header that says so.

use core::ops::Range;
use core::sync::atomic::Ordering;

use crate::MapError;
use crate::abi::MESSAGE_LEN;
use crate::shared_memory::SharedMemory;

/// "surefmap", in the order of the host: a map never leaves it.
const MAGIC: u64 = u64::from_be_bytes(*b"surefmap");
/// Counted up when the layout or the meaning of a state changes.
const VERSION: u64 = 1;
/// Words of the header: magic, version, unit, pages, slots.
const HEADER_WORDS: usize = 5;
/// More slots than one read could ever fill are a mistake.
const MAX_SLOTS: usize = 65_536;

/// Where things are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Layout {
    pub(super) pages: u64,
    pub(super) slots: usize,
    /// Where the journal begins.
    pub(super) journal: usize,
    /// One byte for each page.
    pub(super) states: Range<usize>,
    /// Bytes in all.
    pub(super) len: usize,
    /// What the parts are aligned to: a page of the host that made the map.
    unit: usize,
}

impl Layout {
    pub(super) fn new(pages: u64, slots: usize) -> Result<Layout, MapError> {
        let unit = usize::try_from(crate::host_page_size()).unwrap_or(usize::MAX);
        Layout::with_unit(pages, slots, unit).ok_or(MapError::TooLarge { pages })
    }

    /// `None` when it would not fit the address space.
    fn with_unit(pages: u64, slots: usize, unit: usize) -> Option<Layout> {
        let journal = unit;
        let journal_len = slots
            .checked_mul(MESSAGE_LEN)?
            .checked_next_multiple_of(unit)?;
        let start = journal.checked_add(journal_len)?;
        let end = start.checked_add(usize::try_from(pages).ok()?)?;
        let len = end.checked_next_multiple_of(unit)?;
        isize::try_from(len).ok()?;
        Some(Layout {
            pages,
            slots,
            journal,
            states: start..end,
            len,
            unit,
        })
    }

    fn header(&self) -> [u64; HEADER_WORDS] {
        let (unit, slots) = (self.unit as u64, self.slots as u64);
        [MAGIC, VERSION, unit, self.pages, slots]
    }

    /// Writes the header; the magic last, so that a map that was begun and not finished is none.
    pub(super) fn write(&self, memory: &SharedMemory) {
        let header = memory.words(0, HEADER_WORDS);
        for (word, value) in header.iter().zip(self.header()).rev() {
            word.store(value, Ordering::Release);
        }
    }

    /// Reads the header, once: what a hostile holder writes later changes nothing.
    pub(super) fn read(memory: &SharedMemory) -> Result<Layout, MapError> {
        if memory.len() < HEADER_WORDS * size_of::<u64>() {
            return Err(MapError::Foreign("it is shorter than a header"));
        }
        let mut header = [0; HEADER_WORDS];
        for (value, word) in header.iter_mut().zip(memory.words(0, HEADER_WORDS)) {
            *value = word.load(Ordering::Acquire);
        }
        let [magic, version, unit, pages, slots] = header;
        if magic != MAGIC {
            return Err(MapError::Foreign("it has another magic number"));
        }
        if version != VERSION {
            return Err(MapError::Foreign("it has another version"));
        }
        if unit != crate::host_page_size() {
            return Err(MapError::Foreign("it was made for another page size"));
        }
        let slots = usize::try_from(slots).unwrap_or(0);
        if slots == 0 || slots > MAX_SLOTS {
            return Err(MapError::Foreign("its journal has an impossible size"));
        }
        let layout = Layout::new(pages, slots)?;
        if layout.len != memory.len() {
            return Err(MapError::Foreign("its size is not what its header says"));
        }
        Ok(layout)
    }
}
