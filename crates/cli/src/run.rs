//! The command `run`.

use std::io::{ErrorKind, Write as _};

use surefault_core::run::{Outcome, PagerMode, RunResult, RunSpec};
use surefault_core::{PageCount, PageSize};
use surefault_kvm::linux_alone::MapError;
use surefault_kvm::machine::MachineError;
use surefault_kvm::runner::{self, RunError};
use surefault_kvm::signals;
use surefault_kvm::vcpu::VcpuError;
use surefault_kvm::vm::VmError;
use surefault_pager::StartError;

use crate::args::{Format, RunArgs};
use crate::check::check;
use crate::exit::{Exit, Failure};
use crate::json::Output;
use crate::progress::ProgressLine;
use crate::{store, text};

pub(crate) fn run(args: &RunArgs) -> Result<Exit, Failure> {
    check(args)?;
    let page_size = PageSize::new(rustix::param::page_size() as u64)
        .expect("the host's page size is a power of two");
    let spec = spec(args)?;
    let source = store::open(args, page_size)?;
    let signals = signals::install().map_err(|error| Failure::new(Exit::Unexpected, error))?;
    if args.format == Format::Text {
        let header = text::header(args, page_size, &source.describe());
        print(&format!("{header}\n"))?;
    }
    let mut progress = ProgressLine::new();
    let ended = runner::run(&spec, source, signals, &mut progress);
    progress.clear();
    let result = ended.map_err(failure)?;
    print(&match args.format {
        Format::Text => text::result(&result, args),
        Format::Json => {
            let json = serde_json::to_string_pretty(&Output::of_run(&result));
            json.map_err(|error| Failure::new(Exit::Unexpected, error))? + "\n"
        }
    })?;
    Ok(exit(&result))
}

fn spec(args: &RunArgs) -> Result<RunSpec, Failure> {
    Ok(RunSpec {
        tasks: args.tasks,
        vcpus: args.vcpus,
        pages: PageCount::new(args.pages),
        seed: store::seed(args),
        plan: store::plan(args)?,
        deadline: args.deadline,
        attempts: args.attempts,
        timeout: args.timeout,
        pager: PagerMode::Surefault,
        apf: args.apf.into(),
    })
}

fn exit(result: &RunResult) -> Exit {
    if result.stats.wrong_sums > 0 {
        return Exit::Unexpected;
    }
    match result.outcome {
        Outcome::Finished => Exit::Ran,
        Outcome::Reported => Exit::Found,
        Outcome::Looped | Outcome::TimedOut => Exit::Limit,
        Outcome::Cancelled => Exit::Incomplete,
    }
}

/// What a run that could not be done means: a host that lacks something, a wish that cannot be
/// fulfilled, or what should not happen.
fn failure(error: RunError) -> Failure {
    let (exit, remedy) = match &error {
        RunError::Pager(error) => of_pager(error),
        RunError::Machine(MachineError::Vm(error)) => of_vm(error),
        RunError::Machine(MachineError::Vcpu(VcpuError::Create(error))) => of_vm(error),
        RunError::Vcpu(VcpuError::Create(error)) => of_vm(error),
        RunError::Machine(MachineError::Layout(_)) => (
            Exit::Usage,
            Some("ask for fewer --pages, --tasks or --vcpus"),
        ),
        RunError::Map(MapError::Unplayable { .. }) => (Exit::Usage, None),
        RunError::TooManyPages { .. } | RunError::ApfMode { .. } => (Exit::Usage, None),
        _ => (Exit::Unexpected, None),
    };
    let failure = Failure::new(exit, error);
    match remedy {
        Some(remedy) => failure.with_remedy(remedy),
        None => failure,
    }
}

fn of_vm(error: &VmError) -> (Exit, Option<&'static str>) {
    match error.remedy() {
        Some(remedy) => (Exit::Host, Some(remedy)),
        None => (Exit::Unexpected, None),
    }
}

fn of_pager(error: &StartError) -> (Exit, Option<&'static str>) {
    match error {
        // Says itself what helps.
        StartError::Userfaultfd(_) | StartError::NoPoison => (Exit::Host, None),
        StartError::Config(_) => (Exit::Usage, None),
        _ => (Exit::Unexpected, None),
    }
}

/// Writes to standard output. A reader that is gone ends the command, but is not told about it.
fn print(text: &str) -> Result<(), Failure> {
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
