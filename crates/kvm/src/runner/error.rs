//! Why a run could not be done.

use std::io;

use surefault_core::faults::ConfigError;
use surefault_core::{Gpa, PageCount, VcpuId};
use surefault_guest::GuestTrap;
use surefault_pager::StartError;
use thiserror::Error;

use crate::crew::StuckVcpu;
use crate::linux_alone::MapError;
use crate::machine::MachineError;
use crate::memory::MemoryError;
use crate::vcpu::VcpuError;

/// A run that could not be done, or went wrong in a way that is not a page's failure.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// More pages than can be numbered, or mapped.
    #[error("{pages} pages are more than a run can have")]
    TooManyPages {
        /// How many were asked for.
        pages: PageCount,
    },
    /// Asynchronous faults from user space without a pager.
    #[error("asynchronous faults from user space need Surefault's pager")]
    NoPager,
    /// There are too many vCPUs.
    #[error("the machine of faults")]
    Faults(#[from] ConfigError),
    /// The machine could not be put together.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The memory of the demand-paged region could not be had, or not be read in the end.
    #[error("the demand-paged memory")]
    Memory(#[from] MemoryError),
    /// The source could not be mapped.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The pager did not start.
    #[error(transparent)]
    Pager(#[from] StartError),
    /// A vCPU's thread did not start.
    #[error("starting a vCPU's thread")]
    Thread(#[source] io::Error),
    /// A vCPU cannot go on.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// The guest met an exception that it cannot explain.
    #[error("the guest broke on vCPU {vcpu}: {trap}")]
    Guest {
        /// The vCPU.
        vcpu: VcpuId,
        /// The exception.
        trap: GuestTrap,
    },
    /// The guest wrote to a port that means nothing.
    #[error("the guest wrote to port {port:#x} on vCPU {vcpu}, which means nothing")]
    Port {
        /// The vCPU.
        vcpu: VcpuId,
        /// The port.
        port: u16,
    },
    /// A page failed on a host that was to say so, in a way that nobody has heard of.
    #[error("page {gpa} failed, and KVM did not say so with an error")]
    Unrefused {
        /// The page.
        gpa: Gpa,
    },
    /// A bug in Surefault.
    #[error("the machine of faults broke")]
    Broken(#[from] surefault_core::faults::Violation),
    /// A bug in Surefault.
    #[error("the machine of residency broke")]
    Pages(#[from] surefault_core::residency::Violation),
    /// A vCPU did not stop.
    #[error(transparent)]
    Stuck(#[from] StuckVcpu),
}
