//! The command `probe`: what this host can do, on one screen.

mod json;
#[cfg(test)]
mod tests;
mod text;

use surefault_kvm::probe::{self, Mode};
use surefault_kvm::signals;

use crate::args::{Format, ProbeArgs};
use crate::exit::{Exit, Failure};
use crate::output::{print, print_json};

pub(crate) fn run(args: &ProbeArgs) -> Result<Exit, Failure> {
    let signals = signals::install().map_err(|error| Failure::new(Exit::Unexpected, error))?;
    let found = probe::probe(signals);
    match args.format {
        Format::Text => print(&text::screen(&found))?,
        Format::Json => print_json(&json::Found::of(&found))?,
    }
    Ok(match found.modes.iter().any(Mode::works) {
        true => Exit::Ran,
        false => Exit::Host,
    })
}
