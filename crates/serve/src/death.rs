//! For tests: the death of a worker or supervisor at a given moment of its work.
//!
//! `SUREFAULT_DIE_AT=POINT:N` in its environment has a process killed the Nth time that it reaches the
//! point; `panic:POINT:N` has the thread panic there. A point is one of the pager's
//! ([`Point`](surefault_pager::Point)) or of a handshake.

use std::fmt::Debug;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Signal, getpid, kill_process};

/// A moment of a handshake after which a death would be told from a death before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum HandshakePoint {
    /// The supervisor was asked to accept a connection, and has not answered.
    Asked,
    /// The supervisor holds the connection, and has not answered. The supervisor dies.
    Held,
    /// It has answered.
    Accepted,
    /// A piece of the handshake was looked at.
    Looked,
    /// The VM is kept, and nobody serves it.
    Kept,
    /// The VM is served, and its handshake still waits in its connection.
    Served,
}

struct Death {
    panics: bool,
    point: String,
    left: AtomicU64,
}

/// Dies here if a test wants it.
pub(crate) fn die_at(point: &dyn Debug) {
    static DEATH: OnceLock<Option<Death>> = OnceLock::new();
    let Some(death) = DEATH.get_or_init(death) else {
        return;
    };
    let is_there = format!("{point:?}").eq_ignore_ascii_case(&death.point);
    if is_there && death.left.fetch_sub(1, Ordering::SeqCst) == 1 {
        assert!(!death.panics, "a test wants it");
        let _ = kill_process(getpid(), Signal::KILL);
    }
}

fn death() -> Option<Death> {
    let spec = std::env::var("SUREFAULT_DIE_AT").ok()?;
    let without = spec.strip_prefix("panic:");
    let (point, nth) = without.unwrap_or(&spec).split_once(':')?;
    Some(Death {
        panics: without.is_some(),
        point: point.to_owned(),
        left: AtomicU64::new(nth.parse().ok()?),
    })
}
