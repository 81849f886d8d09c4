//! Surefault's engine: pure machines that end every page fault, with the page or with an error
//! that names it.
//!
//! Nothing in here has a clock, a thread, a lock, I/O, logging or randomness. Inputs go in through
//! `handle_*` methods, effects come out of `poll_*` methods, and a *driver* (the pager, the
//! simulator, the model checker) turns effects into reality and tells the machine what came of
//! them.
//!
//! | room | what is in it |
//! |---|---|
//! | [`addr`] | newtypes for addresses, page numbers, identities |
//! | [`cause`] | why a page could not be provided |
//! | [`report`] | what the VMM is told about a fault that failed |
//! | [`faults`] | the machine of vCPUs: how a fault is taken, announced, served, ends |
//! | [`plan`] | the fault plan: which page fails how, as pure data |
//! | [`policy`] | what is done about the error of an asynchronous fault |
//! | [`residency`] | the machine of pages: fetch, retry, deadline, install |
//! | [`run`] | what is asked of a machine, real or simulated, and what came of it |
//! | [`workload`] | what the tasks of a run touch, and what they must read |
#![forbid(unsafe_code)]

pub mod addr;
pub mod cause;
mod clone_in_place;
pub mod faults;
pub mod plan;
pub mod policy;
pub mod report;
pub mod residency;
pub mod run;
pub mod workload;

pub use addr::{
    Gfn, Gpa, Gva, Hva, PageCount, PageId, PageIndex, PageSize, RegionId, SlotId, Token, VcpuId,
};
pub use cause::{Cause, CauseId, CauseKind, Failure, Persistence};
pub use report::{Access, FaultReport};
