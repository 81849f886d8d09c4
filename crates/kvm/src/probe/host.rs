//! KVM: what it says of itself, and how it pages.

use std::fs;
use std::path::Path;

use kvm_bindings::{
    KVM_CAP_ASYNC_PF, KVM_CAP_ASYNC_PF_INT, KVM_CAP_BINARY_STATS_FD, KVM_CAP_EXCEPTION_PAYLOAD,
    KVM_CAP_GUEST_MEMFD, KVM_CAP_IRQCHIP, KVM_CAP_MCE, KVM_CAP_MEMORY_FAULT_INFO,
    KVM_CAP_PRE_FAULT_MEMORY, KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_SYNC_REGS, KVM_CAP_VCPU_EVENTS,
    KVM_CAP_X86_DISABLE_EXITS, KVM_CAP_X86_MSR_FILTER, KVM_CAP_X86_USER_SPACE_MSR,
};
use serde::Serialize;
use surefault_core::run::{ApfMode, Irqchip};

use crate::abi::CPUID_FEATURES;
use crate::vm::{Faults, Vm, VmError};

/// The capabilities that matter here, in the order in which they are told.
const CAPABILITIES: &[(&str, u32)] = &[
    ("IRQCHIP", KVM_CAP_IRQCHIP),
    ("ASYNC_PF", KVM_CAP_ASYNC_PF),
    ("ASYNC_PF_INT", KVM_CAP_ASYNC_PF_INT),
    ("X86_DISABLE_EXITS", KVM_CAP_X86_DISABLE_EXITS),
    ("X86_USER_SPACE_MSR", KVM_CAP_X86_USER_SPACE_MSR),
    ("X86_MSR_FILTER", KVM_CAP_X86_MSR_FILTER),
    ("SYNC_REGS", KVM_CAP_SYNC_REGS),
    ("VCPU_EVENTS", KVM_CAP_VCPU_EVENTS),
    ("EXCEPTION_PAYLOAD", KVM_CAP_EXCEPTION_PAYLOAD),
    ("MCE", KVM_CAP_MCE),
    ("MEMORY_FAULT_INFO", KVM_CAP_MEMORY_FAULT_INFO),
    ("BINARY_STATS_FD", KVM_CAP_BINARY_STATS_FD),
    ("SPLIT_IRQCHIP", KVM_CAP_SPLIT_IRQCHIP),
    ("GUEST_MEMFD", KVM_CAP_GUEST_MEMFD),
    ("PRE_FAULT_MEMORY", KVM_CAP_PRE_FAULT_MEMORY),
];

/// KVM on this host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Kvm {
    /// Capabilities that matter.
    pub capabilities: Vec<Capability>,
    /// EAX of CPUID leaf 0x40000001: what a guest may be told.
    pub cpuid_features: u32,
    /// Its modules, as far as they matter.
    pub modules: Vec<Module>,
    /// How it pages.
    pub paging: HostPaging,
}

/// A capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Capability {
    /// Its name, without `KVM_CAP_`.
    pub name: &'static str,
    /// What KVM answers: 0 for no, otherwise 1, a number or bits, as the capability has it.
    pub value: i32,
}

/// A kernel module of KVM's.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Module {
    /// Its name.
    pub name: String,
    /// Those of its parameters that decide how it pages, with their values.
    pub parameters: Vec<(String, String)>,
}

/// How the guest's page tables are walked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostPaging {
    /// The hardware walks them (EPT, NPT).
    TwoDimensional,
    /// KVM shadows them.
    Shadow,
    /// No module that is known says so.
    Unknown,
}

/// The capabilities that `apf` cannot do without.
pub(super) fn needed(apf: ApfMode) -> &'static [&'static str] {
    match apf {
        ApfMode::Off => &["IRQCHIP"],
        ApfMode::Kernel => &["IRQCHIP", "ASYNC_PF", "ASYNC_PF_INT"],
        ApfMode::User => &[
            "IRQCHIP",
            "X86_USER_SPACE_MSR",
            "X86_MSR_FILTER",
            "VCPU_EVENTS",
            "X86_DISABLE_EXITS",
        ],
    }
}

impl Kvm {
    pub(super) fn look() -> Result<Kvm, VmError> {
        let vm = Vm::new(Faults::Synchronous, Irqchip::Kernel)?;
        let capabilities = CAPABILITIES.iter().map(|&(name, number)| Capability {
            name,
            value: vm.fd().check_extension_raw(number.into()),
        });
        let cpuid = vm.supported_cpuid()?;
        let features = (cpuid.as_slice().iter()).find(|entry| entry.function == CPUID_FEATURES);
        let modules = modules(Path::new("/sys/module"));
        Ok(Kvm {
            capabilities: capabilities.collect(),
            cpuid_features: features.map_or(0, |entry| entry.eax),
            paging: paging(&modules),
            modules,
        })
    }

    /// Whether it has the capability of this name.
    pub fn has(&self, name: &str) -> bool {
        let mut capabilities = self.capabilities.iter();
        capabilities.any(|capability| capability.name == name && capability.value > 0)
    }
}

fn modules(path: &Path) -> Vec<Module> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> = names
        .filter(|name| name == "kvm" || name.starts_with("kvm_"))
        .collect();
    names.sort_unstable();
    let module = |name: String| {
        let value = |parameter: &str| {
            let file = path.join(&name).join("parameters").join(parameter);
            let value = fs::read_to_string(file).ok()?;
            Some((parameter.to_owned(), value.trim().to_owned()))
        };
        Module {
            parameters: ["ept", "npt", "tdp_mmu"]
                .into_iter()
                .filter_map(value)
                .collect(),
            name,
        }
    };
    names.into_iter().map(module).collect()
}

fn paging(modules: &[Module]) -> HostPaging {
    let on = |module: &Module, parameter: &str| {
        let mut parameters = module.parameters.iter();
        parameters.any(|(name, value)| name == parameter && matches!(value.as_str(), "Y" | "1"))
    };
    let paging = modules.iter().find_map(|module| {
        let two_dimensional = match module.name.as_str() {
            "kvm_intel" => on(module, "ept"),
            "kvm_amd" => on(module, "npt"),
            // Virtualization in software, without hardware that could walk anything.
            "kvm_pvm" => false,
            _ => return None,
        };
        Some(match two_dimensional {
            true => HostPaging::TwoDimensional,
            false => HostPaging::Shadow,
        })
    });
    paging.unwrap_or(HostPaging::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_say_how_kvm_pages() {
        for (name, file, value, expected) in [
            ("kvm_intel", "ept", "Y\n", HostPaging::TwoDimensional),
            ("kvm_intel", "ept", "N\n", HostPaging::Shadow),
            ("kvm_amd", "npt", "1\n", HostPaging::TwoDimensional),
            ("kvm_pvm", "verbose", "N\n", HostPaging::Shadow),
            ("kvmgt", "ept", "Y\n", HostPaging::Unknown),
        ] {
            let sys = tempfile::tempdir().unwrap();
            let parameters = sys.path().join(name).join("parameters");
            fs::create_dir_all(&parameters).unwrap();
            fs::write(parameters.join(file), value).unwrap();
            fs::create_dir(sys.path().join("kvm")).unwrap();
            assert_eq!(
                paging(&modules(sys.path())),
                expected,
                "{name} {file}={value}"
            );
        }
        assert_eq!(modules(Path::new("/nowhere")), []);
    }
}
