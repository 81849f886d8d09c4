//! `--plot`: the comparison as figures, in a file that explains itself.

mod around;
mod html;
mod panels;
mod retries;
mod scale;
mod svg;
#[cfg(test)]
pub(super) mod tests;

use std::fs::{File, OpenOptions};
use std::io::{Seek as _, Write as _};
use std::path::{Path, PathBuf};

use surefault_sim::compare::{Row, Timeline};
use surefault_sim::workloads::Size;

use super::Played;
use crate::exit::{Exit, Failure};

use svg::{Anchor, Svg};

const OPTION: &str = "--plot";

/// Where the figures go. It is opened before anything is played, so that nobody waits for a
/// comparison which then cannot be written down.
#[derive(Debug)]
pub(super) struct Target {
    path: PathBuf,
    form: Form,
    file: File,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    Svg,
    Html,
}

/// The rows of one number of failing pages.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) failing: u32,
    pub(super) rows: Vec<Row>,
}

/// What the figures of one workload show.
#[derive(Clone, Debug)]
pub(super) struct Sheet<'a> {
    name: &'a str,
    size: Size,
    seeds: u64,
    /// What the table shows.
    played: &'a Played,
    rows: &'a [Row],
    /// From few failing pages to many.
    steps: Vec<Step>,
    /// `None` when no run met an error.
    timeline: Option<Timeline>,
}

impl<'a> Sheet<'a> {
    pub(super) fn new(
        played: &'a Played,
        seeds: u64,
        steps: Vec<Step>,
        timeline: Option<Timeline>,
    ) -> Sheet<'a> {
        Sheet {
            name: &played.name,
            size: played.size,
            seeds,
            played,
            rows: &played.rows,
            steps,
            timeline,
        }
    }

    /// How large it is, in words.
    fn sized(&self) -> String {
        let Size { tasks, vcpus, .. } = self.size;
        let one = |count: u64, name: &str| match count {
            1 => format!("1 {name}"),
            _ => format!("{count} {name}s"),
        };
        format!(
            "{} on {}, {} of each policy",
            one(tasks.into(), "task"),
            one(vcpus.into(), "vCPU"),
            one(self.seeds, "run")
        )
    }

    /// Both figures, one below the other.
    fn document(&self) -> String {
        let mut figures = Svg::default();
        let height = self.draw(&mut figures, 0.0);
        self::document(&figures, height, &[self.name])
    }

    /// Returns where the next may begin.
    fn draw(&self, into: &mut Svg, mut y: f64) -> f64 {
        let mut retries = Svg::default();
        let height = retries::draw(&mut retries, self);
        into.below(y, &retries);
        y += height + 14.0;
        let mut around = Svg::default();
        y += match &self.timeline {
            Some(timeline) => {
                let height = around::draw(&mut around, self, timeline);
                into.below(y, &around);
                height
            }
            None => {
                let text = "No run met an error, so there is no progress around one to show.";
                around.text("dim", Anchor::Start, 18.0, 14.0, text);
                into.below(y, &around);
                24.0
            }
        };
        y
    }
}

fn document(figures: &Svg, height: f64, names: &[&str]) -> String {
    let label = format!(
        "{}: retries of failing accesses by policy, and progress around an error",
        names.join(", ")
    );
    figures.document(panels::WIDTH, height, &label)
}

impl Target {
    /// Makes sure that the file is of a kind that can be written, and can be written.
    pub(super) fn open(path: &Path) -> Result<Target, Failure> {
        let form = match path.extension().and_then(|ending| ending.to_str()) {
            Some("svg") => Form::Svg,
            Some("html") => Form::Html,
            Some(_) | None => {
                let path = path.display();
                return Err(Failure::usage(format!(
                    "{OPTION}: {path} ends neither in .svg nor in .html"
                )));
            }
        };
        // What is there stays until there is something to put in its place.
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path);
        let file = file.map_err(|error| {
            let error =
                anyhow::Error::new(error).context(format!("cannot write {}", path.display()));
            Failure::option(OPTION, error)
        })?;
        Ok(Target {
            path: path.to_owned(),
            form,
            file,
        })
    }

    /// Writes the figures of `sheets`.
    pub(super) fn write(mut self, sheets: &[Sheet<'_>]) -> Result<(), Failure> {
        let text = match self.form {
            Form::Svg => {
                let mut figures = Svg::default();
                let mut height = 0.0;
                for sheet in sheets {
                    height = sheet.draw(&mut figures, height) + 14.0;
                }
                let names: Vec<&str> = sheets.iter().map(|sheet| sheet.name).collect();
                document(&figures, height, &names)
            }
            Form::Html => {
                let figures: Vec<String> = sheets.iter().map(Sheet::document).collect();
                html::page(sheets, &figures)
            }
        };
        let written = (self.file.rewind())
            .and_then(|()| self.file.set_len(0))
            .and_then(|()| self.file.write_all(text.as_bytes()));
        written.map_err(|error| {
            let what = format!("{OPTION}: writing {}", self.path.display());
            Failure::new(Exit::Unexpected, anyhow::Error::new(error).context(what))
        })
    }
}
