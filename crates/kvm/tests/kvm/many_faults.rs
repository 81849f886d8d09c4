//! Many faults whose pages come in any order: every token finds its task, every sum is right, and
//! nothing is left over.
//!
//! `SUREFAULT_FULL=1` makes it 280 000 faults in each mode, half of them on one vCPU and half on two.

use std::time::Duration;

use surefault_core::plan::{FaultPlan, Latency};
use surefault_core::run::{ApfMode, Counters, RunResult, RunSpec};

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

pub(crate) fn many(apf: ApfMode, vcpus: u16) {
    many_in(apf, vcpus, |spec| go(spec, &mut ()));
}

pub(crate) fn many_in(apf: ApfMode, vcpus: u16, go: impl Fn(&RunSpec) -> RunResult) {
    let (pages, seeds) = match std::env::var_os("SUREFAULT_FULL") {
        Some(_) => (10_000, 14),
        None => (500, 4),
    };
    for seed in 0..seeds {
        // From what is not worth a kick to what is always worth one.
        let latency = [(20, 5_000), (20, 200), (20, 20_000), (1_000, 1_000)][seed as usize % 4];
        let [fastest, slowest] = [latency.0, latency.1].map(Duration::from_micros);
        let latency = Latency::new(fastest, slowest).unwrap();
        let spec = RunSpec {
            seed,
            plan: FaultPlan::new(seed, latency),
            timeout: Duration::from_secs(300),
            apf,
            ..spec(pages, TASKS, vcpus)
        };
        let result = go(&spec);
        assert_finished(&result, &spec);
        let stats = &result.stats;
        assert_eq!(stats.tokens_left, 0, "seed {seed}: {stats:?}");
        if apf != ApfMode::User {
            // But for the vCPUs that were done.
            assert_eq!(stats.returns, u64::from(vcpus), "seed {seed}: {stats:?}");
        }
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
            ApfMode::User => {
                let of = |name| stats.apf[name];
                assert!(of("announced") > 0, "seed {seed}: {stats:?}");
                // Each token comes back once, and one broadcast a vCPU; the last acks may not come,
                // from a vCPU whose last task was done.
                let tokens = of("announced") + u64::from(vcpus);
                assert_eq!(of("readies"), tokens, "seed {seed}: {stats:?}");
                assert_eq!(of("acks"), tokens, "seed {seed}: {stats:?}");
                assert_eq!(of("unreachable"), 0, "seed {seed}: {stats:?}");
            }
        }
    }
}
