//! What an instruction does with memory: pure, from its bytes and the registers.
//!
//! The page that a fault was about is known from elsewhere where the kernel says so, and is looked
//! for among these operands where it does not (a bare EFAULT). Either way the *access* comes from
//! here: a kernel's own fault flags say what its worker did, which is "write" for a guest's read.

use iced_x86::{Code, Decoder, DecoderOptions, InstructionInfoFactory, OpAccess, Register};
use surefault_core::{Access, Gva};

#[cfg(test)]
mod tests;

/// The longest instruction there is.
pub const MAX_INSTRUCTION: usize = 15;

/// The registers that an address can be made of.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Registers {
    /// rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 to r15: in the order of their numbers.
    pub general: [u64; 16],
    /// The instruction's address.
    pub rip: u64,
    /// Bases of es, cs, ss, ds, fs, gs: in the order of their numbers. Long mode takes the first
    /// four as 0, whatever they hold.
    pub segment_bases: [u64; 6],
}

/// How instructions are encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// 16-bit code.
    Bits16,
    /// 32-bit code.
    Bits32,
    /// Long mode's own.
    Bits64,
}

/// An instruction, as far as memory is concerned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decoded {
    /// Bytes of the instruction.
    pub len: usize,
    /// Every memory operand, explicit or not (the stack of a push or call, both ends of a string
    /// move), in no order.
    pub operands: Vec<Operand>,
}

/// A memory operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Operand {
    /// Its first byte.
    pub gva: Gva,
    /// Its length in bytes, at least 1.
    pub len: u64,
    /// [`Access::Read`], or [`Access::Write`] if it is (also) written.
    pub access: Access,
}

impl Operand {
    /// The operand's last byte; the address space's if the operand would wrap.
    pub fn last(&self) -> Gva {
        self.gva
            .checked_add(self.len - 1)
            .unwrap_or(Gva::new(u64::MAX))
    }
}

/// Decodes the instruction at the start of `code`; `None` if `code` is too short or no instruction.
pub fn decode(code: &[u8], mode: Mode, registers: &Registers) -> Option<Decoded> {
    let bitness = match mode {
        Mode::Bits16 => 16,
        Mode::Bits32 => 32,
        Mode::Bits64 => 64,
    };
    let mut decoder = Decoder::with_ip(bitness, code, registers.rip, DecoderOptions::NONE);
    let instruction = decoder.decode();
    if instruction.code() == Code::INVALID {
        return None;
    }
    let mut factory = InstructionInfoFactory::new();
    let operands = factory
        .info(&instruction)
        .used_memory()
        .iter()
        .filter_map(|memory| {
            let access = match memory.access() {
                OpAccess::Read | OpAccess::CondRead => Access::Read,
                OpAccess::Write
                | OpAccess::CondWrite
                | OpAccess::ReadWrite
                | OpAccess::ReadCondWrite => Access::Write,
                OpAccess::None | OpAccess::NoMemAccess => return None,
            };
            let value = |register, _, _| registers.value(register, mode);
            Some(Operand {
                gva: Gva::new(memory.virtual_address(0, value)?),
                len: (memory.memory_size().size() as u64).max(1),
                access,
            })
        })
        .collect();
    Some(Decoded {
        len: instruction.len(),
        operands,
    })
}

impl Registers {
    /// The value of `register`; `None` for one that is not kept (vectors, of a gather).
    fn value(&self, register: Register, mode: Mode) -> Option<u64> {
        if register.is_segment_register() {
            let base = self.segment_bases[register.number()];
            let flat = mode == Mode::Bits64 && !matches!(register, Register::FS | Register::GS);
            return Some(if flat { 0 } else { base });
        }
        let full = match register {
            Register::RIP | Register::EIP => return Some(self.rip),
            _ if register.is_gpr() => self.general[register.full_register().number()],
            _ => return None,
        };
        match register.size() {
            8 => Some(full),
            4 => Some(full & 0xffff_ffff),
            2 => Some(full & 0xffff),
            // A table lookup (xlat) adds al.
            1 if register == Register::AL => Some(full & 0xff),
            _ => None,
        }
    }
}
