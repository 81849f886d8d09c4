//! Runs on the simulated machine.

use std::path::Path;

use surefault_core::policy::PolicyKind;
use surefault_core::run::{PagerMode, RunSpec};
use surefault_sim::trace::{Trace, record};
use surefault_sim::{Host, OnReport, SimError, SimResult, SimSpec};

use crate::exit::{Exit, Failure};
use crate::machine::Ran;

/// Steps of a run that are written down: some megabytes of text.
pub(crate) const MOST_STEPS: usize = 100_000;

/// What the simulated machine is to play.
///
/// With `--apf kernel` it is Linux that takes the faults, and with `--pager none` there is nobody
/// else: in both cases the policy is Linux's.
pub(crate) fn spec(run: RunSpec, policy: PolicyKind) -> SimSpec {
    SimSpec {
        host: match run.pager {
            PagerMode::Surefault => Host::Surefault,
            PagerMode::None => Host::LinuxAlone,
        },
        policy,
        ..SimSpec::new(run)
    }
}

/// The same, in which each page that is reported is repaired, and the vCPU resumed.
pub(crate) fn healing(spec: SimSpec) -> SimSpec {
    SimSpec {
        on_report: OnReport::Heal,
        ..spec
    }
}

pub(crate) fn run(spec: &SimSpec) -> Result<Ran, Failure> {
    surefault_sim::run(spec).map(ran).map_err(failure)
}

/// The same, written down in the file at `path`.
pub(crate) fn run_traced(spec: &SimSpec, path: &Path) -> Result<Ran, Failure> {
    let (result, trace) = record(spec, MOST_STEPS).map_err(failure)?;
    write_trace(&trace, path, "--trace")?;
    Ok(ran(result))
}

/// Writes a trace for `replay`; `option` is what asked for it.
pub(crate) fn write_trace(trace: &Trace, path: &Path, option: &'static str) -> Result<(), Failure> {
    std::fs::write(path, trace.to_string()).map_err(|error| {
        let error = anyhow::Error::new(error).context(format!("writing {}", path.display()));
        Failure::option(option, error)
    })
}

fn ran(result: SimResult) -> Ran {
    Ran {
        result: result.run,
        counts: Some(result.counts),
        told: result.measured.told,
    }
}

/// All of what it refuses was asked for by flags.
fn failure(error: SimError) -> Failure {
    Failure::new(Exit::Usage, error)
}
