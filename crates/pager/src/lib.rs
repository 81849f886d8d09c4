//! Serves userfaults from a store: event loop, fetch pool, gate, install.
//!
//! The driver that turns the effects of [`surefault_core::residency`] into reads, ioctls and
//! wake-ups: for memory of this process ([`Pager::start`]), or of another that hands over its
//! userfaultfd ([`Pager::attach`]). Which page is fetched, retried, failed or may
//! still be installed is decided there; here is how.
//!
//! ```text
//!  thread touches page ─► userfaultfd ─► event loop ─demand─► Residency ─Fetch─► store
//!                                          (gate, exclusive)     │ ▲                │
//!                     woken ◄─ COPY, POISON ◄── Install, Mark ───┘ └─── fetched ────┘
//!                                          (gate, shared)
//! ```
//!
//! * **No lock through I/O.** The machine's lock is held for single inputs; reads and ioctls happen
//!   outside it.
//! * **The gate.** Reading events and noting them is one critical section that holds the gate
//!   exclusively; installs hold it shared and ask the machine inside it whether they are still
//!   wanted. So no install that was decided before a removal lands after it.
//! * **Deadlines depend on no thread.** A read that is overdue is abandoned; its thread is replaced
//!   up to the limit of outstanding fetches, and what it brings in the end is dropped.
//! * **A page that can be had without waiting** ([`Store::read_now`]) is served by the event loop
//!   itself, without a thread hop.
//! * **Looking or sleeping.** Between faults the event loop looks for the next one for a while, or
//!   sleeps at once: whichever turns out to be faster.
//! * **Prefetch** ([`Prefetch`]) follows the demands, a chunk at a time and after them: what it brings
//!   has no deadline, and fails nobody.
//! * **Death is survived**, where records are kept ([`Pager::attach_recorded`]): what was read, intended
//!   and done is in memory that outlives the process, in an order that is right after any of these.
//! * A panic in a store fails that fetch and nothing else.
//!
//! [`Store::read_now`]: surefault_store::Store::read_now

mod attach;
mod attendant;
mod buffer;
mod causes;
mod config;
mod drive;
mod error;
mod event_loop;
mod foreign;
mod install;
mod latency;
mod mark;
mod observer;
mod pager;
mod patience;
mod pool;
mod prefetch;
mod records;
mod regions;
mod shared;
mod spin;
mod stats;
mod timers;

pub use attendant::Attendant;
pub use config::{FailedPage, PagerConfig};
pub use error::{DiscardError, StartError};
pub use foreign::kernel_poisons;
pub use latency::Latencies;
pub use observer::{Blocked, FaultObserver};
pub use pager::{PageVerdict, Pager};
pub use prefetch::{MAX_AROUND, ParsePrefetchError, Prefetch};
pub use records::{Point, Records};
pub use regions::ServedRegion;
pub use stats::PagerStats;
