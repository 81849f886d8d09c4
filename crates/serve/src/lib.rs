//! The page-fault daemon: serves the memory of microVMs that another process runs.
//!
//! A VMM (Firecracker and its relatives) connects to a Unix socket and hands over a userfaultfd and
//! what lies where in its memory ([`handshake`]). From then on its page faults are served here, by a
//! [`Pager`](surefault_pager::Pager) for each VM; which socket it connected to says from what.
//!
//! | file | what is in it |
//! |---|---|
//! | [`handshake`] | what a VMM says when it connects, both sides of it |
//! | `peer` | who connected, and how to tell that they are gone |
//! | `source` | what a VM is served from, opened at its first fault |
//! | `keeper` | one VM's life, in a thread of its own |
//! | `turn_away` | who is not served |
//! | `vm` | what is known of a VM, and who hears of its failed pages |
//! | `listener`, `accept`, `daemon` | the sockets; who connects; all VMs together, drain and stop |
//! | `asked` | connections that the supervisor accepts |
//! | [`event`], [`control`] | what happened, and what the daemon can be told |
//! | `metrics`, `sandbox` | its numbers; the system calls it may make |
//! | `sockopt`, `spare` | socket options; a descriptor for when there is room for no other |
//! | `supervisor` | the process that holds duplicates of everything, and starts workers |
//! | `handover`, `resume` | a worker's side of it: what is given to be kept; going on with a VM |
//! | `death` | for tests: a worker's death at a given moment |
//! | [`demo`] | a client that plays the VMM, for trying and testing |
//!
//! **Nothing is closed while a page is absent** and its process lives: the page would read as zeros.
//! A VM whose handshake is refused after its userfaultfd came is killed first, and so are VMs that
//! lack pages when the daemon must end at once.

pub mod control;
pub mod demo;
pub mod event;
pub mod handshake;

mod accept;
mod asked;
mod config;
mod daemon;
mod death;
mod handover;
mod keeper;
mod listener;
mod metrics;
mod peer;
mod resume;
mod sandbox;
mod sockopt;
mod source;
mod spare;
mod supervisor;
mod turn_away;
mod vm;
mod wakeup;

pub use config::ServeConfig;
pub use daemon::{Daemon, Sources};
pub use handover::Supervised;
pub use listener::ListenError;
pub use peer::{Peer, PeerError};
pub use sandbox::{SandboxError, enter as enter_sandbox};
pub use source::{FileSource, Source};
pub use supervisor::{Supervisor, SupervisorConfig};
pub use vm::VmRecord;
