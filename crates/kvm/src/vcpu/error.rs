//! Why a vCPU cannot go on.

use std::io;

use surefault_core::{Gpa, Gva, Hva, VcpuId};
use thiserror::Error;

use crate::boot::BootError;
use crate::memory::MemoryError;
use crate::vm::VmError;

/// A vCPU that cannot go on, through no fault of a page.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VcpuError {
    /// It could not be made.
    #[error(transparent)]
    Create(#[from] VmError),
    /// It would not take its first registers.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// KVM would not run it.
    #[error("running vCPU {vcpu}")]
    Run {
        /// The vCPU.
        vcpu: VcpuId,
        /// Why not.
        source: kvm_ioctls::Error,
    },
    /// KVM would not show its registers.
    #[error("reading the registers of vCPU {vcpu}")]
    Registers {
        /// The vCPU.
        vcpu: VcpuId,
        /// Why not.
        source: kvm_ioctls::Error,
    },
    /// KVM would not take an interrupt for it.
    #[error("interrupting vCPU {vcpu}")]
    Interrupt {
        /// The vCPU.
        vcpu: VcpuId,
        /// Why not.
        source: io::Error,
    },
    /// KVM would not take a machine check for it.
    #[error("giving vCPU {vcpu} a machine check")]
    MachineCheck {
        /// The vCPU.
        vcpu: VcpuId,
        /// Why not.
        source: io::Error,
    },
    /// "Bad address", and no page that the instruction touches has failed.
    #[error("vCPU {vcpu} met a bad address at rip {rip}, on no page that is known to have failed")]
    BadAddress {
        /// The vCPU.
        vcpu: VcpuId,
        /// The instruction.
        rip: Gva,
    },
    /// A page failed that nobody provides.
    #[error("vCPU {vcpu} lost memory that is not provided on demand, at host address {hva}")]
    Lost {
        /// The vCPU.
        vcpu: VcpuId,
        /// The memory.
        hva: Hva,
    },
    /// It touched guest-physical memory that there is not.
    #[error("vCPU {vcpu} touched {gpa}, where there is neither memory nor a device")]
    NoMemory {
        /// The vCPU.
        vcpu: VcpuId,
        /// The address.
        gpa: Gpa,
    },
    /// The same access was made again and again, although its page is said to be there.
    #[error("vCPU {vcpu} got no further than rip {rip}: page {gpa} is neither there nor failed")]
    NoProgress {
        /// The vCPU.
        vcpu: VcpuId,
        /// The page.
        gpa: Gpa,
        /// The instruction.
        rip: Gva,
    },
    /// An access that an exit left half done could not be done.
    #[error("vCPU {vcpu} cannot finish its access to {gpa}")]
    Unfinished {
        /// The vCPU.
        vcpu: VcpuId,
        /// The address.
        gpa: Gpa,
        /// Why not.
        source: MemoryError,
    },
    /// An exit that nobody here knows how to handle: a triple fault (`Shutdown`), an instruction
    /// that KVM cannot emulate (`InternalError`), and so on.
    #[error("vCPU {vcpu} stopped with an unexpected exit at rip {rip}: {exit}")]
    Unexpected {
        /// The vCPU.
        vcpu: VcpuId,
        /// The instruction.
        rip: Gva,
        /// The exit, in KVM's words.
        exit: String,
    },
}
