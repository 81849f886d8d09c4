//! Plays a VMM whose memory is served by somebody else, and measures who serves it how fast.
//!
//! ```text
//!   a process: the VMM                                another process: a handler
//!   memory, N faulting threads  ── uffd, regions ──►  floor | ceiling | surefault serve
//! ```
//!
//! * The **floor** is a C program (`floor.c`) that does what example handlers do: one thread, `poll`,
//!   one event, one `UFFDIO_COPY` of 4 KiB.
//! * The **ceiling** is the same program copying everything in pieces of 2 MiB, asked or not.
//!
//! The handlers take turns within each round, because times on a shared host wander: what counts is
//! the ratio within a round, and its median over the rounds.

mod contest;
mod error;
mod handler;
mod memory;
mod source;
mod spread;
mod vmm;

pub use contest::{Contest, Entrant, Row, run};
pub use error::BenchError;
pub use handler::{Handler, HandlerKind};
pub use source::Source;
pub use spread::Spread;
pub use vmm::{Order, Served, Vmm};
