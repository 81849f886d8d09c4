//! Finds virtual machines that are stuck in a page fault, and says why: any KVM process of the
//! host, from outside, without touching it.
//!
//! Two kinds of trouble, two ways to see it:
//!
//! * **Stuck**: when the host cannot provide a page, KVM's async page faults retry for ever. The
//!   vCPU burns a core; nothing fails, nothing is logged. Seen in KVM's trace events: one page is
//!   asked for again and again after "ready" ([`turns`]), and is never there ([`suspicion`]).
//! * **Frozen**: a thread waits for a page that nobody brings: a userfaultfd whose handler has
//!   died, a device that does not answer. Seen in `/proc`: the same sleep in the same place
//!   ([`frozen`]). Needs no tracing.
//!
//! ```text
//! trace events ──► turns ──► suspicion ──stuck──┐
//!                  (pure)     (looks at pagemap) ├─► diagnose ──► Case ──► report, metrics, hook
//! /proc ─────────► frozen ──────────────frozen──┘   (maps, file, userfaultfds)
//! ```
//!
//! | a case | ends when |
//! |---|---|
//! | stuck | the page is not asked for again for a while (it came, or the machine is gone) |
//! | frozen | the thread is seen elsewhere, or not at all |
//!
//! The application drives a [`Watcher`] by [`step`](Watcher::step), hears what began and what
//! ended, and shows [`Snapshot`]s; this crate has no threads of its own (but for a read of a file
//! that may never end), no server, no handler of signals.

mod abilities;
pub mod case;
pub mod cause;
pub mod diagnose;
pub mod error;
pub mod events;
pub mod frozen;
mod frozen_case;
pub mod hook;
pub mod ids;
pub mod metrics;
pub mod proc;
mod rates;
pub mod report;
mod scan;
pub mod suspicion;
pub mod turns;
pub mod watcher;

pub use case::{Case, Frozen, Stuck};
pub use cause::{Cause, CauseKind};
pub use error::{Lack, WatchError};
pub use hook::Hook;
pub use ids::{Pid, Tid};
pub use report::{Snapshot, Stats};
pub use watcher::{Change, Options, Watcher};
