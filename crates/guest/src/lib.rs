//! The built-in guest: a small kernel and its tasks, assembled with this crate and laid out as the
//! contents of a guest's memory.
//!
//! The guest is real where it matters to page faults: tasks in ring 3, a scheduler in ring 0, async
//! page faults taken as Linux takes them. It is small everywhere else, so that what a fault costs
//! is the host's doing. An asynchronous fault is forty plain instructions of ring 0 (some hosts emulate
//! each of them); ring 3 is native everywhere and does the work.
//!
//! ```text
//!          int3: yield              #PF: page not present (token)
//!   ┌────────────────────┐  ┌───────────────────────────────────────┐
//!   ▼                    │  │                                       ▼
//! queued ──schedule──► running ──int3: done──► ended      parked with its token
//!   ▲                                                               │
//!   └──────────────── interrupt: page ready (token, or all) ────────┘
//! ```
//!
//! Scheduling is round robin: a task runs until it yields or waits for a page, and one whose page is ready
//! goes to the end of the queue; a yield stands for the end of a time slice. Each vCPU has one more task,
//! which never faults: it counts, and yields after as long as the others do. It has its turn among them,
//! and all the time that they leave: when it runs because no other can, the first whose page is ready
//! preempts it. So its count says how much of the vCPU a task gets that has nothing to do with the faults.
//!
//! A task leaves *parked* by the ready interrupt alone; a machine check ends the running task. What
//! the guest cannot explain is handed to the VMM ([`abi::PORT_TRAP`]), and a vCPU whose tasks have
//! all ended says so ([`abi::PORT_DONE`]).
//!
//! | file | what is in it |
//! |---|---|
//! | `asm/*.s` | the guest itself |
//! | [`abi`] | what it shares with the VMM |
//! | [`layout`] | the contents of its memory |
//! | [`view`] | what it says of itself |

pub mod abi;
mod image;
pub mod layout;
mod memory;
mod tables;
pub mod view;

pub use layout::{Apic, GuestApf, GuestSpec, Idle, Layout, LayoutError, VcpuStart};
pub use tables::DescriptorTable;
pub use view::{GuestTrap, TaskProgress, VcpuView};
