//! The second figure: progress over time around an error.

use std::time::Duration;

use surefault_sim::compare::{Row, Timeline, TimelineLine, Whose};

use super::Sheet;
use super::panels::{self, Frame, Panel};
use super::scale::ticks;
use super::svg::{Anchor, Svg};

/// Draws it, and returns its height.
pub(super) fn draw(svg: &mut Svg, sheet: &Sheet<'_>, timeline: &Timeline) -> f64 {
    let names: Vec<&str> = timeline
        .lines
        .iter()
        .map(|line| line.policy.as_str())
        .collect();
    let count = timeline
        .lines
        .first()
        .map_or(0, |line| line.per_mille.len());
    let unit = Unit::of(timeline.window * count as u32);
    let window = unit.number(timeline.window);
    let x = (
        -(timeline.before as f64) * window,
        (count - timeline.before) as f64 * window,
    );
    let values = || timeline.lines.iter().flat_map(|line| &line.per_mille);
    let most = values()
        .flatten()
        .max()
        .map_or(100.0, |&most| most as f64 / 10.0);
    let y_ticks = ticks(0.0, most.max(100.0), 4.0);
    let whose = match timeline.whose {
        Whose::HealthyTasks => "tasks without failing pages",
        Whose::CountingTasks => "tasks that only count, while the others wait",
    };
    let frame = Frame {
        title: &format!("{}: progress around an error", sheet.name),
        subtitle: &format!(
            "{}, {}. Progress of {whose}. Simulated.",
            sheet.sized(),
            match sheet.size.failing {
                1 => "1 page fails".to_owned(),
                failing => format!("{failing} pages fail"),
            }
        ),
        x_label: &format!("time since the first error, {}", unit.name()),
        y_label: match timeline.whose {
            Whose::HealthyTasks => "% of a run without errors",
            Whose::CountingTasks => "% of the vCPUs' time",
        },
        x_ticks: ticks(x.0, x.1, 5.0)
            .into_iter()
            .map(|tick| (tick, tick.to_string()))
            .collect(),
        y_ticks: y_ticks
            .into_iter()
            .map(|tick| (tick, tick.to_string()))
            .collect(),
        x,
        y: (0.0, most.max(105.0)),
        logarithmic: false,
    };
    panels::draw(
        svg,
        &frame,
        &names,
        |svg, place, panel| {
            let line = &timeline.lines[place];
            marks(svg, panel);
            steps(svg, panel, timeline, line, x.0, window);
            strip(svg, panel, timeline, line, sheet.rows.get(place));
        },
        |svg, panel| key(svg, panel, timeline.whose),
    )
}

/// The moment of the error, and the pace without one.
fn marks(svg: &mut Svg, panel: &Panel) {
    let (x, y) = (panel.x.at(0.0), panel.y.at(100.0));
    svg.line("dash", (x, panel.top), (x, panel.bottom));
    svg.line("dash", (panel.left, y), (panel.right, y));
}

/// One step a window, and the area below.
fn steps(
    svg: &mut Svg,
    panel: &Panel,
    timeline: &Timeline,
    line: &TimelineLine,
    from: f64,
    window: f64,
) {
    let mut outline = Vec::new();
    for (at, value) in line.per_mille.iter().enumerate() {
        let Some(value) = value else { break };
        let y = panel.y.at(*value as f64 / 10.0);
        let start = from + at as f64 * window;
        outline.extend([(panel.x.at(start), y), (panel.x.at(start + window), y)]);
    }
    debug_assert!(timeline.before <= line.per_mille.len());
    if let (Some(&(left, _)), Some(&(right, _))) = (outline.first(), outline.last()) {
        let ground = panel.y.at(0.0);
        let mut area = outline.clone();
        area.extend([(right, ground), (left, ground)]);
        svg.path("pale", &area, true);
        svg.path("line", &outline, false);
    }
}

/// What the eye should not have to measure.
fn strip(
    svg: &mut Svg,
    panel: &Panel,
    timeline: &Timeline,
    line: &TimelineLine,
    row: Option<&Row>,
) {
    let after: Vec<u64> = line.per_mille[timeline.before..]
        .iter()
        .flatten()
        .copied()
        .collect();
    let y = panel.strip + 4.0;
    if let Some(mean) = after.iter().sum::<u64>().checked_div(after.len() as u64) {
        let text = format!("after: {} %", (mean + 5) / 10);
        svg.text("ink", Anchor::End, panel.right, y, &text);
    }
    if let Some(row) = row.filter(|row| row.looped > 0) {
        let class = if row.looped == row.runs {
            "loop"
        } else {
            "some"
        };
        svg.triangle(class, (panel.left + 6.0, panel.strip));
        let text = format!("looped {}/{}", row.looped, row.runs);
        svg.text("looped", Anchor::Start, panel.left + 16.0, y, &text);
    }
}

/// How to read a panel.
fn key(svg: &mut Svg, panel: &Panel, whose: Whose) {
    svg.text(
        "name ink",
        Anchor::Start,
        panel.left,
        panel.top - 22.0,
        "how to read",
    );
    let (left, x) = (panel.left, panel.left + 34.0);
    let mut y = panel.strip;
    let mut say = |svg: &mut Svg, texts: &[&str]| {
        let here = y;
        for text in texts {
            svg.text("dim", Anchor::Start, x, y + 4.0, text);
            y += 15.0;
        }
        y += 5.0;
        here
    };
    let here = say(svg, &["progress in one window"]);
    svg.rect("pale", (left, here - 4.0), (24.0, 9.0));
    svg.line("line", (left, here - 4.0), (left + 24.0, here - 4.0));
    let here = say(svg, &["upright: the first error"]);
    svg.line("dash", (left + 12.0, here - 8.0), (left + 12.0, here + 8.0));
    let level = match whose {
        Whose::HealthyTasks => "level: as without errors",
        Whose::CountingTasks => "level: all of the time",
    };
    let here = say(svg, &[level]);
    svg.line("dash", (left, here), (left + 24.0, here));
    say(
        svg,
        &["after: mean of the windows", "after the first error"],
    );
    let here = say(
        svg,
        &["the access loops; the run", "was given up as looped"],
    );
    svg.triangle("loop", (left + 12.0, here));
}

/// Of times.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Unit {
    Micros,
    Millis,
}

impl Unit {
    fn of(whole: Duration) -> Unit {
        match whole < Duration::from_millis(2) {
            true => Unit::Micros,
            false => Unit::Millis,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Unit::Micros => "us",
            Unit::Millis => "ms",
        }
    }

    fn number(self, time: Duration) -> f64 {
        let micros = time.as_micros() as f64;
        match self {
            Unit::Micros => micros,
            Unit::Millis => micros / 1000.0,
        }
    }
}
