//! The MSRs of asynchronous page faults, kept from KVM, and what a VM needs for all this.

use kvm_bindings::{
    KVM_CAP_EXCEPTION_PAYLOAD, KVM_CAP_SYNC_REGS, KVM_CAP_X86_MSR_FILTER,
    KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER, KVM_SYNC_X86_EVENTS, KVM_SYNC_X86_REGS,
    KVM_SYNC_X86_SREGS, kvm_enable_cap,
};
use kvm_ioctls::{MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VmFd};
use surefault_core::faults::GuestApf;
use surefault_core::{Gpa, VcpuId};

use super::Apf;
use super::area::Area;

/// `MSR_KVM_ASYNC_PF_EN`, `_INT`, `_ACK`.
const ENABLE: u32 = 0x4b56_4d02;
const INTERRUPT: u32 = 0x4b56_4d06;
const ACK: u32 = 0x4b56_4d07;
/// Where KVM's own MSRs begin; a byte of filter covers the first eight.
const FIRST: u32 = 0x4b56_4d00;
const COUNT: u32 = 8;

/// What a guest has written.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Msrs {
    enable: u64,
    interrupt: u64,
}

impl Msrs {
    /// The vector of "page ready".
    pub(super) fn vector(&self) -> u8 {
        self.interrupt as u8
    }
}

/// An MSR that is answered here.
pub(crate) fn is_ours(msr: u32) -> bool {
    matches!(msr, ENABLE | INTERRUPT | ACK)
}

/// Has accesses to the MSRs exit, and lets events be injected with their address. To be done
/// before any vCPU is created.
///
/// # Errors
/// What KVM lacks; or what it refused, and why.
pub(crate) fn enable(vm: &VmFd) -> Result<(), Lack> {
    let tells = |cap: u32| vm.check_extension_raw(cap.into());
    let synced = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
    for (cap, wanted, what) in [
        (
            KVM_CAP_X86_USER_SPACE_MSR,
            KVM_MSR_EXIT_REASON_FILTER,
            "exits for MSRs",
        ),
        (KVM_CAP_X86_MSR_FILTER, 1, "a filter for MSRs"),
        (KVM_CAP_EXCEPTION_PAYLOAD, 1, "exceptions with an address"),
        (KVM_CAP_SYNC_REGS, synced, "shared registers"),
    ] {
        // Some answer with a mask, and some only yes.
        let answer = tells(cap) as u32;
        if answer == 0 || (cap == KVM_CAP_SYNC_REGS && answer & wanted != wanted) {
            return Err(Lack::Capability(what));
        }
    }
    let switch_on = |cap, value: u32, doing| {
        let cap = kvm_enable_cap {
            cap,
            args: [u64::from(value), 0, 0, 0],
            ..Default::default()
        };
        vm.enable_cap(&cap)
            .map_err(|source| Lack::Refused(doing, source))
    };
    let reason = KVM_MSR_EXIT_REASON_FILTER;
    switch_on(
        KVM_CAP_X86_USER_SPACE_MSR,
        reason,
        "asking for exits for MSRs",
    )?;
    switch_on(
        KVM_CAP_EXCEPTION_PAYLOAD,
        1,
        "asking for exceptions with an address",
    )?;
    let kept = [ENABLE, INTERRUPT, ACK];
    // A bit that is clear is an MSR that KVM does not see.
    let bitmap = [!kept.iter().fold(0u8, |bits, msr| bits | 1 << (msr - FIRST))];
    let filter = [MsrFilterRange {
        flags: MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
        base: FIRST,
        msr_count: COUNT,
        bitmap: &bitmap,
    }];
    vm.set_msr_filter(MsrFilterDefaultAction::ALLOW, &filter)
        .map_err(|source| Lack::Refused("filtering MSRs", source))
}

/// What is in the way of asynchronous faults from user space.
pub(crate) enum Lack {
    /// KVM does not have this.
    Capability(&'static str),
    /// It refused this.
    Refused(&'static str, kvm_ioctls::Error),
}

impl Apf {
    /// The guest reads an MSR; `None` is a #GP.
    pub(crate) fn read_msr(&self, id: VcpuId, msr: u32) -> Option<u64> {
        let mut state = self.state();
        let msrs = state.vcpu(id).msrs;
        match msr {
            ENABLE => Some(msrs.enable),
            INTERRUPT => Some(msrs.interrupt),
            ACK => Some(0),
            _ => None,
        }
    }

    /// The guest writes an MSR; `None` is a #GP.
    pub(crate) fn write_msr(&self, id: VcpuId, msr: u32, value: u64) -> Option<()> {
        match msr {
            ENABLE => self.write_enable(id, value)?,
            // `kvm_pv_enable_async_pf_int`: the bits above the vector are reserved, and ignored.
            INTERRUPT => self.state().vcpu(id).msrs.interrupt = value,
            ACK => {
                if value & 1 != 0 {
                    let mut state = self.state();
                    state.counted.acks += 1;
                    state.machine.handle_ack(id);
                    self.drain(&mut state, None);
                }
            }
            _ => return None,
        }
        Some(())
    }

    fn write_enable(&self, id: VcpuId, value: u64) -> Option<()> {
        let error_word = self.state().machine.config().error_word;
        let settings = GuestApf::from_msr(value, error_word)?;
        let area = match settings {
            GuestApf::Off => None,
            GuestApf::On { .. } => {
                let outside = self.outside()?;
                let pages = outside.pages.upgrade()?;
                let gpa = Gpa::new(value & !0x3f);
                let area = Area::at(gpa, &outside.slots, &*pages)?;
                // Not with the lock held: this may wait for the page. Linux, too, has it in #GP.
                area.populate().ok()?;
                Some(area)
            }
        };
        let mut state = self.state();
        let side = state.vcpu(id);
        side.msrs.enable = value;
        side.area = area;
        side.unreachable = false;
        state.machine.handle_guest_apf(id, settings);
        self.drain(&mut state, None);
        Some(())
    }
}
