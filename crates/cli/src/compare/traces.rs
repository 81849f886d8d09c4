//! The runs of a comparison, written down for `surefault replay`.

use std::path::Path;

use surefault_core::policy::PolicyKind;
use surefault_sim::trace::record;

use super::{CompareArgs, Source};
use crate::exit::{Exit, Failure};
use crate::simulated::write_trace;

/// Steps of each run that are written down.
const MOST_STEPS: usize = 20_000;

/// Writes down what each policy makes of `source` with seed 0.
pub(super) fn write(
    dir: &Path,
    source: &Source,
    args: &CompareArgs,
    policies: &[PolicyKind],
) -> Result<(), Failure> {
    std::fs::create_dir_all(dir).map_err(|error| {
        let error = anyhow::Error::new(error).context(format!("making {}", dir.display()));
        Failure::option("--traces", error)
    })?;
    let name = Path::new(source.name()).file_stem().unwrap_or_default();
    for &policy in policies {
        let wrong = |error| Failure::new(Exit::Usage, error);
        let spec = source.spec(source.size(args), policy, 0);
        let spec = spec.map_err(|error| wrong(anyhow::Error::new(error)))?;
        let recorded = record(&spec, MOST_STEPS);
        let (_, trace) = recorded.map_err(|error| wrong(anyhow::Error::new(error)))?;
        let file = format!("{}-{policy}.trace", name.to_string_lossy());
        write_trace(&trace, &dir.join(file), "--traces")?;
    }
    Ok(())
}
