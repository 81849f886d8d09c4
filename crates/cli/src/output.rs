//! Standard output, which belongs to the result.

use core::ops::ControlFlow;
use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};

use serde::Serialize;

use crate::exit::{Exit, Failure};

/// Writes to standard output. That its reader is gone is no failure: nobody is left to be told.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    print_on(text).map(|_| ())
}

/// The same, breaking when the reader is gone: for output without an end.
pub(crate) fn print_on(text: &str) -> Result<ControlFlow<()>, Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => {
            let error = anyhow::Error::new(error).context("writing to standard output");
            Err(Failure::new(Exit::Unexpected, error))
        }
    }
}

/// Writes one JSON object.
pub(crate) fn print_json(object: &impl Serialize) -> Result<(), Failure> {
    let json = serde_json::to_string_pretty(object)
        .map_err(|error| Failure::new(Exit::Unexpected, error))?;
    print(&(json + "\n"))
}

/// A table for people: each line after `indent`, the first column to the left, the others to the right.
pub(crate) fn aligned(indent: &str, lines: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let mut text = String::new();
    for line in lines {
        let mut written = indent.to_owned();
        for (column, cell) in line.iter().enumerate() {
            let width = width(column);
            let _ = match column {
                0 => write!(written, "{cell:<width$}"),
                _ => write!(written, "  {cell:>width$}"),
            };
        }
        let _ = writeln!(text, "{}", written.trim_end());
    }
    text
}
