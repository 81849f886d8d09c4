//! Writes SVG: the few elements that the figures need, as text that does not depend on the machine.

use std::fmt::{Display, Write as _};

/// How the figures look, in light and in dark. Classes carry the colours, rather than variables, so
/// that viewers which know neither variables nor media queries show the light ones. The two colours
/// of the data are told apart by every kind of colour blindness (Okabe and Ito).
pub(super) const STYLE: &str = "\
.sf{font-family:system-ui,'Liberation Sans','DejaVu Sans',sans-serif;font-size:12px}
.sf .title{font-size:17px;font-weight:600}
.sf .name{font-size:13px;font-weight:600}
.sf .paper{fill:#ffffff}
.sf .ink{fill:#1f2328}
.sf .dim{fill:#59636e}
.sf .grid{stroke:#dfe3e8;fill:none}
.sf .axis{stroke:#59636e;fill:none}
.sf .dash{stroke:#59636e;fill:none;stroke-dasharray:4 3}
.sf .data{fill:#0072b2}
.sf .pale{fill:#0072b2;fill-opacity:.3}
.sf .line{stroke:#0072b2;fill:none;stroke-width:1.6}
.sf .loop{fill:#c44e00;stroke:#c44e00}
.sf .some{fill:none;stroke:#c44e00;stroke-width:1.4}
.sf .looped{fill:#c44e00}
@media (prefers-color-scheme:dark){
.sf .paper{fill:#0d1117}
.sf .ink{fill:#e6edf3}
.sf .dim{fill:#9ea7b3}
.sf .grid{stroke:#2a313c}
.sf .axis{stroke:#9ea7b3}
.sf .dash{stroke:#9ea7b3}
.sf .data{fill:#56b4e9}
.sf .pale{fill:#56b4e9}
.sf .line{stroke:#56b4e9}
.sf .loop{fill:#f0a030;stroke:#f0a030}
.sf .some{stroke:#f0a030}
.sf .looped{fill:#f0a030}
}
";

/// Where a text stands from its point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

impl Anchor {
    fn name(self) -> &'static str {
        match self {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        }
    }
}

/// Elements, one a line.
#[derive(Clone, Debug, Default)]
pub(super) struct Svg {
    body: String,
}

impl Svg {
    pub(super) fn text(&mut self, class: &str, anchor: Anchor, x: f64, y: f64, text: &str) {
        let (x, y, anchor, text) = (number(x), number(y), anchor.name(), escaped(text));
        self.push(format_args!(
            r#"<text class="{class}" x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>"#
        ));
    }

    /// A text that is read from below, centred at its point.
    pub(super) fn upright(&mut self, class: &str, x: f64, y: f64, text: &str) {
        let (x, y, text) = (number(x), number(y), escaped(text));
        self.push(format_args!(
            r#"<text class="{class}" transform="translate({x} {y}) rotate(-90)" text-anchor="middle">{text}</text>"#
        ));
    }

    pub(super) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let [x1, y1, x2, y2] = [from.0, from.1, to.0, to.1].map(number);
        self.push(format_args!(
            r#"<line class="{class}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>"#
        ));
    }

    pub(super) fn rect(&mut self, class: &str, at: (f64, f64), size: (f64, f64)) {
        let [x, y, width, height] = [at.0, at.1, size.0, size.1].map(number);
        self.push(format_args!(
            r#"<rect class="{class}" x="{x}" y="{y}" width="{width}" height="{height}"/>"#
        ));
    }

    pub(super) fn dot(&mut self, class: &str, at: (f64, f64), radius: f64) {
        let [x, y, radius] = [at.0, at.1, radius].map(number);
        self.push(format_args!(
            r#"<circle class="{class}" cx="{x}" cy="{y}" r="{radius}"/>"#
        ));
    }

    /// A triangle that points upwards.
    pub(super) fn triangle(&mut self, class: &str, at: (f64, f64)) {
        let (x, y) = at;
        self.path(
            class,
            &[(x - 4.5, y + 4.0), (x + 4.5, y + 4.0), (x, y - 4.0)],
            true,
        );
    }

    pub(super) fn path(&mut self, class: &str, points: &[(f64, f64)], closed: bool) {
        let mut path = String::new();
        for (at, &(x, y)) in points.iter().enumerate() {
            let step = if at == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{step}{} {}", number(x), number(y));
        }
        let end = if closed { "Z" } else { "" };
        self.push(format_args!(r#"<path class="{class}" d="{path}{end}"/>"#));
    }

    /// All of another, moved down.
    pub(super) fn below(&mut self, y: f64, other: &Svg) {
        self.push(format_args!(
            "<g transform=\"translate(0 {})\">\n{}</g>",
            number(y),
            other.body
        ));
    }

    /// The whole picture. `label` is for those who cannot see it.
    pub(super) fn document(&self, width: f64, height: f64, label: &str) -> String {
        let (width, height, label) = (number(width), number(height), escaped(label));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"sf\" role=\"img\" \
             width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">\n\
             <title>{label}</title>\n<style>\n{STYLE}</style>\n\
             <rect class=\"paper\" width=\"{width}\" height=\"{height}\"/>\n{}</svg>\n",
            self.body
        )
    }

    fn push(&mut self, element: impl Display) {
        let _ = writeln!(self.body, "{element}");
    }
}

/// A tenth of a pixel is exact enough, and short.
fn number(value: f64) -> String {
    let tenths = format!("{value:.1}");
    let short = tenths.strip_suffix(".0").unwrap_or(&tenths);
    match short {
        "-0" => "0".to_owned(),
        _ => short.to_owned(),
    }
}

/// What a text may contain.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            // XML knows no way to write the others.
            c if c.is_control() && !matches!(c, '\n' | '\t') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_texts_are_escaped() {
        let written = [0.0, -0.04, 1.25, 10.0, 99.96, -3.5].map(number);
        assert_eq!(written, ["0", "0", "1.2", "10", "100", "-3.5"]);
        assert_eq!(
            escaped("a<b & \"c\"\u{1}"),
            "a&lt;b &amp; &quot;c&quot;\u{fffd}"
        );
    }

    #[test]
    fn every_class_has_a_colour_in_the_dark() {
        let (light, dark) = STYLE.split_once("@media").expect("both");
        let colours = |style: &str| -> Vec<String> {
            let coloured = style.lines().filter(|line| line.contains('#'));
            let class = coloured.filter_map(|line| Some(line.split_once('{')?.0.to_owned()));
            class.collect()
        };
        assert_eq!(colours(light), colours(dark));
    }
}
