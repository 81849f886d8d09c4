//! The command `run`.

use core::ops::ControlFlow;
use core::time::Duration;
use std::io::Write as _;

use surefault_core::run::{Outcome, Reported, RunSpec};
use surefault_core::{PageCount, PageSize};
use surefault_kvm::runner::{AfterReport, Observer, Progress, WhilePaused};
use surefault_serve::control::{Reply, Request};

use crate::args::{Format, MachineChoice, OnError, RunArgs};
use crate::check::check;
use crate::control::Control;
use crate::exit::{Exit, Failure};
use crate::json::Output;
use crate::machine::{Machine, Ran};
use crate::output::{print, print_json};
use crate::progress::ProgressLine;
use crate::soak::soak;
use crate::{kvm, simulated, store, text};

pub(crate) fn run(args: &RunArgs) -> Result<Exit, Failure> {
    if let Some(length) = args.soak {
        return match args.machine {
            MachineChoice::Sim => Err(Failure::usage("--soak is for KVM: not with --machine sim")),
            MachineChoice::Auto | MachineChoice::Kvm => soak(args, length),
        };
    }
    let machine = Machine::for_run(args);
    check(args, machine)?;
    let spec = spec(args)?;
    let ran = match machine {
        Machine::Kvm => on_kvm(args, &spec)?,
        Machine::Simulated => on_simulated(args, spec)?,
    };
    match args.format {
        Format::Text => print(&text::result(&ran, args))?,
        Format::Json => print_json(&Output::of_run(machine, &ran))?,
    }
    Ok(exit(&ran))
}

fn on_kvm(args: &RunArgs, spec: &RunSpec) -> Result<Ran, Failure> {
    let page_size = host_page_size();
    let source = store::open(args, page_size)?;
    let header = text::header(Machine::Kvm, args, page_size, &source.describe());
    let mut watching = Watching {
        header: (args.format == Format::Text).then_some(header),
        progress: ProgressLine::new(),
        on_error: args.on_error,
        text: args.format == Format::Text,
        control: args.control.as_deref().map(Control::listen).transpose()?,
    };
    let ended = kvm::run(spec, source, &mut watching);
    watching.progress.clear();
    let ran = ended?;
    watching.begin()?;
    Ok(ran)
}

fn on_simulated(args: &RunArgs, spec: RunSpec) -> Result<Ran, Failure> {
    let spec = simulated::spec(spec, args.policy.unwrap_or_default());
    let ran = match &args.trace {
        Some(path) => simulated::run_traced(&spec, path)?,
        None => simulated::run(&spec)?,
    };
    if args.format == Format::Text {
        let source = "a simulated source";
        let header = text::header(Machine::Simulated, args, PageSize::KIB_4, source);
        print(&header)?;
    }
    Ok(ran)
}

/// Says what runs once it does, and how far it is. What cannot run leaves standard output empty.
struct Watching {
    header: Option<String>,
    progress: ProgressLine,
    on_error: OnError,
    /// For people.
    text: bool,
    control: Option<Control>,
}

impl Watching {
    fn begin(&mut self) -> Result<(), Failure> {
        match self.header.take() {
            Some(header) => print(&header),
            None => Ok(()),
        }
    }
}

impl Observer for Watching {
    fn progress(&mut self, progress: &Progress) -> ControlFlow<()> {
        // Where it cannot be written, the result will fail to be.
        let _ = self.begin();
        if let Some(asked) = self.control.as_ref().and_then(Control::asked) {
            asked.refuse("the run has not stopped");
        }
        self.progress.progress(progress)
    }

    fn reported(&mut self, reported: &Reported) -> AfterReport {
        if self.on_error != OnError::Stop {
            return self.progress.reported(reported);
        }
        self.progress.clear();
        let report = text::paused(reported, self.control.as_ref().map(Control::path));
        // The one object on standard output is the result: with JSON, this goes where progress does.
        let told = match self.text {
            true => self.begin().and_then(|()| print(&report)),
            false => {
                // Nobody may read it: then --control is what there is.
                let _ = std::io::stderr().write_all(report.as_bytes());
                Ok(())
            }
        };
        // A report that nobody can see is no reason to wait.
        match told {
            Ok(()) => AfterReport::Pause,
            Err(_) => AfterReport::Stop,
        }
    }

    fn paused(&mut self, _: &Reported, _: Duration) -> WhilePaused {
        let Some(asked) = self.control.as_ref().and_then(Control::asked) else {
            return WhilePaused::Wait;
        };
        let how = match asked.request {
            Request::Resume { repaired: false } => WhilePaused::Resume,
            Request::Resume { repaired: true } => WhilePaused::Heal,
            _ => {
                asked.refuse("a run can only be told to resume");
                return WhilePaused::Wait;
            }
        };
        asked.answer(Reply::Done);
        how
    }
}

/// The size of the host's pages.
pub(crate) fn host_page_size() -> PageSize {
    PageSize::new(rustix::param::page_size() as u64)
        .expect("the host's page size is a power of two")
}

pub(crate) fn spec(args: &RunArgs) -> Result<RunSpec, Failure> {
    Ok(RunSpec {
        tasks: args.tasks,
        vcpus: args.vcpus,
        pages: PageCount::new(args.pages),
        seed: store::seed(args),
        plan: store::plan(args)?,
        deadline: args.deadline,
        attempts: args.attempts,
        timeout: args.timeout,
        pager: args.pager.into(),
        apf: args.apf.into(),
        irqchip: args.irqchip.into(),
        on_error: args.on_error.into(),
        policy: args.policy.unwrap_or_default(),
    })
}

fn exit(ran: &Ran) -> Exit {
    if ran.result.stats.wrong_sums > 0 {
        return Exit::Unexpected;
    }
    match ran.result.outcome {
        Outcome::Finished => Exit::Ran,
        Outcome::Reported => Exit::Found,
        Outcome::Looped | Outcome::TimedOut => Exit::Limit,
        Outcome::Cancelled => Exit::Incomplete,
    }
}
