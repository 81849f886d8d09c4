//! Healthy pages: all sums are right.

use std::time::Duration;

use surefault_core::plan::{FaultPlan, Latency};

use crate::Case;
use crate::rig::{assert_finished, failing, go, spec};

pub(crate) const CASES: &[Case] = &[
    ("any_number_of_vcpus_tasks_and_pages", shapes),
    ("many_pages", many_pages),
    ("pages_that_take_their_time", latency),
    ("temporary_errors_heal_unreported", temporary),
];

fn shapes() {
    for (pages, tasks, vcpus) in [
        (4, 1, 1),
        (4, 16, 2),
        (1, 1, 2),
        (7, 3, 1),
        (64, 16, 1),
        (1000, 5, 2),
    ] {
        let spec = spec(pages, tasks, vcpus);
        assert_finished(&go(&spec, &mut ()), &spec);
    }
}

fn many_pages() {
    let spec = spec(65_536, 16, 2);
    assert_finished(&go(&spec, &mut ()), &spec);
}

fn latency() {
    let mut spec = spec(64, 4, 2);
    let latency = Latency::new(Duration::ZERO, Duration::from_millis(5)).unwrap();
    spec.plan = FaultPlan::new(1, latency);
    assert_finished(&go(&spec, &mut ()), &spec);
}

fn temporary() {
    let spec = failing(spec(32, 4, 1), "3,9-12:temporary=2");
    assert_finished(&go(&spec, &mut ()), &spec);
}
