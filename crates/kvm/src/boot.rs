//! Starts a vCPU of the built-in guest: in long mode, in ring 0, without a reset or a start-up IPI.

use kvm_bindings::{KVM_MP_STATE_RUNNABLE, kvm_mp_state, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;
use surefault_guest::abi::selector;
use surefault_guest::{Apic, DescriptorTable, VcpuStart};
use thiserror::Error;

const CR0_PE: u64 = 1;
const CR0_MP: u64 = 1 << 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_MCE: u64 = 1 << 6;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// In the APIC base: x2APIC mode, the APIC enabled.
const X2APIC: u64 = 0b11 << 10;
/// RFLAGS with nothing set but the bit that always is.
const RFLAGS_RESERVED: u64 = 1 << 1;

const TYPE_DATA: u8 = 3;
const TYPE_CODE: u8 = 11;
const TYPE_BUSY_TSS: u8 = 11;

/// KVM would not take a vCPU's first state.
#[derive(Debug, Error)]
#[error("setting a vCPU's {what}")]
pub struct BootError {
    what: &'static str,
    source: kvm_ioctls::Error,
}

/// Gives `vcpu` the registers with which the guest starts on it.
///
/// # Errors
/// When KVM refuses.
pub fn start(vcpu: &VcpuFd, start: &VcpuStart, apic: Apic) -> Result<(), BootError> {
    let refused = |what| move |source| BootError { what, source };
    let mut sregs = vcpu.get_sregs().map_err(refused("system registers"))?;
    sregs.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    sregs.cr3 = start.cr3;
    sregs.cr4 = CR4_PAE | CR4_MCE;
    sregs.efer = EFER_LME | EFER_LMA;
    if apic == Apic::X2apic {
        sregs.apic_base |= X2APIC;
    }
    let data = flat(selector::KERNEL_DATA, TYPE_DATA);
    sregs.cs = flat(selector::KERNEL_CODE, TYPE_CODE);
    (sregs.ds, sregs.es, sregs.ss) = (data, data, data);
    (sregs.fs, sregs.gs) = (data, data);
    sregs.tr = kvm_segment {
        base: start.tss.get(),
        limit: start.tss_limit,
        selector: selector::TASK_STATE,
        type_: TYPE_BUSY_TSS,
        present: 1,
        ..Default::default()
    };
    sregs.gdt = table(start.gdt);
    sregs.idt = table(start.idt);
    vcpu.set_sregs(&sregs)
        .map_err(refused("system registers"))?;

    let regs = kvm_regs {
        rip: start.rip.get(),
        rsp: start.rsp.get(),
        r15: start.r15.get(),
        rflags: RFLAGS_RESERVED,
        ..Default::default()
    };
    vcpu.set_regs(&regs).map_err(refused("registers"))?;
    // All but the first vCPU would otherwise wait for a start-up IPI.
    let runnable = kvm_mp_state {
        mp_state: KVM_MP_STATE_RUNNABLE,
    };
    vcpu.set_mp_state(runnable).map_err(refused("state"))
}

fn flat(selector: u16, type_: u8) -> kvm_segment {
    let code = u8::from(type_ == TYPE_CODE);
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        s: 1,
        g: 1,
        l: code,
        db: 1 - code,
        ..Default::default()
    }
}

fn table(table: DescriptorTable) -> kvm_bindings::kvm_dtable {
    kvm_bindings::kvm_dtable {
        base: table.base,
        limit: table.limit,
        ..Default::default()
    }
}
