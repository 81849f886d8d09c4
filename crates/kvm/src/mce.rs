//! Machine checks for a guest: what its CPUs must be able to do, whether it would take one now, and
//! the record of one that says "this page is lost".
//!
//! The record is the one that the guest's vendor has for it, as other VMMs make it:
//!
//! | guest | who is told | record |
//! |---|---|---|
//! | Intel, one vCPU | that one | data load, action required (SDM 3B, 16.9): S and AR |
//! | Intel, several | the one alone, where the guest has switched local machine checks on (LMCE) | the same, with LMCE_S |
//! | | else all of them at once (`broadcast.rs`) | the same; for the others, one without an address that says "not here" |
//! | AMD | the one alone | poison consumed (APM 2, 9.3), for guests that are told of SUCCOR |
//!
//! A guest with machine checks off, or in the middle of one, cannot be told: the CPU would shut down.
#![expect(
    unsafe_code,
    reason = "speaks of machine checks by ioctls that nobody wraps"
)]

use std::io;
use std::os::fd::AsRawFd;

use kvm_bindings::{CpuId, Msrs, kvm_msr_entry, kvm_x86_mce};
use kvm_ioctls::{Kvm, VcpuFd};
use surefault_core::Gpa;

use crate::abi::{
    KVM_X86_GET_MCE_CAP_SUPPORTED, KVM_X86_SET_MCE, KVM_X86_SETUP_MCE, MSR_MC0_CTL, MSR_MCG_CTL,
    MSR_MCG_EXT_CTL, MSR_MCG_STATUS,
};
use crate::broadcast::Readiness;

/// Banks of a vCPU, as many as QEMU gives.
const BANKS: u64 = 10;
/// In MCG_CAP: the number of banks.
const CAP_BANKS: u64 = 0xff;
/// In MCG_CAP: MCG_CTL is there.
const CAP_CTL: u64 = 1 << 8;
/// In MCG_CAP: errors that software recovers from.
const CAP_SER: u64 = 1 << 24;
/// In MCG_CAP: local machine checks.
const CAP_LMCE: u64 = 1 << 27;
/// In MCG_EXT_CTL: the guest has switched them on.
const LMCE_ENABLED: u64 = 1;

/// In MCG_STATUS: the program can be restarted at RIP, RIP is the instruction, in progress.
const RIPV_EIPV_MCIP: u64 = 0b111;
/// The same where the instruction has nothing to do with it.
const RIPV_MCIP: u64 = 0b101;
const MCIP: u64 = 1 << 2;
const LMCE_SIGNALED: u64 = 1 << 3;

/// In a bank's status: valid, uncorrected, enabled, with misc and address.
const VALID: u64 = 1 << 63 | 1 << 61 | 1 << 60 | 1 << 59 | 1 << 58;
/// The same without anything to tell about: on the vCPUs that the error is not of.
const ELSEWHERE: u64 = 1 << 63 | 1 << 61;
/// Intel: signaled, action required; data load.
const ACTION_REQUIRED: u64 = 1 << 56 | 1 << 55 | 0x134;
/// AMD: poison.
const POISON: u64 = 1 << 43;
/// The address is physical, and good to the page.
const MISC_PHYSICAL_PAGE: u64 = 2 << 6 | 12;

/// CPUID 0x8000_0007 EBX, on AMD: overflow recovery, and recovery by software (SUCCOR).
const CPUID_RAS: u32 = 0x8000_0007;
const RAS_RECOVERABLE: u32 = 0b11;

/// Whose CPU the guest believes to have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vendor {
    /// Intel, or one that follows it.
    Intel,
    /// AMD, or one that follows it.
    Amd,
    /// Somebody else's, whose machine checks are not known here.
    Other,
}

impl Vendor {
    /// The vendor that `cpuid` names.
    pub fn of(cpuid: &CpuId) -> Vendor {
        let leaf = cpuid.as_slice().iter().find(|entry| entry.function == 0);
        let name = leaf.map(|leaf| {
            [leaf.ebx, leaf.edx, leaf.ecx]
                .map(u32::to_le_bytes)
                .concat()
        });
        match name.as_deref() {
            Some(b"GenuineIntel") => Vendor::Intel,
            Some(b"AuthenticAMD" | b"HygonGenuine") => Vendor::Amd,
            Some(_) | None => Vendor::Other,
        }
    }

    /// The words of leaf 0 that name it: EBX, EDX, ECX.
    pub(crate) fn name(self) -> Option<[u32; 3]> {
        let name: &[u8; 12] = match self {
            Vendor::Intel => b"GenuineIntel",
            Vendor::Amd => b"AuthenticAMD",
            Vendor::Other => return None,
        };
        let word = |at| u32::from_le_bytes([name[at], name[at + 1], name[at + 2], name[at + 3]]);
        Some([word(0), word(4), word(8)])
    }
}

/// Lets the guest's CPU say that it is told of memory that is lost, so that the guest is ready for it.
pub(crate) fn offer(cpuid: &mut CpuId) {
    if Vendor::of(cpuid) == Vendor::Amd {
        for entry in cpuid.as_mut_slice() {
            if entry.function == CPUID_RAS {
                entry.ebx |= RAS_RECOVERABLE;
            }
        }
    }
}

/// The machine checks of a vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MachineChecks {
    vendor: Vendor,
    vcpus: u16,
    cap: u64,
}

/// The form of a machine check that a guest's CPUs know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    Intel,
    IntelLocal,
    /// All vCPUs at once.
    IntelAll,
    Amd,
}

impl MachineChecks {
    /// Gives `vcpu`, one of `vcpus` of this vendor, machine checks; `None` where KVM has none.
    pub(crate) fn set_up(kvm: &Kvm, vcpu: &VcpuFd, vendor: Vendor, vcpus: u16) -> Option<Self> {
        let mut supported = 0u64;
        // SAFETY: writes one word to where it is told.
        let asked = unsafe {
            libc::ioctl(
                kvm.as_raw_fd(),
                KVM_X86_GET_MCE_CAP_SUPPORTED,
                &raw mut supported,
            )
        };
        let cap = (supported & !CAP_BANKS) | BANKS;
        // SAFETY: reads one word from where it is told.
        let set = unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_X86_SETUP_MCE, &raw const cap) };
        (asked == 0 && set == 0).then_some(MachineChecks { vendor, vcpus, cap })
    }

    /// Whether the guest on `vcpu`, whose CR4 has machine checks on, would take one now: not yet if
    /// it is in the middle of one.
    pub(crate) fn readiness(&self, vcpu: &VcpuFd) -> Readiness {
        let on = |msr| read_msr(vcpu, msr) == Some(u64::MAX);
        let reported = on(MSR_MC0_CTL) && (self.cap & CAP_CTL == 0 || on(MSR_MCG_CTL));
        match read_msr(vcpu, MSR_MCG_STATUS) {
            Some(_) if !reported || self.form(vcpu).is_none() => Readiness::Never,
            Some(status) if status & MCIP != 0 => Readiness::NotYet,
            Some(_) => Readiness::Ready,
            None => Readiness::Never,
        }
    }

    /// Whether a machine check on `vcpu` is one of all vCPUs.
    pub(crate) fn are_everybodys(&self, vcpu: &VcpuFd) -> bool {
        self.form(vcpu) == Some(Form::IntelAll)
    }

    /// Whether they can be: as long as the guest switches no local ones on.
    pub(crate) fn may_be_everybodys(&self) -> bool {
        form(self.vendor, self.vcpus, self.cap, || false) == Some(Form::IntelAll)
    }

    /// Queues a machine check for the memory at `gpa` on `vcpu`, whose guest would take it.
    pub(crate) fn queue(&self, vcpu: &VcpuFd, gpa: Gpa) -> io::Result<()> {
        let Some(form) = self.form(vcpu) else {
            return Err(io::Error::from(io::ErrorKind::Unsupported));
        };
        set(vcpu, &record(form, gpa))
    }

    /// Queues a machine check on `vcpu` that is about a page that another one wanted.
    pub(crate) fn queue_elsewhere(&self, vcpu: &VcpuFd) -> io::Result<()> {
        set(vcpu, &elsewhere())
    }

    fn form(&self, vcpu: &VcpuFd) -> Option<Form> {
        let local = || {
            self.cap & CAP_LMCE != 0
                && read_msr(vcpu, MSR_MCG_EXT_CTL).is_some_and(|ctl| ctl & LMCE_ENABLED != 0)
        };
        form(self.vendor, self.vcpus, self.cap, local)
    }
}

fn form(vendor: Vendor, vcpus: u16, cap: u64, local: impl Fn() -> bool) -> Option<Form> {
    match vendor {
        Vendor::Amd => Some(Form::Amd),
        Vendor::Intel if cap & CAP_SER == 0 => None,
        Vendor::Intel if local() => Some(Form::IntelLocal),
        Vendor::Intel if vcpus == 1 => Some(Form::Intel),
        Vendor::Intel => Some(Form::IntelAll),
        Vendor::Other => None,
    }
}

fn record(form: Form, gpa: Gpa) -> kvm_x86_mce {
    let (status, mcg_status) = match form {
        Form::Intel | Form::IntelAll => (VALID | ACTION_REQUIRED, RIPV_EIPV_MCIP),
        Form::IntelLocal => (VALID | ACTION_REQUIRED, RIPV_EIPV_MCIP | LMCE_SIGNALED),
        Form::Amd => (VALID | POISON, RIPV_EIPV_MCIP),
    };
    kvm_x86_mce {
        status,
        addr: gpa.get(),
        misc: MISC_PHYSICAL_PAGE,
        mcg_status,
        bank: 0,
        ..Default::default()
    }
}

fn elsewhere() -> kvm_x86_mce {
    kvm_x86_mce {
        status: ELSEWHERE,
        mcg_status: RIPV_MCIP,
        bank: 0,
        ..Default::default()
    }
}

fn set(vcpu: &VcpuFd, record: &kvm_x86_mce) -> io::Result<()> {
    // SAFETY: KVM_X86_SET_MCE reads the structure that it is given.
    let set = unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_X86_SET_MCE, record) };
    match set {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn read_msr(vcpu: &VcpuFd, index: u32) -> Option<u64> {
    let entry = kvm_msr_entry {
        index,
        ..Default::default()
    };
    let mut msrs = Msrs::from_entries(&[entry]).ok()?;
    let read = vcpu.get_msrs(&mut msrs).ok()?;
    (read == 1).then(|| msrs.as_slice()[0].data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_guest_gets_the_form_that_its_cpus_know() {
        let of = |vendor, vcpus, cap, local| form(vendor, vcpus, cap, || local);
        assert_eq!(of(Vendor::Amd, 8, 0, false), Some(Form::Amd));
        assert_eq!(of(Vendor::Intel, 1, CAP_SER, false), Some(Form::Intel));
        assert_eq!(of(Vendor::Intel, 2, CAP_SER, true), Some(Form::IntelLocal));
        assert_eq!(of(Vendor::Intel, 2, CAP_SER, false), Some(Form::IntelAll));
        assert_eq!(of(Vendor::Intel, 1, 0, true), None);
        assert_eq!(of(Vendor::Other, 1, CAP_SER, true), None);
    }

    #[test]
    fn the_records_are_those_that_other_vmms_make() {
        let intel = record(Form::Intel, Gpa::new(0x1000));
        assert_eq!(intel.status, 0xbd80_0000_0000_0134);
        assert_eq!(
            (intel.addr, intel.misc, intel.mcg_status),
            (0x1000, 0x8c, 7)
        );
        assert_eq!(record(Form::IntelLocal, Gpa::new(0)).mcg_status, 15);
        assert_eq!(record(Form::IntelAll, Gpa::new(0)).status, intel.status);
        let elsewhere = elsewhere();
        assert_eq!(elsewhere.status, 0xa000_0000_0000_0000);
        assert_eq!((elsewhere.addr, elsewhere.mcg_status), (0, 5));
        let amd = record(Form::Amd, Gpa::new(0x1000));
        assert_eq!(amd.status, 0xbc00_0800_0000_0000);
        assert_eq!(amd.mcg_status, 7);
    }

    #[test]
    fn a_vendor_is_known_by_its_name() {
        for vendor in [Vendor::Intel, Vendor::Amd] {
            let [ebx, edx, ecx] = vendor.name().unwrap();
            let leaf = kvm_bindings::kvm_cpuid_entry2 {
                ebx,
                edx,
                ecx,
                ..Default::default()
            };
            assert_eq!(Vendor::of(&CpuId::from_entries(&[leaf]).unwrap()), vendor);
        }
        assert_eq!(Vendor::of(&CpuId::new(0).unwrap()), Vendor::Other);
    }
}
