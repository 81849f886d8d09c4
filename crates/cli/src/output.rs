//! Standard output, which belongs to the result.

use std::io::{ErrorKind, Write as _};

use serde::Serialize;

use crate::exit::{Exit, Failure};

/// Writes to standard output. A reader that is gone ends the command, but is not told about it.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            let error = anyhow::Error::new(error).context("writing to standard output");
            Err(Failure::new(Exit::Unexpected, error))
        }
        _ => Ok(()),
    }
}

/// Writes one JSON object.
pub(crate) fn print_json(object: &impl Serialize) -> Result<(), Failure> {
    let json = serde_json::to_string_pretty(object)
        .map_err(|error| Failure::new(Exit::Unexpected, error))?;
    print(&(json + "\n"))
}
