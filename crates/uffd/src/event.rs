//! Reading what happened: batches of messages, decoded one by one, without allocating.
#![expect(
    unsafe_code,
    reason = "a fork event brings a descriptor by number, which must be owned; the kernel writes \
              into shared memory"
)]

use core::fmt;
use core::num::NonZeroU32;
use std::os::fd::{AsFd as _, OwnedFd};

use bitflags::bitflags;
use linux_raw_sys::general as raw;
use rustix::io::Errno;

use crate::abi::{self, MESSAGE_ARGUMENT, MESSAGE_LEN};
use crate::{Address, Journal, ReadError, Userfaultfd};

/// Something that happened to the served process's memory.
#[derive(Debug)]
pub enum Event {
    /// A thread touched a page and is blocked.
    Pagefault(Pagefault),
    /// The process forked; the child's memory is served through this descriptor of its own, which
    /// must be kept open (see [`Userfaultfd`], "Closing") and read ([`Userfaultfd::from_fd`]).
    Fork(OwnedFd),
    /// `mremap` moved a mapping.
    Remap {
        /// Where it was.
        from: Address,
        /// Where it is now.
        to: Address,
        /// Its length in bytes.
        len: u64,
    },
    /// Pages were given up (`madvise(MADV_DONTNEED, MADV_REMOVE)`): what they contained is gone, and
    /// they read as zeros when next asked for.
    Remove {
        /// The first byte.
        start: Address,
        /// The first byte after them.
        end: Address,
    },
    /// A mapping was removed.
    Unmap {
        /// The first byte.
        start: Address,
        /// The first byte after it.
        end: Address,
    },
    /// Something that this version does not know.
    Unknown {
        /// The event's number.
        code: u8,
    },
}

/// A thread that is blocked on a page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Pagefault {
    /// The page's first byte, or the very byte touched with
    /// [`Features::EXACT_ADDRESS`](crate::Features::EXACT_ADDRESS).
    pub address: Address,
    /// How it was touched.
    pub flags: FaultFlags,
    /// Who did it, with [`Features::THREAD_ID`](crate::Features::THREAD_ID): a kernel worker where
    /// KVM faults asynchronously.
    pub thread: Option<Tid>,
}

/// A thread, as numbered in the pid namespace of the process that it belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tid(NonZeroU32);

impl Tid {
    /// The thread with this number; `None` for 0.
    pub const fn new(raw: u32) -> Option<Tid> {
        match NonZeroU32::new(raw) {
            Some(raw) => Some(Tid(raw)),
            None => None,
        }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for Tid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

bitflags! {
    /// How a page was touched. Without any: a page that is missing was read.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct FaultFlags: u64 {
        /// It was a write, or a request for a writable page (KVM's workers always say so).
        const WRITE = raw::UFFD_PAGEFAULT_FLAG_WRITE as u64;
        /// A write to a write-protected page.
        const WP = raw::UFFD_PAGEFAULT_FLAG_WP as u64;
        /// The page cache has the page.
        const MINOR = raw::UFFD_PAGEFAULT_FLAG_MINOR as u64;

        const _ = !0;
    }
}

/// Room for a batch of messages, used again and again.
pub struct EventBuffer {
    messages: Box<[Message]>,
}

type Message = [u8; MESSAGE_LEN];

impl EventBuffer {
    /// Room for `messages` messages, at least one.
    pub fn with_capacity(messages: usize) -> EventBuffer {
        EventBuffer {
            messages: vec![[0; MESSAGE_LEN]; messages.max(1)].into_boxed_slice(),
        }
    }
}

impl fmt::Debug for EventBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventBuffer")
            .field("capacity", &self.messages.len())
            .finish()
    }
}

/// What a read gave.
#[derive(Debug)]
pub enum Read<'b> {
    /// At least one event.
    Events(Events<'b>),
    /// None is queued.
    WouldBlock,
}

/// The events of one read, in the kernel's order: *all queued faults before any other event*
/// (`userfaultfd_ctx_read`), so a fault may stand before a removal that happened first.
///
/// Dropping it drops the events that were not taken, and closes what they brought.
pub struct Events<'b> {
    messages: core::slice::Iter<'b, Message>,
}

impl fmt::Debug for Events<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events")
            .field("left", &self.messages.len())
            .finish()
    }
}

impl Userfaultfd {
    /// Reads as many queued events as there are and `buffer` has room for, in one system call.
    ///
    /// A removal, unmap, remap or fork goes on in the served process as soon as its event is read.
    ///
    /// # Errors
    /// When the system call fails for another reason than an empty queue.
    pub fn read<'b>(&self, buffer: &'b mut EventBuffer) -> Result<Read<'b>, ReadError> {
        let bytes = buffer.messages.as_flattened_mut();
        let messages = read_messages(|| rustix::io::read(self.as_fd(), &mut *bytes))?;
        Ok(buffer.first(messages))
    }

    /// Reads like [`read`](Self::read), and has the kernel write what is read straight into
    /// `journal`, so that it is recorded when this process is killed, at any point. To be followed by
    /// [`Journal::clear`] when all events have been noted, and not to be repeated before.
    ///
    /// A descriptor that a fork brings is this process's own, and is not recorded.
    ///
    /// # Errors
    /// When the system call fails for another reason than an empty queue.
    ///
    /// # Panics
    /// When the journal is not clear: its events would be lost.
    pub fn read_recorded<'b>(
        &self,
        journal: &mut Journal,
        buffer: &'b mut EventBuffer,
    ) -> Result<Read<'b>, ReadError> {
        assert!(journal.is_clear(), "the last batch was noted");
        let (memory, offset, room) = journal.landing();
        let room = room.min(buffer.messages.as_flattened().len());
        // SAFETY: `journal` is borrowed exclusively, and references to its slots are made only
        // through it.
        let read = || unsafe { memory.read_into(self.as_fd(), offset, room) };
        let messages = read_messages(read)?;
        for (copy, message) in buffer.messages[..messages]
            .iter_mut()
            .zip(journal.messages())
        {
            *copy = message;
        }
        Ok(buffer.first(messages))
    }
}

/// How many messages a read gave; 0 when none is queued.
fn read_messages(mut read: impl FnMut() -> Result<usize, Errno>) -> Result<usize, ReadError> {
    let bytes = loop {
        match read() {
            Ok(bytes) => break bytes,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(0),
            Err(errno) => return Err(ReadError::Failed(errno)),
        }
    };
    if bytes == 0 || !bytes.is_multiple_of(MESSAGE_LEN) {
        return Err(ReadError::Torn(bytes));
    }
    Ok(bytes / MESSAGE_LEN)
}

impl EventBuffer {
    /// The first `messages` messages, which a read has just put there.
    fn first(&self, messages: usize) -> Read<'_> {
        if messages == 0 {
            return Read::WouldBlock;
        }
        Read::Events(Events {
            messages: self.messages[..messages].iter(),
        })
    }
}

impl Journal {
    /// What a reader that is gone has read and not noted, in the kernel's order. Not to be called
    /// for what this process has read itself.
    ///
    /// A fork's descriptor went with its reader: such an event is [`Event::Unknown`].
    pub fn replay(&self) -> impl Iterator<Item = Event> + '_ {
        self.messages().map(|message| match message[0] {
            code if u32::from(code) == raw::UFFD_EVENT_FORK => Event::Unknown { code },
            // SAFETY: only fork messages own anything.
            _ => unsafe { decode(&message) },
        })
    }
}

impl Iterator for Events<'_> {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let message = self.messages.next()?;
        // SAFETY: a read put the message into the buffer, and the iterator, which borrows the buffer
        // from that read on, gives each message out once.
        Some(unsafe { decode(message) })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.messages.size_hint()
    }
}

impl ExactSizeIterator for Events<'_> {}

impl Drop for Events<'_> {
    fn drop(&mut self) {
        self.for_each(drop);
    }
}

/// Decodes a message (`struct uffd_msg`).
///
/// # Safety
/// A fork message was written by the kernel for this process, and this is the only time that it is
/// decoded: it owns a descriptor. Any other bytes will do.
unsafe fn decode(message: &Message) -> Event {
    let word = |index: usize| {
        let at = MESSAGE_ARGUMENT + 8 * index;
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&message[at..at + 8]);
        u64::from_ne_bytes(bytes)
    };
    // The first half in memory, whichever end comes first.
    let half_word = |index: usize| {
        let at = MESSAGE_ARGUMENT + 8 * index;
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&message[at..at + 4]);
        u32::from_ne_bytes(bytes)
    };
    let code = message[0];
    match u32::from(code) {
        raw::UFFD_EVENT_PAGEFAULT => Event::Pagefault(Pagefault {
            flags: FaultFlags::from_bits_retain(word(0)),
            address: Address::new(word(1)),
            thread: Tid::new(half_word(2)),
        }),
        raw::UFFD_EVENT_FORK => {
            let fd = half_word(0) as i32;
            // SAFETY: a fork message brings a new descriptor (`resolve_userfault_fork`); by the
            // caller's promise it is taken once.
            Event::Fork(unsafe { abi::take_fd(fd) })
        }
        raw::UFFD_EVENT_REMAP => Event::Remap {
            from: Address::new(word(0)),
            to: Address::new(word(1)),
            len: word(2),
        },
        raw::UFFD_EVENT_REMOVE => Event::Remove {
            start: Address::new(word(0)),
            end: Address::new(word(1)),
        },
        raw::UFFD_EVENT_UNMAP => Event::Unmap {
            start: Address::new(word(0)),
            end: Address::new(word(1)),
        },
        _ => Event::Unknown { code },
    }
}
