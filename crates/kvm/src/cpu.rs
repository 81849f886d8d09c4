//! A vCPU that stands still, looked at: its registers, its mode, its view of memory.

use kvm_ioctls::VcpuFd;
use surefault_core::{Gpa, Gva};

use crate::decode::{Mode, Registers};
use crate::footprint::{self, Footprint, GuestView};
use crate::vm::Slot;

/// The registers of a vCPU that is not running.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpu {
    registers: Registers,
    mode: Mode,
}

impl Cpu {
    /// Reads the registers of `vcpu`.
    pub(crate) fn of(vcpu: &VcpuFd) -> Result<Cpu, kvm_ioctls::Error> {
        let regs = vcpu.get_regs()?;
        let sregs = vcpu.get_sregs()?;
        let general = [
            regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi,
            regs.r8, regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
        ];
        let segments = [sregs.es, sregs.cs, sregs.ss, sregs.ds, sregs.fs, sregs.gs];
        Ok(Cpu {
            registers: Registers {
                general,
                rip: regs.rip,
                segment_bases: segments.map(|segment| segment.base),
            },
            mode: match (sregs.cs.l, sregs.cs.db) {
                (1, _) => Mode::Bits64,
                (_, 1) => Mode::Bits32,
                _ => Mode::Bits16,
            },
        })
    }

    /// The instruction's address, as the guest says it.
    pub(crate) fn rip(&self) -> Gva {
        Gva::new(self.registers.rip)
    }

    /// What the instruction touches.
    pub(crate) fn footprint(&self, vcpu: &VcpuFd, slots: &[Slot]) -> Footprint {
        Footprint::of(&View { vcpu, slots }, &self.registers, self.mode)
    }

    /// The address of the instruction before RIP that has just written `len` bytes at `gpa`.
    pub(crate) fn writer_before_rip(
        &self,
        vcpu: &VcpuFd,
        slots: &[Slot],
        gpa: Gpa,
        len: u64,
    ) -> Option<Gva> {
        let view = View { vcpu, slots };
        footprint::writer_before_rip(&view, &self.registers, self.mode, gpa, len)
    }
}

struct View<'a> {
    vcpu: &'a VcpuFd,
    slots: &'a [Slot],
}

impl GuestView for View<'_> {
    fn translate(&self, gva: Gva) -> Option<Gpa> {
        let translation = self.vcpu.translate_gva(gva.get()).ok()?;
        (translation.valid != 0).then(|| Gpa::new(translation.physical_address))
    }

    fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> Option<()> {
        self.slots.iter().find_map(|slot| {
            let offset = gpa.checked_offset_from(slot.gpa())?;
            slot.mapping().read(offset, buffer).ok()
        })
    }
}
