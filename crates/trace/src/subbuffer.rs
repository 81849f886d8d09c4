//! One page of the kernel's ring buffer (a *sub-buffer*), as `trace_pipe_raw` gives it.
//!
//! ```text
//! timestamp of the first record │ commit: length of the data, flags │ data …
//!
//! data: a sequence of      32 bits: type_len (low 5) │ time_delta (27)
//!   type_len 0             the length stands in the next word, itself included
//!            1–28          as many words follow
//!            29            padding: to the end when time_delta is 0, else as type_len 0
//!            30            more time has passed than 27 bits hold: the next word is the rest
//!            31            the next word and time_delta are the absolute time
//! ```
//!
//! Source of the layout: `include/linux/ring_buffer.h`, `kernel/trace/ring_buffer.c`. The kernel
//! is trusted to write it so, but nothing here relies on it: arbitrary bytes decode to *some*
//! events or to none, and what does not fit is reported as [`SubBuffer::is_malformed`].

use crate::format::PageHeader;

/// Events were lost before this page's first.
const MISSED_EVENTS: u64 = 1 << 31;
/// … and how many stands behind the data.
const MISSED_STORED: u64 = 1 << 30;
/// The bits of `commit` that are the length.
const LENGTH_MASK: u64 = (1 << 27) - 1;

const TYPE_PADDING: u32 = 29;
const TYPE_TIME_EXTEND: u32 = 30;
const TYPE_TIME_STAMP: u32 = 31;
const TIME_DELTA_BITS: u32 = 27;
/// An absolute time stamp carries this many bits; the rest is that of the time before.
const TIME_STAMP_BITS: u32 = 59;

/// Events that were overwritten before they could be read.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Lost {
    /// None.
    #[default]
    Nothing,
    /// Some: the page had no room for their number.
    Some,
    /// This many.
    Count(u64),
}

/// One event: its time in nanoseconds of the instance's clock, and its record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawEvent<'a> {
    /// When it happened, in nanoseconds of the trace clock.
    pub time: u64,
    /// Its fields, as the event's `format` file lays them out.
    pub record: &'a [u8],
}

/// A page of the ring buffer, of which events are taken from the front.
#[derive(Clone, Debug)]
pub struct SubBuffer<'a> {
    rest: &'a [u8],
    time: u64,
    lost: Lost,
    malformed: bool,
}

impl<'a> SubBuffer<'a> {
    /// The page in `bytes`; `None` when they are too few for its head.
    pub fn new(header: &PageHeader, bytes: &'a [u8]) -> Option<SubBuffer<'a>> {
        let time = header.timestamp.read(bytes)?;
        let commit = header.commit.read(bytes)?;
        let data = bytes.get(header.data..)?;
        let claimed = (commit & LENGTH_MASK) as usize;
        let length = claimed.min(data.len());
        let (rest, behind) = data.split_at(length);
        let lost = if commit & MISSED_EVENTS == 0 {
            Lost::Nothing
        } else if commit & MISSED_STORED == 0 {
            Lost::Some
        } else {
            behind
                .first_chunk()
                .map_or(Lost::Some, |count| Lost::Count(u64::from_le_bytes(*count)))
        };
        Some(SubBuffer {
            rest,
            time,
            lost,
            malformed: claimed > length,
        })
    }

    /// What was lost before the first event of this page.
    pub fn lost(&self) -> Lost {
        self.lost
    }

    /// Whether something did not fit: what follows it was not decoded.
    pub fn is_malformed(&self) -> bool {
        self.malformed
    }

    /// Takes a 32-bit word from the front.
    fn word(&mut self) -> Option<u32> {
        let (word, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(u32::from_le_bytes(*word))
    }

    /// Takes `length` bytes from the front.
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    /// Takes what a length word in front of it says: the length counts the word itself.
    fn take_counted(&mut self) -> Option<&'a [u8]> {
        let length = self.word()?.checked_sub(4)?;
        self.take(length as usize)
    }

    /// One entry: an event, or nothing but time or padding.
    fn entry(&mut self) -> Option<Option<RawEvent<'a>>> {
        let head = self.word()?;
        let (kind, delta) = (head & 0x1f, u64::from(head >> 5));
        match kind {
            TYPE_PADDING if delta == 0 => {
                self.rest = &[];
                Some(None)
            }
            TYPE_PADDING => {
                self.time = self.time.wrapping_add(delta);
                self.take_counted().map(|_| None)
            }
            TYPE_TIME_EXTEND => {
                let high = u64::from(self.word()?);
                self.time = self.time.wrapping_add((high << TIME_DELTA_BITS) + delta);
                Some(None)
            }
            TYPE_TIME_STAMP => {
                let low = (u64::from(self.word()?) << TIME_DELTA_BITS) + delta;
                self.time = (self.time >> TIME_STAMP_BITS << TIME_STAMP_BITS) | low;
                Some(None)
            }
            _ => {
                self.time = self.time.wrapping_add(delta);
                let time = self.time;
                let record = match kind {
                    0 => self.take_counted(),
                    words => self.take(4 * words as usize),
                };
                record.map(|record| Some(RawEvent { time, record }))
            }
        }
    }
}

impl<'a> Iterator for SubBuffer<'a> {
    type Item = RawEvent<'a>;

    fn next(&mut self) -> Option<RawEvent<'a>> {
        while !self.rest.is_empty() {
            match self.entry() {
                Some(Some(event)) => return Some(event),
                Some(None) => {}
                None => {
                    self.malformed = true;
                    self.rest = &[];
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
