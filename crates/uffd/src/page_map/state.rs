//! One byte a page.

use core::fmt;

use surefault_core::residency::PageRecord;

/// The number of a page among all pages of a memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MapIndex(u64);

impl MapIndex {
    /// The page with this number, counted from 0.
    pub const fn new(raw: u64) -> MapIndex {
        MapIndex(raw)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for MapIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {}", self.0)
    }
}

/// What is recorded of a page: a [`PageRecord`] with a note.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RecordedState {
    /// Nothing was ever installed.
    Absent,
    /// Data was about to be installed: it is there, or not.
    Intent,
    /// Data was installed.
    Present,
    /// Its owner has given it up: it reads as zeros.
    Removed,
    /// The same after it had failed: in shared memory its poison may be there still.
    RemovedFailed,
    /// It was about to be made to fail: it does, or it is absent.
    Failed {
        /// Why, in the writer's terms; below 32.
        note: u8,
    },
}

/// The low bits say which state, the others are a failure's note.
const STATE_BITS: u32 = 3;
const NOTES: u8 = 1 << (8 - STATE_BITS);

impl RecordedState {
    /// The same without its note.
    pub const fn record(self) -> PageRecord {
        match self {
            RecordedState::Absent => PageRecord::Absent,
            RecordedState::Intent => PageRecord::Intent,
            RecordedState::Present => PageRecord::Present,
            RecordedState::Removed | RecordedState::RemovedFailed => PageRecord::Removed,
            RecordedState::Failed { note: _ } => PageRecord::Failed,
        }
    }

    /// What `record` says, with what it leaves of this one.
    pub(super) const fn with(self, record: PageRecord) -> RecordedState {
        match (record, self) {
            (PageRecord::Absent, _) => RecordedState::Absent,
            (PageRecord::Intent, _) => RecordedState::Intent,
            (PageRecord::Present, _) => RecordedState::Present,
            (PageRecord::Removed, RecordedState::Failed { .. } | RecordedState::RemovedFailed) => {
                RecordedState::RemovedFailed
            }
            (PageRecord::Removed, _) => RecordedState::Removed,
            (PageRecord::Failed, RecordedState::Failed { note }) => RecordedState::Failed { note },
            (PageRecord::Failed, _) => RecordedState::Failed { note: 0 },
        }
    }

    pub(super) const fn encode(self) -> u8 {
        match self {
            RecordedState::Absent => 0,
            RecordedState::Intent => 1,
            RecordedState::Present => 2,
            RecordedState::Removed => 3,
            RecordedState::RemovedFailed => 5,
            RecordedState::Failed { note } => 4 | (note % NOTES) << STATE_BITS,
        }
    }

    pub(super) const fn decode(value: u8) -> Option<RecordedState> {
        Some(match (value % (1 << STATE_BITS), value >> STATE_BITS) {
            (0, 0) => RecordedState::Absent,
            (1, 0) => RecordedState::Intent,
            (2, 0) => RecordedState::Present,
            (3, 0) => RecordedState::Removed,
            (5, 0) => RecordedState::RemovedFailed,
            (4, note) => RecordedState::Failed { note },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_one_state_or_none() {
        let known = (0..=u8::MAX).filter(|&value| {
            RecordedState::decode(value).is_some_and(|state| {
                assert_eq!(state.encode(), value);
                true
            })
        });
        assert_eq!(known.count(), 5 + usize::from(NOTES));
    }
}
