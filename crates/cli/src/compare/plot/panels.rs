//! Small multiples: one panel a policy, all with the same axes, so that policies which do the same
//! stand beside each other and not on top.

use super::scale::Scale;
use super::svg::{Anchor, Svg};

pub(super) const WIDTH: f64 = 920.0;
const COLUMNS: usize = 4;
/// Left of the first panel: the axis, its numbers and what they are.
const LEFT: f64 = 62.0;
const RIGHT: f64 = 18.0;
const BETWEEN: f64 = 16.0;
/// No panel is wider, however few there are.
const WIDEST: f64 = 300.0;
/// Above the panels: the title and a line below it.
const HEAD: f64 = 62.0;
/// Of a panel: its name, and the strip beyond the axis.
const NAME: f64 = 18.0;
const STRIP: f64 = 18.0;
const PLOT: f64 = 128.0;
/// Below it: the numbers of the axis, and air.
const FOOT: f64 = 36.0;

/// What all panels have in common.
#[derive(Clone, Debug)]
pub(super) struct Frame<'a> {
    pub(super) title: &'a str,
    pub(super) subtitle: &'a str,
    /// What the numbers at the axes are, with their unit.
    pub(super) x_label: &'a str,
    pub(super) y_label: &'a str,
    pub(super) x_ticks: Vec<(f64, String)>,
    pub(super) y_ticks: Vec<(f64, String)>,
    /// The numbers at both ends of the axes.
    pub(super) x: (f64, f64),
    pub(super) y: (f64, f64),
    /// The axis upwards is logarithmic.
    pub(super) logarithmic: bool,
}

/// Where a panel's data go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Panel {
    pub(super) x: Scale,
    pub(super) y: Scale,
    pub(super) left: f64,
    pub(super) right: f64,
    pub(super) top: f64,
    pub(super) bottom: f64,
    /// The middle of the strip beyond the axis.
    pub(super) strip: f64,
}

/// Draws a panel for each of `names`, and in the place after them the key. Returns the height.
pub(super) fn draw(
    svg: &mut Svg,
    frame: &Frame<'_>,
    names: &[&str],
    mut data: impl FnMut(&mut Svg, usize, &Panel),
    key: impl FnOnce(&mut Svg, &Panel),
) -> f64 {
    svg.text("title ink", Anchor::Start, 18.0, 28.0, frame.title);
    svg.text("dim", Anchor::Start, 18.0, 48.0, frame.subtitle);
    let places = names.len() + 1;
    let columns = places.min(COLUMNS);
    let rows = places.div_ceil(COLUMNS);
    let room = WIDTH - LEFT - RIGHT - BETWEEN * (columns - 1) as f64;
    let width = (room / columns as f64).min(WIDEST);
    let row = NAME + STRIP + PLOT + FOOT;
    let panel = |place: usize| {
        let left = LEFT + (width + BETWEEN) * (place % columns) as f64;
        let top = HEAD + row * (place / columns) as f64 + NAME + STRIP;
        // Air inside, so that what lies on an edge is seen whole.
        let scale = |numbers, places| Scale {
            numbers,
            places,
            logarithmic: false,
        };
        Panel {
            x: scale(frame.x, (left + 10.0, left + width - 10.0)),
            y: Scale {
                logarithmic: frame.logarithmic,
                ..scale(frame.y, (top + PLOT - 8.0, top + 4.0))
            },
            left,
            right: left + width,
            top,
            bottom: top + PLOT,
            strip: top - STRIP / 2.0,
        }
    };
    for (place, name) in names.iter().enumerate() {
        let panel = panel(place);
        svg.text(
            "name ink",
            Anchor::Start,
            panel.left,
            panel.top - STRIP - 4.0,
            name,
        );
        axes(svg, frame, &panel, place % columns == 0);
        data(svg, place, &panel);
    }
    key(svg, &panel(names.len()));
    let height = HEAD + row * rows as f64 + 6.0;
    let middle = LEFT + (width * columns as f64 + BETWEEN * (columns - 1) as f64) / 2.0;
    svg.text("ink", Anchor::Middle, middle, height, frame.x_label);
    let half = HEAD + (row * rows as f64 - FOOT + NAME + STRIP) / 2.0;
    svg.upright("ink", 20.0, half, frame.y_label);
    height + 12.0
}

/// The first of a row has the numbers.
fn axes(svg: &mut Svg, frame: &Frame<'_>, panel: &Panel, first: bool) {
    for (number, text) in &frame.y_ticks {
        let y = panel.y.at(*number);
        svg.line("grid", (panel.left, y), (panel.right, y));
        if first {
            svg.text("dim", Anchor::End, panel.left - 6.0, y + 4.0, text);
        }
    }
    svg.line(
        "axis",
        (panel.left, panel.bottom),
        (panel.right, panel.bottom),
    );
    let mut free = f64::MIN;
    for (number, text) in &frame.x_ticks {
        let x = panel.x.at(*number);
        svg.line("axis", (x, panel.bottom), (x, panel.bottom + 3.0));
        // Numbers that would run into each other are left out.
        let half = text.chars().count() as f64 * 3.4;
        if x - half > free {
            svg.text("dim", Anchor::Middle, x, panel.bottom + 16.0, text);
            free = x + half + 5.0;
        }
    }
}
