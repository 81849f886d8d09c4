//! A VM: its memory slots, its interrupt controller, and what its vCPUs may know and do.
#![expect(unsafe_code, reason = "gives KVM host memory to use as guest memory")]

use std::sync::Arc;

use kvm_bindings::{
    CpuId, KVM_CAP_ASYNC_PF, KVM_CAP_ASYNC_PF_INT, KVM_CAP_X86_DISABLE_EXITS,
    KVM_MAX_CPUID_ENTRIES, KVM_X86_DISABLE_EXITS_HLT, kvm_cpuid_entry2, kvm_enable_cap,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use surefault_core::run::Irqchip;
use surefault_core::{Gpa, Hva, SlotId, VcpuId};
use thiserror::Error;

use crate::abi;
use crate::apf;
use crate::mce::{self, MachineChecks, Vendor};
use crate::memory::Mapping;

/// Where KVM may put three pages of its own (VMX without unrestricted guests): in the hole below
/// 4 GiB where a PC has its firmware.
const TSS_ADDRESS: usize = 0xfffb_d000;

/// How the VM's page faults are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Faults {
    /// Synchronously: the guest is told nothing of async page faults, and KVM is kept from halting
    /// a vCPU instead.
    Synchronous,
    /// As Linux likes.
    Asynchronous,
    /// Synchronously as far as KVM knows, while the guest is told of async page faults by
    /// [`Apf`](crate::apf::Apf).
    FromUserSpace {
        /// The guest is offered an error word in "ready".
        error_word: bool,
    },
}

/// CPUID leaf 1: the local APIC, in EDX.
const CPUID_APIC: u32 = 1 << 9;
/// CPUID leaf 1: its x2APIC mode, in ECX.
const CPUID_X2APIC: u32 = 1 << 21;

/// A VM without its vCPUs.
#[derive(Debug)]
pub struct Vm {
    kvm: Kvm,
    fd: Arc<VmFd>,
    faults: Faults,
    irqchip: Irqchip,
    synchronous: bool,
    vendor: Option<Vendor>,
    vcpus: u16,
    slots: Vec<Slot>,
}

/// A memory slot: guest-physical memory and the mapping behind it.
#[derive(Clone, Debug)]
pub struct Slot {
    id: SlotId,
    gpa: Gpa,
    mapping: Arc<Mapping>,
}

/// A VM that cannot be had.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VmError {
    /// There is no KVM on this host, or none for this process.
    #[error("/dev/kvm does not exist: KVM is not loaded, or the machine has no virtualization")]
    NoKvm,
    /// KVM is there, but not for this process.
    #[error("/dev/kvm may not be opened by this user: add it to the group that owns the device")]
    Forbidden,
    /// This KVM has no async page faults that a guest can take.
    #[error(
        "this KVM cannot tell a guest of asynchronous page faults (it needs Linux 5.8 or later)"
    )]
    NoAsyncFaults,
    /// Linux faults asynchronously only for a vCPU whose local APIC is in KVM.
    #[error("Linux takes no fault asynchronously without the interrupt controllers in KVM")]
    NoKernelIrqchip,
    /// A vCPU that is blocked in a fault cannot be had back.
    #[error(
        "Linux {release} does not let go of a vCPU that is blocked in a page fault, so its guest \
         cannot be told (it needs Linux 6.2 or later)"
    )]
    Unkickable {
        /// The running kernel.
        release: String,
    },
    /// KVM lacks something for async page faults from user space.
    #[error("this KVM has no {what}, which async page faults from user space need")]
    Lacks {
        /// What.
        what: &'static str,
    },
    /// KVM refused something.
    #[error("{doing}")]
    Refused {
        /// What was being done.
        doing: &'static str,
        /// Why not.
        source: kvm_ioctls::Error,
    },
}

impl VmError {
    /// What to do about it, where the host lacks something; `None` for what should not happen.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            VmError::NoKvm => Some(
                "load it (`modprobe kvm_intel` or `modprobe kvm_amd`), switch virtualization on in \
                 the firmware, or nested virtualization where this is a VM; in a container, pass \
                 /dev/kvm in",
            ),
            VmError::Forbidden => Some(
                "let this user open it: `usermod -aG kvm USER` where it belongs to the group kvm, \
                 or `setfacl -m u:USER:rw /dev/kvm`",
            ),
            VmError::NoAsyncFaults => Some("use --apf off, or a newer kernel"),
            VmError::NoKernelIrqchip => Some("use --irqchip kernel, or --apf off or user"),
            VmError::Unkickable { .. } | VmError::Lacks { .. } => {
                Some("use --apf off or --apf kernel, or a newer kernel")
            }
            VmError::Refused { .. } => None,
        }
    }
}

/// Makes a KVM error one of this module.
fn refused(doing: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> VmError {
    move |source| VmError::Refused { doing, source }
}

impl Vm {
    /// A VM without memory. With [`Irqchip::User`] it has no interrupt controllers at all: whoever
    /// runs it raises interrupts ([`crate::interrupts`]).
    ///
    /// # Errors
    /// When there is no KVM here, or it refuses.
    pub fn new(faults: Faults, irqchip: Irqchip) -> Result<Vm, VmError> {
        if (irqchip, faults) == (Irqchip::User, Faults::Asynchronous) {
            return Err(VmError::NoKernelIrqchip);
        }
        let kvm = Kvm::new().map_err(|source| match source.errno() {
            libc::ENOENT | libc::ENODEV | libc::ENXIO => VmError::NoKvm,
            libc::EACCES | libc::EPERM => VmError::Forbidden,
            _ => refused("opening /dev/kvm")(source),
        })?;
        let fd = kvm.create_vm().map_err(refused("creating a VM"))?;
        fd.set_tss_address(TSS_ADDRESS)
            .map_err(refused("placing KVM's own task state segment"))?;
        let tells = |cap: u32| fd.check_extension_raw(cap.into()) > 0;
        if faults == Faults::Asynchronous
            && !(tells(KVM_CAP_ASYNC_PF) && tells(KVM_CAP_ASYNC_PF_INT))
        {
            return Err(VmError::NoAsyncFaults);
        }
        let synchronous = match (faults, irqchip) {
            (Faults::Asynchronous, _) => false,
            (Faults::FromUserSpace { .. }, _) => {
                prepare_for_user_space(&fd, irqchip)?;
                true
            }
            (Faults::Synchronous, Irqchip::Kernel) => disable_halt_exits(&fd)?,
            // `kvm_can_do_async_pf` wants a local APIC.
            (Faults::Synchronous, Irqchip::User) => true,
        };
        if irqchip == Irqchip::Kernel {
            fd.create_irq_chip()
                .map_err(refused("creating the interrupt controllers"))?;
        }
        Ok(Vm {
            kvm,
            fd: Arc::new(fd),
            faults,
            irqchip,
            synchronous,
            vendor: None,
            vcpus: 1,
            slots: Vec::new(),
        })
    }

    /// True when every fault is synchronous even while the guest takes interrupts. Otherwise only
    /// a guest with its interrupts off has nothing but synchronous faults.
    pub fn faults_are_synchronous(&self) -> bool {
        self.synchronous
    }

    /// It will have this many vCPUs, which a guest's machine checks depend on; 1 until this is said.
    pub fn set_vcpus(&mut self, vcpus: u16) {
        self.vcpus = vcpus;
    }

    /// Has the guest believe that its CPUs are of this vendor. Before any vCPU is created.
    pub fn set_vendor(&mut self, vendor: Vendor) {
        self.vendor = Some(vendor);
    }

    /// Gives `vcpu` machine checks; `None` where KVM has none.
    pub(crate) fn machine_checks(&self, vcpu: &VcpuFd) -> Option<MachineChecks> {
        let cpuid = vcpu.get_cpuid2(KVM_MAX_CPUID_ENTRIES).ok()?;
        MachineChecks::set_up(&self.kvm, vcpu, Vendor::of(&cpuid), self.vcpus)
    }

    /// Where its interrupt controllers are.
    pub fn irqchip(&self) -> Irqchip {
        self.irqchip
    }

    /// Puts `mapping` into the guest's memory at `gpa`.
    ///
    /// # Errors
    /// When KVM refuses, as for a slot that overlaps another.
    pub fn add_slot(&mut self, gpa: Gpa, mapping: Arc<Mapping>) -> Result<SlotId, VmError> {
        let id = SlotId::new(self.slots.len() as u32);
        let region = kvm_userspace_memory_region {
            slot: id.get(),
            flags: 0,
            guest_phys_addr: gpa.get(),
            memory_size: mapping.len() as u64,
            userspace_addr: mapping.hva().get(),
        };
        // SAFETY: the range is a mapping that no Rust reference points into; whoever holds the
        // slots (the VM, and each vCPU) keeps it mapped.
        unsafe { self.fd.set_user_memory_region(region) }
            .map_err(refused("giving the VM a memory slot"))?;
        self.slots.push(Slot { id, gpa, mapping });
        Ok(id)
    }

    /// The memory slots so far.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// KVM's own handle.
    pub fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// The same, to keep.
    pub(crate) fn shared_fd(&self) -> Arc<VmFd> {
        Arc::clone(&self.fd)
    }

    /// All that KVM lets a guest know of its CPU.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn supported_cpuid(&self) -> Result<CpuId, VmError> {
        (self.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES))
            .map_err(refused("asking for the supported CPUID"))
    }

    /// A vCPU that knows what this VM lets it know.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn create_vcpu(&self, id: VcpuId) -> Result<VcpuFd, VmError> {
        let vcpu =
            (self.fd.create_vcpu(u64::from(id.get()))).map_err(refused("creating a vCPU"))?;
        let mut cpuid = self.supported_cpuid()?;
        for entry in cpuid.as_mut_slice() {
            match entry.function {
                0 => {
                    if let Some([ebx, edx, ecx]) = self.vendor.and_then(Vendor::name) {
                        (entry.ebx, entry.edx, entry.ecx) = (ebx, edx, ecx);
                    }
                }
                1 => {
                    entry.ebx = (entry.ebx & 0x00ff_ffff) | (id.get() << 24);
                    if self.irqchip == Irqchip::User {
                        // There is none that anybody emulates.
                        entry.ecx &= !CPUID_X2APIC;
                        entry.edx &= !CPUID_APIC;
                    }
                }
                0xb | 0x1f => entry.edx = id.get(),
                abi::CPUID_FEATURES if self.faults == Faults::Synchronous => {
                    entry.eax &= !abi::FEATURES_ASYNC_PF;
                }
                abi::CPUID_FEATURES if matches!(self.faults, Faults::FromUserSpace { .. }) => {
                    // Whatever KVM could do itself.
                    entry.eax &= !abi::FEATURE_ASYNC_PF_VMEXIT;
                    entry.eax |= abi::FEATURE_ASYNC_PF | abi::FEATURE_ASYNC_PF_INT;
                }
                _ => {}
            }
        }
        if self.faults == (Faults::FromUserSpace { error_word: true }) {
            offer_error_word(&mut cpuid)?;
        }
        mce::offer(&mut cpuid);
        vcpu.set_cpuid2(&cpuid)
            .map_err(refused("setting a vCPU's CPUID"))?;
        Ok(vcpu)
    }
}

/// Makes every fault synchronous, and keeps the MSRs of async page faults from KVM.
fn prepare_for_user_space(fd: &VmFd, irqchip: Irqchip) -> Result<(), VmError> {
    let release = rustix::system::uname();
    let release = release.release().to_string_lossy();
    if version(&release).is_some_and(|version| version < INTERRUPTIBLE) {
        return Err(VmError::Unkickable {
            release: release.into_owned(),
        });
    }
    // Without a local APIC they are synchronous anyhow, and a guest that halts leaves the core.
    if irqchip == Irqchip::Kernel && !disable_halt_exits(fd)? {
        let what = "way to keep HLT from exiting";
        return Err(VmError::Lacks { what });
    }
    apf::enable(fd).map_err(|lack| match lack {
        apf::Lack::Capability(what) => VmError::Lacks { what },
        apf::Lack::Refused(doing, source) => VmError::Refused { doing, source },
    })
}

/// Says in CPUID that "ready" can carry an error.
fn offer_error_word(cpuid: &mut CpuId) -> Result<(), VmError> {
    let word = |at: usize| {
        let bytes = abi::SIGNATURE[at..at + 4].try_into();
        u32::from_le_bytes(bytes.expect("four bytes"))
    };
    let leaves = [
        kvm_cpuid_entry2 {
            function: abi::CPUID_SUREFAULT,
            eax: abi::CPUID_SUREFAULT_FEATURES,
            ebx: word(0),
            ecx: word(4),
            edx: word(8),
            ..Default::default()
        },
        kvm_cpuid_entry2 {
            function: abi::CPUID_SUREFAULT_FEATURES,
            eax: abi::FEATURE_ERROR_WORD,
            ..Default::default()
        },
    ];
    for leaf in leaves {
        let what = "room for two more CPUID leaves";
        cpuid.push(leaf).map_err(|_| VmError::Lacks { what })?;
    }
    Ok(())
}

/// The first Linux whose KVM waits for a guest's page so that a signal ends the wait
/// (`FOLL_INTERRUPTIBLE` in `hva_to_pfn_slow`).
const INTERRUPTIBLE: (u32, u32) = (6, 2);

/// Major and minor number of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next()?.parse().ok();
    Some((next()?, next()?))
}

/// Lets the guest execute HLT without an exit, if KVM knows how. Then KVM has no use for a vCPU
/// that waits for a page, and does not fault asynchronously unless the guest asks for it
/// (`kvm_can_do_async_pf`). To be done before any vCPU is created.
fn disable_halt_exits(fd: &VmFd) -> Result<bool, VmError> {
    let can = fd.check_extension_raw(KVM_CAP_X86_DISABLE_EXITS.into());
    if can & KVM_X86_DISABLE_EXITS_HLT as i32 == 0 {
        return Ok(false);
    }
    let cap = kvm_enable_cap {
        cap: KVM_CAP_X86_DISABLE_EXITS,
        args: [u64::from(KVM_X86_DISABLE_EXITS_HLT), 0, 0, 0],
        ..Default::default()
    };
    (fd.enable_cap(&cap)).map_err(refused("disabling exits for HLT"))?;
    Ok(true)
}

impl Slot {
    /// KVM's number of the slot.
    pub fn id(&self) -> SlotId {
        self.id
    }

    /// Where it starts in the guest.
    pub fn gpa(&self) -> Gpa {
        self.gpa
    }

    /// The memory behind it.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// Where `gpa` is on the host, if it is in this slot.
    pub fn hva_of(&self, gpa: Gpa) -> Option<Hva> {
        let offset = gpa.checked_offset_from(self.gpa)?;
        (offset < self.mapping.len() as u64).then_some(())?;
        self.mapping.hva().checked_add(offset)
    }

    /// Where `hva` is in the guest, if it is in this slot.
    pub fn gpa_of(&self, hva: Hva) -> Option<Gpa> {
        let offset = hva.checked_offset_from(self.mapping.hva())?;
        (offset < self.mapping.len() as u64).then_some(())?;
        self.gpa.checked_add(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_their_numbers() {
        assert_eq!(version("6.1.0-31-amd64"), Some((6, 1)));
        assert_eq!(version("7.3-rc1"), Some((7, 3)));
        assert_eq!(version("unknown"), None);
        assert!((6, 1) < INTERRUPTIBLE && (6, 12) > INTERRUPTIBLE);
    }
}
