//! The table, for people.

use std::fmt::Write as _;

use surefault_check::{Counterexample, Verdict};
use surefault_sim::world::Step;

use super::Row;
use crate::output::aligned;

/// A column a policy, a row a property; below, what was found.
pub(super) fn text(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut lines = vec![vec!["property".to_owned()]];
    lines[0].extend(rows.iter().map(|row| row.checked.config.policy.to_string()));
    let properties = rows.first().map_or(&[][..], |row| &row.properties);
    for property in properties {
        let mut line = vec![property.to_string()];
        for row in rows {
            let found = row.verdicts().find(|(other, _)| other == property);
            line.extend(found.map(|(_, verdict)| cell(verdict)));
        }
        lines.push(line);
    }
    let number = |name: &str, of: fn(&Row) -> String| {
        let mut line = vec![name.to_owned()];
        line.extend(rows.iter().map(of));
        line
    };
    lines.push(number("states", |row| row.checked.states.to_string()));
    lines.push(number("depth", |row| row.checked.depth.to_string()));
    lines.push(number("seconds", |row| {
        format!("{:.1}", row.checked.elapsed.as_secs_f64())
    }));
    text.push_str(&aligned("", &lines));
    let _ = writeln!(
        text,
        "\nholds: on every interleaving. A number: steps to where it is broken. N + M: steps to a cycle \
         of M\nsteps that can go on for ever. ?: not violated as far as was looked."
    );
    // One policy: whoever asks for it wants to see.
    if let [row] = rows {
        for (property, verdict) in row.verdicts() {
            if let Verdict::Violated(way) = verdict {
                let _ = writeln!(text, "\n{property}: {}", property.help());
                write_way(&mut text, way);
            }
        }
    }
    text
}

fn cell(verdict: &Verdict<Step>) -> String {
    match verdict {
        Verdict::Holds => "holds".to_owned(),
        Verdict::Incomplete => "?".to_owned(),
        Verdict::Violated(way) if way.cycle.is_empty() => way.stem.len().to_string(),
        Verdict::Violated(way) => format!("{} + {}", way.stem.len(), way.cycle.len()),
    }
}

fn write_way(text: &mut String, way: &Counterexample<Step>) {
    for step in &way.stem {
        let _ = writeln!(text, "  {step}");
    }
    if !way.cycle.is_empty() {
        let _ = writeln!(text, "cycle");
    }
    for step in &way.cycle {
        let _ = writeln!(text, "  {step}");
    }
}
