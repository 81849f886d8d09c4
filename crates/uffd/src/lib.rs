//! A thin, safe layer over Linux's userfaultfd: the memory of a process, page by page, on demand.
//!
//! ```text
//!            register (unsafe)
//!  mapping ───────────────────► absent page ──touch──► fault queued, toucher blocked
//!                                  ▲                        │ read: Event::Pagefault
//!   Event::Remove (madvise, hole)  │                        ▼
//!  present page ◄──────────────────┼── copy, zeropage, continue_pages ── woken: the access goes on
//!                                  └── poison ─────────────────────────── woken: SIGBUS
//! ```
//!
//! A blocked toucher is left in that state by an install, a poison, a wake (which makes it look
//! again), a signal, or the end of the registration, and by nothing else: a page that nobody
//! answers hangs its toucher for ever.
//!
//! | file | what is in it |
//! |---|---|
//! | `abi` | numbers and layouts, checked at compile time; the one place that calls `ioctl` |
//! | [`Features`], [`Ioctls`] | what a kernel can do |
//! | [`PageRange`] | whole pages of the served process |
//! | [`Userfaultfd`] | creation, registration, installs, wake-ups, reads |
//! | [`Outcome`] | what came of an install: the normal ways to be refused are values |
//! | [`Event`] | what was read |
//! | [`PageMap`], [`Journal`] | what a successor finds when the process that serves is killed |
//!
//! # What is unsafe, and why
//!
//! *Registering* is the one unsafe act. Its caller promises that nothing relies on what the absent
//! pages of the range contain. All else follows from that promise: no install ever touches a page
//! that is present (`EEXIST`), the kernel refuses ranges that are not registered (`ENOENT`), and
//! even closing the descriptor only settles what absent pages contain (zeros).

mod abi;
mod create;
mod error;
mod event;
mod features;
mod handle;
mod journal;
mod ops;
mod page_map;
mod range;
mod shared_memory;

pub use create::{CreateError, KernelFaults, Options};
pub use error::{FromFdError, OperationError, OperationName, ReadError};
pub use event::{Event, EventBuffer, Events, FaultFlags, Pagefault, Read, Tid};
pub use features::{Features, Ioctls};
pub use handle::{RegisterMode, Userfaultfd};
pub use journal::Journal;
pub use ops::{Outcome, Protect, Wake};
pub use page_map::{MapError, MapIndex, PageMap, RecordedState};
pub use range::{Address, PageRange, RangeError, host_page_size};
