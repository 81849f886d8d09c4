//! KVM's trace events about async page faults.
//!
//! One turn of the loop, and of a healthy fault, as Linux tells it:
//!
//! ```text
//! vCPU     kvm_try_async_get_page (gva, gfn)     the page is not there: asked for
//! vCPU     kvm_async_pf_not_present (token, gva) the guest is told, or halted
//! kworker  kvm_async_pf_completed (hva, gva)     the attempt is over, whatever came of it
//! vCPU     kvm_async_pf_ready (token, gva)       the guest may try again
//! ```
//!
//! `gva` is the fault's address: guest-virtual under shadow paging, guest-physical under
//! two-dimensional paging. A page that is asked for while its work item is queued gives
//! `kvm_try_async_get_page` alone (and a "repeated fault"), without a ready of its own.

use surefault_core::{Gfn, Gva, Hva, Token};
use surefault_trace::{Record, Wanted};

use crate::ids::{Moment, Tid};

/// One of KVM's events about async page faults.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AsyncFault {
    /// A vCPU asks for a page that is not there.
    Asked {
        /// The fault's address.
        gva: Gva,
        /// The page.
        gfn: Gfn,
    },
    /// A work item is queued for the page that the same thread asked for last.
    NotPresent {
        /// The work item.
        token: Token,
        /// The fault's address.
        gva: Gva,
    },
    /// A kernel thread has tried to get the page.
    Completed {
        /// The page's address in the process.
        hva: Hva,
        /// The fault's address.
        gva: Gva,
    },
    /// A vCPU is told that it may try again.
    Ready {
        /// The work item.
        token: Token,
        /// The fault's address.
        gva: Gva,
    },
}

/// An event, when it happened, and the thread that ran.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Observed {
    /// When.
    pub at: Moment,
    /// The vCPU's thread, but a kernel thread for [`AsyncFault::Completed`].
    pub thread: Tid,
    /// What.
    pub fault: AsyncFault,
}

const fn wanted(event: &'static str, fields: &'static [&'static str]) -> Wanted {
    Wanted {
        system: "kvm",
        event,
        fields,
        required: true,
    }
}

/// What is traced. The order is that of [`observed`].
pub const EVENTS: [Wanted; 4] = [
    wanted("kvm_try_async_get_page", &["gva", "gfn"]),
    wanted("kvm_async_pf_not_present", &["token", "gva"]),
    wanted("kvm_async_pf_completed", &["address", "gva"]),
    wanted("kvm_async_pf_ready", &["token", "gva"]),
];

/// What a record of [`EVENTS`] says; `None` for any other.
pub fn observed(record: &Record) -> Option<Observed> {
    let [first, second, _] = record.fields;
    let fault = match record.event {
        0 => AsyncFault::Asked {
            gva: Gva::new(first),
            gfn: Gfn::new(second),
        },
        1 => AsyncFault::NotPresent {
            token: Token::new(first as u32),
            gva: Gva::new(second),
        },
        2 => AsyncFault::Completed {
            hva: Hva::new(first),
            gva: Gva::new(second),
        },
        3 => AsyncFault::Ready {
            token: Token::new(first as u32),
            gva: Gva::new(second),
        },
        _ => return None,
    };
    Some(Observed {
        at: Moment::from_nanos(record.time),
        thread: Tid::new(record.tid as u32),
        fault,
    })
}
