//! Runs on the simulated machine.

use surefault_core::policy::PolicyKind;
use surefault_core::run::{PagerMode, RunSpec};
use surefault_sim::{Host, OnReport, SimError, SimSpec};

use crate::exit::{Exit, Failure};
use crate::machine::Ran;

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
    let result = surefault_sim::run(spec).map_err(failure)?;
    Ok(Ran {
        result: result.run,
        counts: Some(result.counts),
        told: result.measured.told,
    })
}

/// All of what it refuses was asked for by flags.
fn failure(error: SimError) -> Failure {
    Failure::new(Exit::Usage, error)
}
