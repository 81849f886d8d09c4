//! Which pages to fetch before somebody wants them: a pure policy over the pages that were demanded.
//!
//! ```text
//!   demanded ─► streams ─► planned ranges ─ a chunk at a time, when no demand waits ─► Residency
//! ```
//!
//! The driver tells every demand, serves it, and only then takes the next chunk, so that a demand
//! never waits for more than one chunk. What becomes of a prefetched page is residency's matter: it
//! has no deadline, and one that cannot be had is absent again.
//!
//! **Sequential.** Two demands for neighbours, upwards, make a stream. Its window begins with
//! [`FIRST_WINDOW`] pages and doubles each time that the demands reach its end, or its second half
//! while it is still on its way, up to 2 MiB: what a stream that ends early has fetched in vain is
//! at most as much as it has used, and [`FIRST_WINDOW`]. Several streams are followed at a time;
//! among demands without an order none is ever found, and nothing is fetched in vain.

#[cfg(test)]
mod tests;

use core::fmt;
use core::num::NonZeroU32;
use core::str::FromStr;

use surefault_core::{PageId, PageIndex, PageSize};
use thiserror::Error;

/// What is fetched before somebody wants it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Prefetch {
    /// Nothing.
    None,
    /// With each page the block of so many pages that it lies in; blocks begin at multiples of their
    /// size.
    Around(NonZeroU32),
    /// What follows, where pages are demanded one after the other.
    Sequential,
}

/// What is wrong with a prefetch in words.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error(
    "'{word}' is no prefetch: expected none, sequential, or around=N with N from 1 to {MAX_AROUND}"
)]
pub struct ParsePrefetchError {
    word: String,
}

/// The largest block of [`Prefetch::Around`], in pages.
pub const MAX_AROUND: u32 = 65_536;

impl FromStr for Prefetch {
    type Err = ParsePrefetchError;

    fn from_str(word: &str) -> Result<Prefetch, ParsePrefetchError> {
        let around = |n: &str| {
            let n = n.parse().ok()?;
            NonZeroU32::new(n).filter(|n| n.get() <= MAX_AROUND)
        };
        let parsed = match word.split_once('=') {
            None if word == "none" => Some(Prefetch::None),
            None if word == "sequential" => Some(Prefetch::Sequential),
            Some(("around", n)) => around(n).map(Prefetch::Around),
            Some(_) | None => None,
        };
        parsed.ok_or_else(|| ParsePrefetchError {
            word: word.to_owned(),
        })
    }
}

impl fmt::Display for Prefetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Prefetch::None => f.write_str("none"),
            Prefetch::Around(pages) => write!(f, "around={pages}"),
            Prefetch::Sequential => f.write_str("sequential"),
        }
    }
}

/// The first window of a stream, in pages.
const FIRST_WINDOW: u32 = 8;

/// The largest window of a stream, in bytes.
const MAX_WINDOW_BYTES: u64 = 2 << 20;

/// Streams that are followed at a time, and blocks that are planned.
const MAX_STREAMS: usize = 16;

/// Demands seen that may belong together, and what is planned for them.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Stream {
    /// The page demanded last that moved it.
    last: PageId,
    /// The first page after what was planned: where it is expected next.
    end: PageId,
    /// How many pages were planned last; 0 before it is a stream.
    window: u32,
    /// The first planned page that was not given out.
    next: PageId,
}

impl Stream {
    fn planned(&self) -> u32 {
        self.end.index().get() - self.next.index().get()
    }

    /// Whether a demand for `page` is what was expected of it, so that it may go on.
    fn reaches(&self, page: PageId) -> bool {
        let (at, end) = (page.index().get(), self.end.index().get());
        page.region() == self.end.region() && at <= end && at.saturating_add(self.window / 2) >= end
    }

    /// Whether `page` is on its way.
    fn covers(&self, page: PageId) -> bool {
        page > self.last && page < self.end
    }
}

/// The policy's memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Prefetcher {
    prefetch: Prefetch,
    /// The one that moved last is the first.
    streams: Vec<Stream>,
}

impl Prefetcher {
    pub(crate) fn new(prefetch: Prefetch) -> Prefetcher {
        Prefetcher {
            prefetch,
            streams: Vec::with_capacity(MAX_STREAMS),
        }
    }

    /// `page`, of a region in which `left` pages follow it, was demanded.
    pub(crate) fn demanded(&mut self, page: PageId, left: u64, page_size: PageSize) {
        match self.prefetch {
            Prefetch::None => {}
            Prefetch::Around(pages) => {
                let at = page.index().get();
                let first = at - at % pages.get();
                let after = (pages.get() - (at - first) - 1).min(saturate(left));
                let page_at = |n| PageId::new(page.region(), PageIndex::new(n));
                self.push(Stream {
                    last: page,
                    end: page_at(at + after + 1),
                    window: 0,
                    next: page_at(first),
                });
            }
            Prefetch::Sequential => self.follow(page, left, page_size),
        }
    }

    fn follow(&mut self, page: PageId, left: u64, page_size: PageSize) {
        let Some(after) = page.checked_add(1) else {
            return;
        };
        let Some(at) = self.streams.iter().position(|s| s.reaches(page)) else {
            match self.streams.iter_mut().find(|s| s.covers(page)) {
                // Whoever sweeps has overtaken what was planned before it.
                Some(stream) => stream.next = stream.next.max(after),
                None => self.push(Stream {
                    last: page,
                    end: after,
                    window: 0,
                    next: after,
                }),
            }
            return;
        };
        let mut stream = self.streams.remove(at);
        let max_window = saturate(MAX_WINDOW_BYTES >> page_size.shift()).max(1);
        stream.window = (stream.window * 2).max(FIRST_WINDOW).min(max_window);
        stream.last = page;
        stream.next = stream.next.max(after);
        let end = stream.end.max(after);
        let room = saturate(left) - (end.index().get() - after.index().get());
        let end = end.checked_add(stream.window.min(room));
        stream.end = end.expect("a page of the region, or the one after its last");
        self.push(stream);
    }

    fn push(&mut self, stream: Stream) {
        self.streams.truncate(MAX_STREAMS - 1);
        self.streams.insert(0, stream);
    }

    /// Whether something is planned that was not given out.
    pub(crate) fn has_planned(&self) -> bool {
        self.streams.iter().any(|stream| stream.planned() > 0)
    }

    /// The next pages to prefetch, at most `most` of them; what was demanded last comes first.
    pub(crate) fn next_chunk(&mut self, most: u32) -> Option<(PageId, u32)> {
        let stream = self
            .streams
            .iter_mut()
            .find(|stream| stream.planned() > 0)?;
        let (first, count) = (stream.next, stream.planned().min(most));
        stream.next = first.checked_add(count)?;
        Some((first, count))
    }
}

fn saturate(pages: u64) -> u32 {
    u32::try_from(pages).unwrap_or(u32::MAX)
}
