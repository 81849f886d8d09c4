//! The memory that a guest shares with whoever runs its asynchronous faults: 64 bytes a vCPU.
//!
//! | offset | word | written by the host | by the guest |
//! |---|---|---|---|
//! | 0 | flags | 1: the page fault that comes now says "not present" | 0: read |
//! | 4 | token | of the page that is ready | 0: read |
//! | 8 | error | 1: that page failed (only for a guest that asked) | |

use core::sync::atomic::Ordering;
use std::sync::Arc;

use surefault_core::{Gfn, Gpa, PageSize, Token};

use crate::memory::{Mapping, MemoryError};
use crate::pages::PageSource;
use crate::vm::Slot;

const FLAGS: u64 = 0;
const TOKEN: u64 = 4;
const ERROR: u64 = 8;
/// Bytes of it, and its alignment.
const LEN: u64 = 64;

/// A vCPU's area, as the guest has named it.
#[derive(Clone, Debug)]
pub(super) struct Area {
    gpa: Gpa,
    mapping: Arc<Mapping>,
    offset: u64,
    /// Nobody provides its page on demand: it may be written by any thread, the pager's own included.
    pub(super) anywhere: bool,
    /// Written since somebody asked.
    dirty: bool,
}

impl Area {
    /// The area at `gpa`; `None` where there is no memory.
    pub(super) fn at(gpa: Gpa, slots: &[Slot], pages: &dyn PageSource) -> Option<Area> {
        slots.iter().find_map(|slot| {
            let hva = slot.hva_of(gpa)?;
            // Aligned, it does not cross a page.
            slot.hva_of(gpa.checked_add(LEN - 1)?)?;
            Some(Area {
                gpa,
                mapping: Arc::clone(slot.mapping()),
                offset: gpa.checked_offset_from(slot.gpa())?,
                anywhere: pages.page_of(hva).is_none(),
                dirty: false,
            })
        })
    }

    /// Has its page provided, so that the guest's handlers do not fault on it themselves.
    pub(super) fn populate(&self) -> Result<(), MemoryError> {
        self.mapping.read(self.offset, &mut [0; LEN as usize])
    }

    /// The guest has read the last "not present".
    pub(super) fn is_read(&self) -> Result<bool, MemoryError> {
        if let Some(word) = self.mapping.word(self.offset + FLAGS) {
            return Ok(word.load(Ordering::Acquire) == 0);
        }
        let mut flags = [0; 4];
        self.mapping.read(self.offset + FLAGS, &mut flags)?;
        Ok(flags == [0; 4])
    }

    /// The page fault that comes now says "not present".
    pub(super) fn say_not_present(&mut self) -> Result<(), MemoryError> {
        self.write(FLAGS, 1)
    }

    /// A page is ready: `error` is what the error word says, if the guest reads one.
    pub(super) fn say_ready(
        &mut self,
        token: Token,
        error: Option<bool>,
    ) -> Result<(), MemoryError> {
        if let Some(error) = error {
            // Before the token: a guest may look at any time.
            self.write(ERROR, u32::from(error))?;
        }
        self.write(TOKEN, token.get())
    }

    /// The frame, if it was written since the last call.
    pub(super) fn take_dirty(&mut self) -> Option<Gfn> {
        std::mem::take(&mut self.dirty).then(|| Gfn::of(self.gpa, PageSize::KIB_4))
    }

    fn write(&mut self, field: u64, word: u32) -> Result<(), MemoryError> {
        self.dirty = true;
        if let Some(place) = self.mapping.word(self.offset + field) {
            place.store(word.to_le(), Ordering::Release);
            return Ok(());
        }
        self.mapping.write(self.offset + field, &word.to_le_bytes())
    }
}
