//! The daemon's numbers, in the text format of Prometheus.

use core::fmt::Write as _;
use std::time::Duration;

use crate::daemon::Shared;

/// Upper bounds of the histogram's buckets, in microseconds.
const BOUNDS: [u64; 12] = [
    5, 10, 25, 50, 100, 250, 1_000, 5_000, 25_000, 100_000, 1_000_000, 5_000_000,
];

/// All numbers: those of VMs that have ended, and of those that live.
pub(crate) fn render(shared: &Shared) -> String {
    let mut totals = shared.totals();
    let vms = shared.vms();
    let (mut bytes, mut present, mut pending, mut failed) = (0, 0, 0, 0);
    for vm in &vms {
        bytes += vm.record.bytes();
        totals.failures += vm.attendant.failures();
        vm.ask(|pager| {
            totals.stats.add(&pager.stats());
            totals.latencies.merge(&pager.latencies());
            present += pager.residency().0.get();
            pending += pager.residency().1.get();
            failed += pager.failed_pages().len();
        });
    }
    let mut text = String::new();
    let mut gauge = |name, help, value: u64| metric(&mut text, "gauge", name, help, value);
    gauge("vms", "VMs that are served now.", vms.len() as u64);
    gauge("memory_bytes", "Bytes of their memory.", bytes);
    gauge(
        "present_pages",
        "Pages of theirs that are in place.",
        present,
    );
    gauge(
        "pending_pages",
        "Pages of theirs that are waited for or read ahead.",
        pending,
    );
    gauge(
        "failed_pages",
        "Pages of theirs that cannot be provided.",
        failed as u64,
    );
    let mut counter = |name, help, value: u64| metric(&mut text, "counter", name, help, value);
    counter(
        "vms_started_total",
        "Handshakes that were accepted.",
        totals.started,
    );
    counter(
        "refused_total",
        "Connections that were not accepted.",
        totals.refused,
    );
    counter(
        "page_failures_total",
        "Times that a page failed.",
        totals.failures,
    );
    for (name, value) in totals.stats.named() {
        let help = "A counter of the pager; docs/json.md describes it.";
        metric(
            &mut text,
            "counter",
            &format!("pager_{name}_total"),
            help,
            value,
        );
    }
    let name = "surefault_serve_fault_seconds";
    let latencies = &totals.latencies;
    let help = "From a page fault's event to the wake-up of who waits for it.";
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} histogram");
    for micros in BOUNDS {
        let count = latencies.at_most(Duration::from_micros(micros));
        let bound = Duration::from_micros(micros).as_secs_f64();
        let _ = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {count}");
    }
    let (count, sum) = (latencies.count(), latencies.sum().as_secs_f64());
    let _ = writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {count}");
    let _ = writeln!(text, "{name}_sum {sum}\n{name}_count {count}");
    text
}

fn metric(text: &mut String, kind: &str, name: &str, help: &str, value: u64) {
    let name = format!("surefault_serve_{name}");
    let _ = writeln!(
        text,
        "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
    );
}
