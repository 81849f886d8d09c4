//! VMs, vCPU loops and page-fault reports on `/dev/kvm`.
//!
//! ```text
//!  runner ── crew: a thread each ──► Vcpu::run ──► KVM_RUN
//!    │                                  │             │ SIGBUS, EFAULT, MMIO in a slot
//!    │                                  ▼             ▼
//!    │                            PageSource::demand(page)       pager, or Linux alone
//!    │                                  │ its state
//!    │                                  ▼
//!    │                            watch: the machine of faults judges
//!    │                                  │ report
//!    │                                  ▼
//!    │                            footprint of the instruction at RIP ──► access
//!    ▼                                  │
//!  check: sums, stamps  ◄── stop ── FaultReport ── heal ──► run on
//! ```
//!
//! | file | what is in it |
//! |---|---|
//! | [`runner`] | a whole run, from its specification to its result |
//! | [`probe`] | what this host can do, asked and tried out |
//! | `crew` | the vCPUs' threads |
//! | [`machine`] | the built-in guest put together; [`check`]: what it read, held to the source |
//! | [`watch`] | what a VM's vCPUs share: the machine of faults, which judges what they see |
//! | [`apf`] | asynchronous faults from user space, under any policy |
//! | [`vcpu`] | one vCPU, whose every fault ends; `mmio`: accesses that an exit left half done |
//! | [`decode`], `footprint`, `cpu` | from registers to the pages that an instruction touches |
//! | [`mce`] | machine checks, which tell a guest of a page that is lost |
//! | [`signals`] | SIGBUS and the kick |
//! | [`interrupts`] | interrupts, where the controllers are not in KVM |
//! | [`stats`] | what KVM counts |
//! | [`vm`], [`boot`], [`abi`], [`memory`] | what KVM is told |
//! | [`pages`], [`linux_alone`] | who provides pages |
//!
//! The application installs the signal handlers ([`signals::install`]) and passes the proof along.
//!
//! # What is unsafe, and why
//!
//! Signal handlers work on what they interrupt; a memory slot and a pager are given addresses; an
//! MMIO exit is answered in a union. Guest memory is read and written through the kernel alone, so
//! no reference points into it.

pub mod abi;
pub mod apf;
pub mod boot;
mod broadcast;
pub mod check;
mod cpu;
mod crew;
pub mod decode;
mod footprint;
pub mod interrupts;
pub mod linux_alone;
pub mod machine;
pub mod mce;
pub mod memory;
mod mmio;
pub mod pages;
pub mod probe;
pub mod runner;
pub mod signals;
pub mod stats;
pub mod vcpu;
pub mod vm;
pub mod watch;
