//! The paravirtual interface of KVM that `kvm-bindings` leaves out
//! (`arch/x86/include/uapi/asm/kvm_para.h`).

/// CPUID leaf of the paravirtual features; the bits below are in EAX.
pub const CPUID_FEATURES: u32 = 0x4000_0001;

/// Async page faults.
pub const FEATURE_ASYNC_PF: u32 = 1 << 4;
/// Async page faults of a nested guest are given to its hypervisor as exits.
pub const FEATURE_ASYNC_PF_VMEXIT: u32 = 1 << 10;
/// "Page ready" is an interrupt.
pub const FEATURE_ASYNC_PF_INT: u32 = 1 << 14;

/// All that tells a guest of async page faults.
pub const FEATURES_ASYNC_PF: u32 =
    FEATURE_ASYNC_PF | FEATURE_ASYNC_PF_VMEXIT | FEATURE_ASYNC_PF_INT;

/// A descriptor to read the counters of a VM or a vCPU from: `_IO(KVMIO, 0xce)`
/// (`include/uapi/linux/kvm.h`, capability `KVM_CAP_BINARY_STATS_FD`).
pub const KVM_GET_STATS_FD: u64 = 0xaece;

/// Queues an interrupt, where the interrupt controllers are not in KVM:
/// `_IOW(KVMIO, 0x86, struct kvm_interrupt)`.
pub const KVM_INTERRUPT: u64 = 0x4004_ae86;

/// CPUID leaf that says who offers what KVM does not: EAX is the last leaf, EBX, ECX and EDX are
/// [`SIGNATURE`]. A guest finds it where it looks for hypervisors, in steps of 0x100 from 0x40000000.
pub const CPUID_SUREFAULT: u32 = 0x4000_0100;

/// What [`CPUID_SUREFAULT`] answers.
pub const SIGNATURE: &[u8; 12] = b"SurefaultAPF";

/// CPUID leaf of what is offered; the bits below are in EAX.
pub const CPUID_SUREFAULT_FEATURES: u32 = CPUID_SUREFAULT + 1;

/// Bit 4 of `MSR_KVM_ASYNC_PF_EN` is not reserved: it asks for the error word at offset 8 of the
/// shared area, which is written before the token.
pub const FEATURE_ERROR_WORD: u32 = 1 << 0;
/// The machine-check capabilities that KVM can give a vCPU: `_IOR(KVMIO, 0x9d, __u64)`, on
/// `/dev/kvm`.
pub const KVM_X86_GET_MCE_CAP_SUPPORTED: u64 = 0x8008_ae9d;
/// Gives a vCPU machine checks: `_IOW(KVMIO, 0x9c, __u64)`.
pub const KVM_X86_SETUP_MCE: u64 = 0x4008_ae9c;
/// Has a vCPU take a machine check: `_IOW(KVMIO, 0x9e, struct kvm_x86_mce)`.
pub const KVM_X86_SET_MCE: u64 = 0x4040_ae9e;

/// Machine checks: the state of the one that is being handled.
pub const MSR_MCG_STATUS: u32 = 0x17a;
/// Which of a CPU's machine checks are reported: all ones for all.
pub const MSR_MCG_CTL: u32 = 0x17b;
/// Local machine checks are on.
pub const MSR_MCG_EXT_CTL: u32 = 0x4d0;
/// Which of the first bank's machine checks are reported.
pub const MSR_MC0_CTL: u32 = 0x400;
