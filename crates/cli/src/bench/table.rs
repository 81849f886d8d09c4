//! The table, for people.

use std::fmt::Write as _;

use surefault_bench::{Contest, HandlerKind, Order, Row, Spread};

/// The load average of the last minute, as the kernel says it.
pub(super) fn load() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split(' ').next()?.parse().ok()
}

/// How many CPUs this process may use.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

const HEAD: [&str; 2] = [
    "| accesses | handler | pages/s (min–max) | p50 | p99 | × floor (min–max) | × ceiling |",
    "|---|---|---|---|---|---|---|",
];
/// Beside it, where the unsupervised daemon takes part.
const HEAD_UNSUPERVISED: [&str; 2] = [" × unsupervised (min–max) |", "---|"];

/// As it stands in docs/performance.md.
pub(super) fn text(contest: &Contest, rows: &[Row], load: (Option<f64>, Option<f64>)) -> String {
    let mut text = String::new();
    let average = |load: Option<f64>| load.map_or("?".to_owned(), |load| format!("{load:.1}"));
    let _ = writeln!(
        text,
        "{} pages a VM, {} rounds in turns, medians; {} cores, load average {} before and {} after\n",
        contest.pages,
        contest.rounds,
        cores(),
        average(load.0),
        average(load.1)
    );
    for (line, more) in HEAD.into_iter().zip(HEAD_UNSUPERVISED) {
        let more = if contest.unsupervised { more } else { "" };
        let _ = writeln!(text, "{line}{more}");
    }
    for row in rows {
        let more = match row.entrant.name == contest.surefault.name() {
            _ if !contest.unsupervised => String::new(),
            true => format!(" {} |", ratio(&row.to_unsupervised, true)),
            false => " – |".to_owned(),
        };
        let _ = writeln!(text, "{}{more}", line(row));
    }
    text
}

fn line(row: &Row) -> String {
    let order = match row.entrant.order {
        Order::Random => "random",
        Order::Sequential => "sequential",
    };
    let threads = match row.entrant.threads {
        1 => "1 thread".to_owned(),
        n => format!("{n} threads"),
    };
    let floor = HandlerKind::Floor.name();
    let to_floor = match row.entrant.name == floor {
        true => "1".to_owned(),
        false => ratio(&row.to_floor, true),
    };
    let to_ceiling = match row.entrant.order {
        Order::Random => "–".to_owned(),
        Order::Sequential if row.entrant.name == HandlerKind::Ceiling.name() => "1".to_owned(),
        Order::Sequential => ratio(&row.to_ceiling, false),
    };
    format!(
        "| {order}, {threads} | {} | {} ({}–{}) | {} | {} | {to_floor} | {to_ceiling} |",
        row.entrant.name,
        rate(row.pages_per_second.median()),
        rate(row.pages_per_second.min()),
        rate(row.pages_per_second.max()),
        micros(row.p50_ns.median()),
        micros(row.p99_ns.median()),
    )
}

fn ratio(of: &Spread, with_ends: bool) -> String {
    match with_ends {
        true => format!("**{:.2}** ({:.2}–{:.2})", of.median(), of.min(), of.max()),
        false => format!("{:.2}", of.median()),
    }
}

/// Thousands a second.
fn rate(pages_per_second: f64) -> String {
    format!("{:.0} k", pages_per_second / 1e3)
}

fn micros(nanos: f64) -> String {
    match nanos {
        ..10_000.0 => format!("{:.1} µs", nanos / 1e3),
        _ => format!("{:.0} µs", nanos / 1e3),
    }
}
