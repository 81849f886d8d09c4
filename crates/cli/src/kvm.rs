//! Runs on /dev/kvm.

use std::sync::Arc;

use surefault_core::run::RunSpec;
use surefault_kvm::linux_alone::MapError;
use surefault_kvm::machine::MachineError;
use surefault_kvm::runner::{self, Observer, RunError};
use surefault_kvm::signals;
use surefault_kvm::vcpu::VcpuError;
use surefault_kvm::vm::VmError;
use surefault_pager::StartError;
use surefault_store::Store;

use crate::exit::{Exit, Failure};
use crate::machine::Ran;

pub(crate) fn run(
    spec: &RunSpec,
    source: Arc<dyn Store>,
    observer: &mut dyn Observer,
) -> Result<Ran, Failure> {
    let signals = signals::install().map_err(|error| Failure::new(Exit::Unexpected, error))?;
    let result = runner::run(spec, source, signals, observer).map_err(failure)?;
    Ok(Ran {
        counts: None,
        told: result.stats.tasks_killed.into(),
        result,
    })
}

/// What a run that could not be done means: a host that lacks something, a wish that cannot be
/// fulfilled, or what should not happen.
pub(crate) fn failure(error: RunError) -> Failure {
    let (exit, remedy) = match &error {
        RunError::Pager(error) => of_pager(error),
        RunError::Machine(MachineError::Vm(error)) => of_vm(error),
        RunError::Machine(MachineError::Vcpu(VcpuError::Create(error))) => of_vm(error),
        RunError::Vcpu(VcpuError::Create(error)) => of_vm(error),
        RunError::Machine(MachineError::Layout(_)) => {
            let remedy = "ask for fewer --pages, --tasks or --vcpus";
            (Exit::Usage, Some(remedy.to_owned()))
        }
        RunError::Map(MapError::Unplayable { .. }) => (Exit::Usage, None),
        RunError::TooManyPages { .. } | RunError::NoPager | RunError::Faults(_) => {
            (Exit::Usage, None)
        }
        _ => (Exit::Unexpected, None),
    };
    let failure = Failure::new(exit, error);
    match remedy {
        Some(remedy) => failure.with_remedy(remedy),
        None => failure,
    }
}

fn of_vm(error: &VmError) -> (Exit, Option<String>) {
    match (error, error.remedy()) {
        (VmError::NoKvm, Some(remedy)) => {
            let remedy = format!("{remedy}; or see it simulated: --machine sim");
            (Exit::Host, Some(remedy))
        }
        (_, Some(remedy)) => (Exit::Host, Some(remedy.to_owned())),
        (_, None) => (Exit::Unexpected, None),
    }
}

fn of_pager(error: &StartError) -> (Exit, Option<String>) {
    match error {
        // Says itself what helps.
        StartError::Userfaultfd(_) | StartError::NoPoison => (Exit::Host, None),
        StartError::Config(_) => (Exit::Usage, None),
        _ => (Exit::Unexpected, None),
    }
}
