//! Trace events of the kernel, read in raw form from an instance of tracefs of our own.
//!
//! An *instance* is a set of ring buffers, one for each CPU, with its own choice of events: what
//! others trace is not disturbed, nor do they disturb us. A [`Session`] makes one, enables exactly
//! the events that were asked for, reads the buffers as the kernel wrote them (pages of binary
//! records, laid out as the events' `format` files say) and removes the instance when it is
//! dropped.
//!
//! ```text
//!             open                    drain, in order of time
//! tracefs ──► instance ──► buffers ──────────────────────────► Record {time, cpu, pid, fields}
//!                │ drop: removed
//!                └ killed: the next open removes it, when its process is gone
//! ```
//!
//! Where tracefs is not mounted it is mounted for this process alone, on no path at all
//! ([`KernelFs`]): nothing has to be unmounted, whichever way the process ends.
//!
//! | file | what is in it |
//! |---|---|
//! | `kernel_fs` | tracefs and debugfs, mounted or not |
//! | `instance` | an instance's life |
//! | [`mod@format`] | `format` and `header_page` files |
//! | [`subbuffer`] | a page of the ring buffer (pure; arbitrary bytes never panic) |
//! | `buffers` | the per-CPU files |
//! | `session` | all of it together |
//!
//! Only little-endian hosts: the ring buffer's bit fields are laid out otherwise elsewhere.

#[cfg(target_endian = "big")]
compile_error!("the layout of the ring buffer is known for little-endian hosts only");

mod buffers;
mod error;
pub mod format;
mod instance;
mod kernel_fs;
mod session;
pub mod subbuffer;

pub use error::{FormatError, Operation, TraceError};
pub use kernel_fs::{Directory, KernelFs, KernelFsKind};
pub use session::{Drained, HOLD, MAX_FIELDS, Record, Session, SessionOptions, Wanted};
