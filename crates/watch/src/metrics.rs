//! What was found, in Prometheus's text format. Serving it is the application's.

use core::fmt::Write;

use surefault_core::VcpuId;

use crate::ids::{Pid, Tid};
use crate::report::Snapshot;

/// The exposition of `snapshot`: `text/plain; version=0.0.4`.
pub fn render(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    let stats = &snapshot.stats;
    let counters = [
        (
            "events_total",
            "Events of async page faults that were read.",
            stats.events,
        ),
        (
            "lost_events_total",
            "Events that were overwritten before they could be read.",
            stats.lost_events,
        ),
        (
            "malformed_events_total",
            "Events that were not understood.",
            stats.malformed_events,
        ),
        ("async_faults_total", "Async page faults.", stats.faults),
        (
            "temporary_total",
            "Pages that were asked for again, and came.",
            stats.temporary,
        ),
        ("stuck_cases_total", "Stuck vCPUs found.", stats.stuck_cases),
        (
            "frozen_cases_total",
            "Frozen threads found.",
            stats.frozen_cases,
        ),
    ];
    for (name, help, value) in counters {
        head(&mut out, name, help, "counter");
        let _ = writeln!(out, "surefault_watch_{name} {value}");
    }
    let gauges = [
        (
            "tracing",
            "Whether page faults are traced.",
            u64::from(stats.tracing),
        ),
        (
            "machines",
            "Processes that are virtual machines.",
            stats.machines as u64,
        ),
        (
            "remembered_pages",
            "Pages that are remembered.",
            stats.remembered_pages as u64,
        ),
    ];
    for (name, help, value) in gauges {
        head(&mut out, name, help, "gauge");
        let _ = writeln!(out, "surefault_watch_{name} {value}");
    }
    head(
        &mut out,
        "stuck_retries",
        "How often a stuck vCPU has asked for its page again.",
        "gauge",
    );
    for stuck in &snapshot.stuck {
        let labels = labels(stuck.pid, stuck.tid, &stuck.comm, stuck.vcpu);
        let (gfn, cause, retries) = (stuck.gfn, stuck.cause.kind, stuck.retries);
        let _ = writeln!(
            out,
            "surefault_watch_stuck_retries{{{labels},gfn=\"{gfn}\",cause=\"{cause}\"}} {retries}"
        );
    }
    head(
        &mut out,
        "frozen_seconds",
        "For how long a thread has waited for a page, at least.",
        "gauge",
    );
    for frozen in &snapshot.frozen {
        let labels = labels(frozen.pid, frozen.tid, &frozen.comm, frozen.vcpu);
        let (cause, seconds) = (frozen.cause.kind, frozen.since.as_secs_f64());
        let _ = writeln!(
            out,
            "surefault_watch_frozen_seconds{{{labels},cause=\"{cause}\"}} {seconds}"
        );
    }
    out
}

fn head(out: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(out, "# HELP surefault_watch_{name} {help}");
    let _ = writeln!(out, "# TYPE surefault_watch_{name} {kind}");
}

fn labels(pid: Pid, tid: Tid, comm: &str, vcpu: Option<VcpuId>) -> String {
    let vcpu = vcpu.map(|vcpu| vcpu.to_string()).unwrap_or_default();
    let comm = escaped(comm);
    format!("pid=\"{pid}\",tid=\"{tid}\",comm=\"{comm}\",vcpu=\"{vcpu}\"")
}

/// A thread may call itself anything.
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for character in value.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::samples;

    #[test]
    fn the_exposition_has_a_line_for_each_case() {
        let mut snapshot = Snapshot::default();
        snapshot.stuck.push(samples::stuck());
        snapshot.frozen.push(samples::frozen());
        snapshot.stats.lost_events = 3;
        let text = render(&snapshot);
        let has = |line: &str| assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        has("surefault_watch_lost_events_total 3");
        has("# TYPE surefault_watch_stuck_retries gauge");
        has(
            "surefault_watch_stuck_retries{pid=\"10\",tid=\"11\",comm=\"CPU 3/KVM\",vcpu=\"3\",\
             gfn=\"515\",cause=\"truncated\"} 2900",
        );
        has(
            "surefault_watch_frozen_seconds{pid=\"10\",tid=\"12\",comm=\"fc_vcpu 0\",vcpu=\"\",\
             cause=\"handler-gone\"} 7.5",
        );
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let value = line.rsplit(' ').next().expect("a value");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }

    #[test]
    fn names_cannot_break_a_line() {
        assert_eq!(escaped("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
