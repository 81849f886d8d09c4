//! Events that are recorded by being read.
//!
//! A removal goes on in the served process as soon as its event was *read*. A reader that is killed
//! between reading it and noting it has lost it, and nobody can find out afterwards. So the kernel
//! writes events straight into shared memory: the system call that takes an event off the queue is
//! the one that records it.
//!
//! ```text
//!  slots:   ┌ event ┬ event ┬ event ┬ 0 ┬ 0 ┬ …      read ──► note each ──► clear
//!           └───────┴───────┴───────┴───┴───┴        a successor: replay ──► note each ──► clear
//! ```
//!
//! * Every read begins at the first slot and asks for at most all of them, so nothing ever wraps.
//!   That needs each batch to be noted before the next is read: one critical section, in the words
//!   of the drivers.
//! * No event's number is 0, so the first slot that begins with 0 ends the record. The kernel takes one event off
//!   its queue, writes it, and only then takes the next: a reader killed in the middle of a batch
//!   leaves a whole prefix.
//! * Clearing goes from the last slot to the first, so that what a death leaves is a prefix, too. It
//!   may then be noted twice, which is harmless: a page that is removed stays so, and a fault on a
//!   page is raised again anyway.
//! * The slots are written to and locked in advance. The kernel's write therefore never waits for a
//!   page, which a killed reader could be interrupted in.

use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use crate::abi::MESSAGE_LEN;
use crate::shared_memory::SharedMemory;

const WORDS: usize = MESSAGE_LEN / size_of::<u64>();

/// The journal of a [`PageMap`](crate::PageMap): what was read last, and not yet noted.
///
/// There is one for each mapping of a map, and it is not cloned: whoever has it is the reader.
#[derive(Debug)]
pub struct Journal {
    memory: Arc<SharedMemory>,
    offset: usize,
    slots: usize,
    locked: bool,
}

impl Journal {
    pub(crate) fn new(memory: Arc<SharedMemory>, offset: usize, slots: usize) -> Journal {
        let locked = memory.keep_in_place(offset, slots * MESSAGE_LEN);
        Journal {
            memory,
            offset,
            slots,
            locked,
        }
    }

    /// Messages that one read can bring.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Whether the slots are locked in memory. Where `RLIMIT_MEMLOCK` forbids it they are there, but
    /// may be swapped out, and an event that is read at that moment by a process that is killed at
    /// that moment is lost.
    pub fn is_locked(&self) -> bool {
        self.locked
    }

    /// Whether nothing stands in it.
    pub fn is_clear(&self) -> bool {
        is_free(&self.words()[..WORDS])
    }

    /// Everything that was read has been noted.
    pub fn clear(&mut self) {
        let slots = self.words().chunks_exact(WORDS);
        let filled = slots.clone().take_while(|slot| !is_free(slot)).count();
        for slot in slots.take(filled).rev() {
            slot[0].store(0, Ordering::Release);
        }
    }

    /// The messages that stand in the journal.
    pub(crate) fn messages(&self) -> impl Iterator<Item = [u8; MESSAGE_LEN]> + '_ {
        let slots = self.words().chunks_exact(WORDS);
        slots.take_while(|slot| !is_free(slot)).map(|slot| {
            let mut message = [0; MESSAGE_LEN];
            for (bytes, word) in message.chunks_exact_mut(size_of::<u64>()).zip(slot) {
                bytes.copy_from_slice(&word.load(Ordering::Acquire).to_ne_bytes());
            }
            message
        })
    }

    /// The memory, and where in it a read may put at most how many bytes.
    pub(crate) fn landing(&mut self) -> (&SharedMemory, usize, usize) {
        (&self.memory, self.offset, self.slots * MESSAGE_LEN)
    }

    fn words(&self) -> &[AtomicU64] {
        self.memory.words(self.offset, self.slots * WORDS)
    }
}

/// The first word has the event's number, which is never 0: a slot becomes free by one store, and a
/// death finds it free or full.
fn is_free(slot: &[AtomicU64]) -> bool {
    slot[0].load(Ordering::Acquire) == 0
}
