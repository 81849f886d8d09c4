//! What the daemon is told.

use core::time::Duration;
use std::path::PathBuf;

use surefault_core::residency::ResidencyConfig;
use surefault_pager::{PagerConfig, Prefetch};

use crate::handshake::HandshakeLimits;

/// How the daemon serves, and whom.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// What a handshake may cost.
    pub handshake: HandshakeLimits,
    /// How each VM is served. `max_pending` limits its outstanding faults, and `max_fetches` the
    /// threads that read for it.
    pub pager: PagerConfig,
    /// Users who may connect, besides this process's own and root.
    pub allow_uids: Vec<u32>,
    /// VMs at a time, handshakes included. Others wait in the sockets' queues.
    pub max_vms: usize,
    /// The control socket.
    pub control: Option<PathBuf>,
}

impl Default for ServeConfig {
    fn default() -> Self {
        let pager = PagerConfig::default();
        ServeConfig {
            handshake: HandshakeLimits::default(),
            pager: PagerConfig {
                residency: ResidencyConfig {
                    max_fetches: 16,
                    max_pending: 1024,
                    ..pager.residency
                },
                prefetch: Prefetch::Sequential,
                ..pager
            },
            allow_uids: Vec::new(),
            max_vms: 1024,
            control: None,
        }
    }
}

impl ServeConfig {
    /// From an event to its outcome, while the source is waited for.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> ServeConfig {
        let limits = &mut self.pager.residency;
        limits.deadline = deadline;
        // A page that is fetched with others leaves itself as much time alone.
        limits.range_patience = deadline / 2;
        self
    }
}
