//! Many faults whose pages come in any order: every token finds its task, every sum is right, and
//! nothing is left over.
//!
//! `SUREFAULT_FULL=1` makes it 10 000 faults in each of 20 runs (a quarter of an hour on a busy host of two cores).

use std::time::Duration;

use surefault_core::plan::{FaultPlan, Latency};
use surefault_core::run::{ApfMode, Counters, RunSpec};

use crate::Case;
use crate::rig::{assert_finished, go, spec};

pub(crate) const CASES: &[Case] = &[
    ("many_synchronous_faults_on_one_vcpu", || {
        many(ApfMode::Off, 1)
    }),
    ("many_synchronous_faults_on_two_vcpus", || {
        many(ApfMode::Off, 2)
    }),
    ("many_asynchronous_faults_on_one_vcpu", || {
        many(ApfMode::Kernel, 1)
    }),
    ("many_asynchronous_faults_on_two_vcpus", || {
        many(ApfMode::Kernel, 2)
    }),
];

const TASKS: u16 = 8;

fn many(apf: ApfMode, vcpus: u16) {
    let (pages, seeds) = match std::env::var_os("SUREFAULT_FULL") {
        Some(_) => (10_000, 20),
        None => (500, 3),
    };
    let latency = Latency::new(Duration::from_micros(20), Duration::from_millis(5)).unwrap();
    for seed in 0..seeds {
        let spec = RunSpec {
            seed,
            plan: FaultPlan::new(seed, latency),
            timeout: Duration::from_secs(300),
            apf,
            ..spec(pages, TASKS, vcpus)
        };
        let result = go(&spec, &mut ());
        assert_finished(&result, &spec);
        let stats = &result.stats;
        assert_eq!(stats.tokens_left, 0, "seed {seed}: {stats:?}");
        // But for the vCPUs that were done.
        assert_eq!(stats.returns, u64::from(vcpus), "seed {seed}: {stats:?}");
        let count = |counters: &Counters, name: &str| counters.get(name).copied();
        assert_eq!(
            count(&stats.pager, "installed"),
            Some(pages),
            "seed {seed}: {stats:?}"
        );
        assert_eq!(
            count(&stats.pager, "present"),
            Some(pages),
            "seed {seed}: {stats:?}"
        );
        assert_eq!(
            count(&stats.pager, "pending"),
            Some(0),
            "seed {seed}: {stats:?}"
        );
        // Each "page not present" is a page fault of the guest's to KVM.
        let announced = count(&stats.kvm, "pf_guest").unwrap_or(0);
        match apf {
            ApfMode::Off => assert_eq!(announced, 0, "seed {seed}: {stats:?}"),
            ApfMode::Kernel => assert!(announced >= pages / 2, "seed {seed}: {stats:?}"),
            ApfMode::User => unreachable!("not among the cases"),
        }
    }
}
