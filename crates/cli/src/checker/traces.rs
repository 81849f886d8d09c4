//! Counterexamples as files.

use std::path::Path;

use anyhow::Context as _;
use surefault_check::Verdict;
use surefault_check::system::trace_of;

use super::Row;
use crate::exit::{Exit, Failure};

/// Writes every counterexample into `directory`, which is made if it is missing.
pub(super) fn write(directory: &Path, rows: &[Row]) -> Result<(), Failure> {
    let unwritten = |error| Failure::option("--traces", error);
    std::fs::create_dir_all(directory)
        .with_context(|| format!("making {}", directory.display()))
        .map_err(unwritten)?;
    for row in rows {
        for (property, verdict) in row.verdicts() {
            let Verdict::Violated(way) = verdict else {
                continue;
            };
            let config = &row.checked.config;
            let path = directory.join(format!("{}-{property}.trace", config.policy));
            let trace = trace_of(config, way)
                .with_context(|| format!("{property} under {}", config.policy))
                .map_err(|error| Failure::new(Exit::Unexpected, error))?;
            std::fs::write(&path, trace.to_string())
                .with_context(|| format!("writing {}", path.display()))
                .map_err(unwritten)?;
        }
    }
    Ok(())
}
