use surefault_core::run::ApfMode;
use surefault_kvm::probe::{
    Asynchronous, Capability, Experiment, HostPaging, Kvm, Module, Probe, Problem, Refusal,
    Synchronous, Uffd,
};

use super::*;
use crate::json::fields::assert_described;

fn problem(what: &str) -> Problem {
    Problem {
        what: what.to_owned(),
        remedy: Some(format!("mend {what}")),
    }
}

fn mode(apf: ApfMode, problems: Vec<Problem>) -> Mode {
    Mode { apf, problems }
}

fn host() -> Probe {
    let capability = |name, value| Capability { name, value };
    Probe {
        kernel: "6.1.0".to_owned(),
        kvm: Ok(Kvm {
            capabilities: vec![capability("IRQCHIP", 1), capability("GUEST_MEMFD", 0)],
            cpuid_features: 0x10,
            modules: vec![Module {
                name: "kvm_amd".to_owned(),
                parameters: vec![("npt".to_owned(), "Y".to_owned())],
            }],
            paging: HostPaging::TwoDimensional,
        }),
        userfaultfd: Ok(Uffd {
            features: 0x1fff,
            names: "THREAD_ID".to_owned(),
            poison: false,
        }),
        experiment: Some(Ok(Experiment {
            synchronous: Synchronous::Refused(Refusal {
                errno: 14,
                exit_reason: 0,
                named: None,
            }),
            asynchronous: Some(Asynchronous::Loops {
                faults: 5000,
                elapsed_ns: 200_000_000,
            }),
        })),
        modes: vec![
            mode(ApfMode::Off, vec![]),
            mode(ApfMode::User, vec![problem("the age of this kernel")]),
        ],
    }
}

fn without_kvm() -> Probe {
    let problem = problem("/dev/kvm");
    Probe {
        kvm: Err(problem.clone()),
        experiment: None,
        modes: vec![mode(ApfMode::Off, vec![problem])],
        ..host()
    }
}

#[test]
fn a_screen_says_what_works_and_what_to_do() {
    assert_eq!(
        text::screen(&host()),
        "\
kernel       Linux 6.1.0
KVM          yes (kvm_amd), two-dimensional paging; lacks GUEST_MEMFD
userfaultfd  yes; failed pages are protected instead of poisoned (before Linux 6.6)

A page that cannot be had, with Linux alone:
  synchronous   KVM_RUN fails: Bad address (os error 14), without saying where
  asynchronous  THIS KERNEL LOOPS: 5000 faults in 200 ms, and KVM_RUN did not return

Surefault, each mode tried with a page that cannot be had:
  --apf off     works: the page is reported
  --apf user    NO: the age of this kernel
                what to do: mend the age of this kernel
"
    );
    assert_eq!(
        text::screen(&without_kvm()),
        "\
kernel       Linux 6.1.0
KVM          NO: /dev/kvm
             what to do: mend /dev/kvm
userfaultfd  yes; failed pages are protected instead of poisoned (before Linux 6.6)

Surefault, each mode tried with a page that cannot be had:
  --apf off     NO: see above

Nothing works here. The simulated machine does: surefault demo --machine sim
"
    );
}

#[test]
fn every_field_is_described() {
    let mut host = host();
    // A host that could not be: something is in every list.
    host.experiment = Some(Err(problem("the experiment")));
    host.modes.swap(0, 1);
    let mut value = serde_json::to_value(json::Found::of(&host)).unwrap();
    assert_eq!(value["outcome"], "works");
    assert_eq!(value["problems"][0]["of"], "experiment");
    let other = serde_json::to_value(json::Found::of(&self::host())).unwrap();
    for way in ["synchronous", "asynchronous"] {
        value[way] = other[way].clone();
    }
    assert_eq!(value["asynchronous"]["ended"], "loops");
    // Linux's to name.
    let elsewhere = ["kvm.modules", "kvm.capabilities"];
    assert_described("surefault probe", &value, &elsewhere);

    let without = without_kvm();
    let value = serde_json::to_value(json::Found::of(&without)).unwrap();
    assert_eq!(value["outcome"], "nothing-works");
    assert_eq!(value["kvm"], serde_json::Value::Null);
}
