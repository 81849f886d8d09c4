//! The first figure: how the retries of failing accesses are distributed, the more of them there are.

use surefault_core::policy::PolicyKind;
use surefault_sim::Histogram;

use super::panels::{self, Frame, Panel};
use super::scale::log_ticks;
use super::svg::{Anchor, Svg};
use super::{Sheet, Step};

/// Half of the width of a bar.
const HALF: f64 = 3.0;

/// Draws it, and returns its height.
pub(super) fn draw(svg: &mut Svg, sheet: &Sheet<'_>) -> f64 {
    let Some(first) = sheet.steps.first() else {
        return 0.0;
    };
    let policies: Vec<PolicyKind> = first.rows.iter().map(|row| row.policy).collect();
    let names: Vec<&str> = policies.iter().map(|policy| policy.as_str()).collect();
    let rows = || sheet.steps.iter().flat_map(|step| &step.rows);
    // Where every run was given up there is no distribution to show.
    let shown = rows().filter(|row| row.looped < row.runs);
    let most = shown.filter_map(|row| row.retries.max()).max();
    let y_ticks = log_ticks(most.unwrap_or(0).max(5));
    let top = y_ticks.last().copied().unwrap_or(1) as f64;
    let last = sheet.steps.len() - 1;
    let deals = sheet.steps[last].failing > sheet.size.tasks.into();
    let frame = Frame {
        title: &format!("{}: retries of a failing access until it ends", sheet.name),
        subtitle: &format!("{} and number of failing pages. Simulated.", sheet.sized()),
        x_label: match deals {
            true => "pages that fail (dealt round-robin to the tasks)",
            false => "tasks that fail (one page each)",
        },
        y_label: "retries of one access",
        x_ticks: (0..)
            .zip(&sheet.steps)
            .map(|(at, step)| (f64::from(at), step.failing.to_string()))
            .collect(),
        y_ticks: y_ticks
            .iter()
            .map(|&tick| (tick as f64, tick.to_string()))
            .collect(),
        // A single one stands in the middle.
        x: if last == 0 {
            (-1.0, 1.0)
        } else {
            (0.0, last as f64)
        },
        y: (0.0, top),
        logarithmic: true,
    };
    panels::draw(
        svg,
        &frame,
        &names,
        |svg, place, panel| {
            for (at, step) in (0..).zip(&sheet.steps) {
                point(svg, panel, panel.x.at(f64::from(at)), step, place);
            }
        },
        key,
    )
}

fn point(svg: &mut Svg, panel: &Panel, x: f64, step: &Step, place: usize) {
    let row = &step.rows[place];
    if row.looped > 0 {
        let class = if row.looped == row.runs {
            "loop"
        } else {
            "some"
        };
        svg.triangle(class, (x, panel.strip));
    }
    if row.looped < row.runs || row.runs == 0 {
        distribution(svg, panel, x, &row.retries);
    }
}

fn distribution(svg: &mut Svg, panel: &Panel, x: f64, seen: &Histogram) {
    let Some(most) = seen.max() else { return };
    let at = |per_mille| panel.y.at(seen.quantile(per_mille).unwrap_or(0) as f64);
    glyph(
        svg,
        x,
        [
            at(1),
            at(250),
            at(500),
            at(750),
            at(990),
            panel.y.at(most as f64),
        ],
    );
}

/// From the least to the most, with a bar for the middle half, a dot for the median, and a tick at
/// the 99th percentile.
fn glyph(svg: &mut Svg, x: f64, places: [f64; 6]) {
    let [least, quarter, median, three, percentile, most] = places;
    svg.line("line", (x, least), (x, most));
    svg.rect("pale", (x - HALF, three), (2.0 * HALF, quarter - three));
    svg.line("line", (x - HALF, percentile), (x + HALF, percentile));
    svg.dot("data", (x, median), 2.8);
}

/// How to read a panel.
fn key(svg: &mut Svg, panel: &Panel) {
    let x = panel.left + 14.0;
    let top = panel.top + 34.0;
    let places = [84.0, 70.0, 54.0, 36.0, 18.0, 2.0].map(|below| top + below);
    svg.text(
        "name ink",
        Anchor::Start,
        panel.left,
        panel.top - 22.0,
        "how to read",
    );
    glyph(svg, x, places);
    let [least, _, median, _, percentile, most] = places;
    for (y, text) in [
        (most, "most"),
        (percentile, "99 %"),
        (median, "median; bar: middle half"),
        (least, "least"),
    ] {
        svg.text("dim", Anchor::Start, x + 12.0, y + 4.0, text);
    }
    for (class, y, text) in [
        ("loop", panel.strip, "looped, in every run"),
        ("some", panel.strip + 17.0, "looped, in some runs"),
    ] {
        svg.triangle(class, (x, y));
        svg.text("dim", Anchor::Start, x + 12.0, y + 4.0, text);
    }
}
