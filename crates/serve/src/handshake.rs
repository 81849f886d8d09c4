//! What a VMM says when it connects: Firecracker's protocol, which its relatives speak, too.
//!
//! One `sendmsg` on a Unix stream socket: a JSON array of regions, and with it the userfaultfd
//! (`SCM_RIGHTS`), perhaps among other descriptors. Nothing follows; the VMM keeps its end open for
//! life.
//!
//! ```json
//! [{"base_host_virt_addr": 140000000000000, "size": 134217728, "offset": 0, "page_size": 4096}]
//! ```
//!
//! ```text
//!  connected ── bytes, descriptors ──► complete ──► parsed ──► Handshake
//!      │                                  │           │
//!      └─ hung up, too slow, too long,    └───────────┴──► Rejected, with the userfaultfd if there
//!         too many descriptors                             was one: see there
//! ```
//!
//! Liberal in what is well-formed (pieces of any length, unknown fields, either name of the page
//! size, one to three descriptors), strict in what it means: every region is whole pages, none
//! overlaps another, and no sum of theirs overflows.

mod framing;
mod parse;
mod receive;
mod send;

#[cfg(test)]
mod tests;

use core::time::Duration;

use serde::{Deserialize, Serialize};
use surefault_core::PageSize;
use surefault_uffd::host_page_size;

pub use parse::{ParseError, RegionError, parse};
pub use receive::{Handshake, ReceiveError, Rejected, receive};
pub(crate) use receive::{PAUSE_FOR_ROOM, has_descriptors, look, take_out};
pub use send::{SendError, send};

/// One region as a VMM describes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WireRegion {
    /// The address of its first byte in the VMM's memory.
    pub base_host_virt_addr: u64,
    /// Its length in bytes.
    pub size: u64,
    /// Where its first byte is in the source, in bytes.
    pub offset: u64,
    /// Bytes in a page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_size: Option<u64>,
    /// The same under its older name, in bytes in spite of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_size_kib: Option<u64>,
}

/// What a handshake may cost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HandshakeLimits {
    /// Bytes of JSON.
    pub message: usize,
    /// From the connection to the last byte.
    pub time: Duration,
    /// Regions.
    pub regions: usize,
    /// Bytes of all regions together.
    pub memory: u64,
    /// The page sizes that can be served.
    pub page_sizes: Vec<PageSize>,
}

impl Default for HandshakeLimits {
    /// 256 KiB within 5 seconds, 256 regions, 1 TiB, pages of this host's base size or 2 MiB.
    fn default() -> Self {
        let base = PageSize::new(host_page_size());
        HandshakeLimits {
            message: 256 << 10,
            time: Duration::from_secs(5),
            regions: 256,
            memory: 1 << 40,
            page_sizes: base.into_iter().chain([PageSize::MIB_2]).collect(),
        }
    }
}
