//! What this host can do, and what its kernel does with a page that fails: found out by asking and
//! by trying, and given as data.
//!
//! | file | what is in it |
//! |---|---|
//! | this | the kernel, userfaultfd, which modes work |
//! | `host` | KVM: what it says of itself, and how it pages |
//! | `experiment` | a real vCPU on a page that fails, for as long as two seconds |

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use surefault_core::plan::{FaultPlan, Latency};
use surefault_core::policy::PolicyKind;
use surefault_core::run::{ApfMode, Irqchip, OnError, Outcome, PagerMode, RunSpec};
use surefault_core::{PageCount, PageIndex};
use surefault_store::PatternStore;
use surefault_uffd::{CreateError, Features, Options, Userfaultfd};

use crate::pages::host_page_size;
use crate::runner::run;
use crate::signals::Signals;
use crate::vm::VmError;

mod experiment;
mod host;

pub use crate::watch::Refusal;
pub use experiment::{Asynchronous, Experiment, Synchronous};
pub use host::{Capability, HostPaging, Kvm, Module};

/// What was found out about this host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Probe {
    /// The kernel's release, as `uname -r` says it.
    pub kernel: String,
    /// KVM, or why there is none for this process.
    pub kvm: Result<Kvm, Problem>,
    /// Userfaultfd, or why there is none for this process.
    pub userfaultfd: Result<Uffd, Problem>,
    /// What the kernel does, left alone, with a page that fails; `None` without KVM.
    pub experiment: Option<Result<Experiment, Problem>>,
    /// Each way to be asynchronous.
    pub modes: Vec<Mode>,
}

/// What stands in the way of something.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Problem {
    /// What is wrong.
    pub what: String,
    /// What to do about it; `None` where the first part says so, or nothing can be done.
    pub remedy: Option<String>,
}

/// Userfaultfd.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Uffd {
    /// The features that the kernel has, as the bits of `UFFDIO_API`.
    pub features: u64,
    /// The same in words.
    pub names: String,
    /// A failed page can be poisoned. Without that (before Linux 6.6) it is protected, which does
    /// as well for pages that fail one by one.
    pub poison: bool,
}

/// One way to be asynchronous.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Mode {
    /// Which.
    pub apf: ApfMode,
    /// What stands in its way. It works when there is nothing: a run with a page that fails has
    /// just ended with the report.
    pub problems: Vec<Problem>,
}

impl Mode {
    /// Whether it works here.
    pub fn works(&self) -> bool {
        self.problems.is_empty()
    }
}

impl Problem {
    fn new(what: impl ToString) -> Problem {
        Problem {
            what: what.to_string(),
            remedy: None,
        }
    }

    fn with_remedy(self, remedy: impl ToString) -> Problem {
        Problem {
            remedy: Some(remedy.to_string()),
            ..self
        }
    }

    /// The whole chain of causes in one line.
    fn of(error: &dyn core::error::Error) -> Problem {
        let causes = core::iter::successors(error.source(), |cause| cause.source());
        let what = causes.fold(error.to_string(), |what, cause| format!("{what}: {cause}"));
        Problem::new(what)
    }

    fn of_vm(error: &VmError) -> Problem {
        let problem = Problem::of(error);
        match error.remedy() {
            Some(remedy) => problem.with_remedy(remedy),
            None => problem,
        }
    }

    fn of_uffd(error: &CreateError) -> Problem {
        // It says itself what helps.
        Problem::of(error)
    }
}

/// Finds out. Takes about a second, two at most on a host that is not overloaded.
pub fn probe(signals: Signals) -> Probe {
    let kvm = Kvm::look().map_err(|error| Problem::of_vm(&error));
    let userfaultfd = look_at_uffd();
    let experiment = kvm.is_ok().then(|| experiment::run(signals));
    let modes = [ApfMode::Off, ApfMode::Kernel, ApfMode::User];
    let modes = modes.map(|apf| mode(apf, &kvm, &userfaultfd, signals));
    Probe {
        kernel: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        experiment: experiment.map(|result| result.map_err(|error| Problem::of(&error))),
        modes: modes.into(),
        kvm,
        userfaultfd,
    }
}

fn look_at_uffd() -> Result<Uffd, Problem> {
    let problem = |error: CreateError| Problem::of_uffd(&error);
    let features = Features::supported().map_err(problem)?;
    // One that serves the kernel's own faults, which a guest's are.
    Userfaultfd::create(Options::default()).map_err(problem)?;
    Ok(Uffd {
        features: features.bits(),
        names: features.to_string(),
        poison: features.contains(Features::POISON),
    })
}

fn mode(
    apf: ApfMode,
    kvm: &Result<Kvm, Problem>,
    userfaultfd: &Result<Uffd, Problem>,
    signals: Signals,
) -> Mode {
    let mut problems = Vec::new();
    problems.extend(kvm.as_ref().err().cloned());
    problems.extend(userfaultfd.as_ref().err().cloned());
    if let Ok(kvm) = kvm {
        let lacking = host::needed(apf).iter().filter(|name| !kvm.has(name));
        problems.extend(lacking.map(|name| {
            Problem::new(format!("this KVM lacks {name}")).with_remedy("use a newer kernel")
        }));
    }
    if problems.is_empty() {
        problems.extend(try_out(apf, signals).err());
    }
    Mode { apf, problems }
}

/// Runs a small guest one of whose pages fails, and expects the report.
fn try_out(apf: ApfMode, signals: Signals) -> Result<(), Problem> {
    const FAILING: &str = "5";
    let pages = PageCount::new(8);
    let page_size = host_page_size();
    let mut plan = FaultPlan::new(0, Latency::fixed(Duration::from_millis(1)));
    plan.push(FAILING.parse().expect("a plan's rule"));
    let spec = RunSpec {
        tasks: 2,
        vcpus: 1,
        pages,
        seed: 0,
        plan,
        deadline: Duration::from_secs(1),
        attempts: 1,
        timeout: Duration::from_secs(20),
        pager: PagerMode::Surefault,
        apf,
        irqchip: Irqchip::Kernel,
        on_error: OnError::Exit,
        policy: PolicyKind::default(),
    };
    let bytes = pages.get() * page_size.bytes();
    let source = Arc::new(PatternStore::new(0, bytes));
    let result = run(&spec, source, signals, &mut ()).map_err(|error| Problem::of(&error))?;
    match (result.outcome, result.report) {
        (Outcome::Reported, Some(reported)) if reported.page == PageIndex::new(5) => Ok(()),
        (outcome, _) => Err(Problem::new(format!(
            "a trial run with a page that fails ended as {outcome:?}, without the report"
        ))),
    }
}
