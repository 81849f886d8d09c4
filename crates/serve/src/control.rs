//! The control socket: one JSON object a line, each answered by one.
//!
//! ```text
//! → {"command": "add", "socket": "/run/a.sock", "store": "/snap/a/mem"}
//! ← {"reply": "done"}
//! → {"command": "events"}
//! ← {"reply": "done"}
//! ← {"event": "vm-started", …}        and so on, until somebody hangs up
//! ```

mod client;
mod server;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use client::{ControlClient, ControlError};
pub(crate) use server::serve_client;

use crate::event::VmId;

/// What the daemon can be told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Request {
    /// Listen at another socket.
    Add {
        /// The socket.
        socket: PathBuf,
        /// What its VMs are served from.
        store: String,
    },
    /// Listen at a socket no more. Its VMs are served on.
    Remove {
        /// The socket.
        socket: PathBuf,
    },
    /// Say what there is.
    List {},
    /// The source was repaired: try failed pages afresh.
    Heal {
        /// Of this VM.
        vm: VmId,
        /// These; all if there are none.
        #[serde(default)]
        pages: Vec<Pages>,
    },
    /// Go on with another program, without letting go of a VM.
    Upgrade {
        /// The program; the same as before if there is none.
        #[serde(default)]
        binary: Option<PathBuf>,
    },
    /// Go on, having stopped at a page that failed. Of a run (`surefault run --control`), not of the
    /// daemon, whose VMs it does not run.
    Resume {
        /// The page has been repaired.
        #[serde(default)]
        repaired: bool,
    },
    /// Say what happens from now on.
    Events {},
}

/// Pages of a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pages {
    /// The region, counted from 0.
    #[serde(default)]
    pub region: u16,
    /// The first page.
    pub first: u32,
    /// The last.
    pub last: u32,
}

/// What the daemon answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Reply {
    /// As told.
    Done,
    /// What there is.
    Listed {
        /// Sockets.
        listeners: Vec<ListenerInfo>,
        /// VMs.
        vms: Vec<VmInfo>,
    },
    /// Failed pages are tried afresh.
    Healed {
        /// How many had failed.
        pages: u64,
    },
    /// It was not done.
    Error {
        /// Why.
        reason: String,
    },
}

/// A socket that VMs can connect to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ListenerInfo {
    /// The socket.
    pub socket: PathBuf,
    /// What its VMs are served from.
    pub store: String,
}

/// A VM that is served.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VmInfo {
    /// Its number.
    pub vm: VmId,
    /// Its process.
    pub pid: u32,
    /// The socket that it came from.
    pub socket: PathBuf,
    /// What it is served from.
    pub store: String,
    /// Bytes of its regions.
    pub bytes: u64,
    /// Its pages that are present.
    pub present: u64,
    /// Those that somebody waits for, or that are read ahead.
    pub pending: u64,
    /// Those that have failed.
    pub failed: u64,
    /// Page faults so far.
    pub faults: u64,
}
