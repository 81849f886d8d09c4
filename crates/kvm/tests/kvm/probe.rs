//! The probe, on whatever host this is.

use std::time::{Duration, Instant};

use surefault_core::run::ApfMode;
use surefault_kvm::probe::{Asynchronous, Synchronous, probe};
use surefault_kvm::signals;

use crate::Case;
use crate::rig::from_user_space;

pub(crate) const CASES: &[Case] = &[("the_probe_finds_out_what_linux_does", finds_out)];

fn finds_out() {
    let started = Instant::now();
    let probe = probe(signals::install().unwrap());
    assert!(started.elapsed() < Duration::from_secs(30), "bounded");
    assert!(!probe.kernel.is_empty());
    let kvm = probe.kvm.as_ref().unwrap();
    assert!(kvm.has("IRQCHIP"));
    assert!(probe.userfaultfd.is_ok());
    let experiment = probe.experiment.as_ref().unwrap().as_ref().unwrap();
    // No kernel that there is names the page, or ends the loop; one that does will be good news.
    match experiment.synchronous {
        Synchronous::Refused(refusal) => assert_eq!(refusal.errno, 14, "EFAULT"),
        Synchronous::Endless => panic!("a synchronous fault that does not end: {probe:#?}"),
    }
    match experiment.asynchronous {
        Some(Asynchronous::Loops { faults, .. }) => assert!(faults >= 100),
        Some(Asynchronous::Refused(_) | Asynchronous::Undecided { .. }) | None => {
            println!("not seen looping: {experiment:?}");
        }
    }
    for mode in &probe.modes {
        match mode.apf {
            ApfMode::Off => assert!(mode.works(), "{mode:?}"),
            ApfMode::Kernel => assert_eq!(mode.works(), kvm.has("ASYNC_PF_INT"), "{mode:?}"),
            ApfMode::User => assert_eq!(mode.works(), from_user_space().is_ok(), "{mode:?}"),
        }
    }
    if std::env::var_os("SUREFAULT_SHOW").is_some() {
        println!("{:?}\n{probe:#?}", started.elapsed());
    }
}
