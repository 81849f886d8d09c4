//! The table, for people.

use std::fmt::Write as _;

use surefault_sim::Histogram;
use surefault_sim::compare::Row;

use super::Played;
use crate::output::aligned;

const HEAD: [&str; 11] = [
    "policy",
    "ended",
    "looped",
    "retries",
    "report after",
    "wrong",
    "told",
    "refused",
    "off",
    "progress",
    "state",
];

/// What the columns say.
pub(super) const LEGEND: &str = "\
The simulated machine. ended, looped: runs; those that are neither stopped at a report or ran out of
time. retries: of an access that met a failure, until its end or until the run was given up after 200
(median / 99 % / most). report after: from the first failure of a page to its report (median / 99 %).
wrong: reports with the wrong page, or another task's registers. told: tasks killed by the guest because
it was told. refused: faults on healthy pages sent the synchronous way. off: time with asynchronous
faults off, summed over vCPUs and runs. progress: of tasks without failing pages, against a run without
failures. state: what the policy keeps. Unclaimed errors, which nobody came back for, stand below.
";

/// The table of one workload.
pub(super) fn text(played: &Played, seeds: u64) -> String {
    let Played {
        name,
        help,
        size,
        rows,
        walls: _,
    } = played;
    let mut text = format!(
        "{name}: {help}\n  {} tasks, {} failing pages, {} vCPUs, {seeds} seeds\n",
        size.tasks, size.failing, size.vcpus
    );
    let mut lines: Vec<Vec<String>> = vec![HEAD.map(str::to_owned).to_vec()];
    lines.extend(rows.iter().map(cells));
    text.push_str(&aligned("  ", &lines));
    for row in rows.iter().filter(|row| row.unclaimed > 0) {
        let _ = writeln!(text, "  {}: {} errors unclaimed", row.policy, row.unclaimed);
    }
    text
}

fn cells(row: &Row) -> Vec<String> {
    let retries = |per_mille| number(row.retries.quantile(per_mille));
    vec![
        row.policy.to_string(),
        format!("{}/{}", row.ended, row.runs),
        row.looped.to_string(),
        match row.retries.max() {
            Some(max) => format!("{}/{}/{max}", retries(500), retries(990)),
            None => "-".to_owned(),
        },
        match row.report_us.max() {
            Some(_) => format!(
                "{}/{}",
                micros(&row.report_us, 500),
                micros(&row.report_us, 990)
            ),
            None => "-".to_owned(),
        },
        row.wrong_reports.to_string(),
        row.told.to_string(),
        row.refused_healthy.to_string(),
        time(row.off.as_micros() as u64),
        match row.progress_per_mille {
            Some(per_mille) => format!("{} %", (per_mille + 5) / 10),
            None => "-".to_owned(),
        },
        format!("{} B", row.state_bytes),
    ]
}

fn number(value: Option<u64>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}

fn micros(of: &Histogram, per_mille: u64) -> String {
    of.quantile(per_mille).map_or("-".to_owned(), time)
}

/// Three digits at most, in the unit that fits.
fn time(micros: u64) -> String {
    match micros {
        0 => "0".to_owned(),
        1..1_000 => format!("{micros}us"),
        1_000..10_000 => format!("{}.{}ms", micros / 1_000, micros % 1_000 / 100),
        10_000..1_000_000 => format!("{}ms", micros / 1_000),
        _ => format!("{}.{}s", micros / 1_000_000, micros % 1_000_000 / 100_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        let written: Vec<String> = [0, 7, 1_250, 45_049, 10_235_594].map(time).into();
        assert_eq!(written, ["0", "7us", "1.2ms", "45ms", "10.2s"]);
    }
}
