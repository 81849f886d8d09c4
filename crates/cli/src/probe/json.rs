//! What was found, for programs.

use std::collections::BTreeMap;

use serde::Serialize;
use surefault_core::run::ApfMode;
use surefault_kvm::probe::{
    self, Asynchronous, HostPaging, Mode, Probe, Problem, Refusal, Synchronous,
};

use crate::json::SCHEMA;

/// The one object that is written.
#[derive(Serialize, Debug)]
pub(super) struct Found<'a> {
    schema: u32,
    command: &'static str,
    outcome: Outcome,
    kernel: &'a str,
    kvm: Option<Kvm<'a>>,
    userfaultfd: Option<Uffd<'a>>,
    synchronous: Option<Ended>,
    asynchronous: Option<Ended>,
    modes: Vec<Tried<'a>>,
    problems: Vec<Lack<'a>>,
}

#[derive(Serialize, Clone, Copy, Debug)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Works,
    NothingWorks,
}

#[derive(Serialize, Debug)]
struct Kvm<'a> {
    paging: HostPaging,
    modules: BTreeMap<&'a str, BTreeMap<&'a str, &'a str>>,
    capabilities: BTreeMap<&'a str, i32>,
    cpuid_features: u32,
}

#[derive(Serialize, Debug)]
struct Uffd<'a> {
    features: String,
    names: &'a str,
    poison: bool,
}

/// What became of a page that Linux alone could not provide.
#[derive(Serialize, Default, Debug)]
struct Ended {
    ended: &'static str,
    errno: Option<i32>,
    exit_reason: Option<u32>,
    gpa: Option<String>,
    faults: Option<u64>,
    elapsed_ns: Option<u64>,
}

#[derive(Serialize, Debug)]
struct Tried<'a> {
    apf: ApfMode,
    works: bool,
    problems: &'a [Problem],
}

/// What stands in the way of all modes, or of the experiment.
#[derive(Serialize, Debug)]
struct Lack<'a> {
    of: &'static str,
    #[serde(flatten)]
    problem: &'a Problem,
}

impl<'a> Found<'a> {
    pub(super) fn of(probe: &'a Probe) -> Found<'a> {
        let Probe {
            kernel,
            kvm,
            userfaultfd,
            experiment,
            modes,
        } = probe;
        let experiment = experiment.as_ref().map(Result::as_ref).transpose();
        let lacks = [
            ("kvm", kvm.as_ref().err()),
            ("userfaultfd", userfaultfd.as_ref().err()),
            ("experiment", experiment.err()),
        ];
        let ends = experiment.ok().flatten();
        Found {
            schema: SCHEMA,
            command: "probe",
            outcome: match modes.iter().any(Mode::works) {
                true => Outcome::Works,
                false => Outcome::NothingWorks,
            },
            kernel,
            kvm: kvm.as_ref().ok().map(Kvm::of),
            userfaultfd: userfaultfd.as_ref().ok().map(Uffd::of),
            synchronous: ends.map(|ends| Ended::synchronous(&ends.synchronous)),
            asynchronous: ends
                .and_then(|ends| ends.asynchronous.as_ref())
                .map(Ended::asynchronous),
            modes: modes.iter().map(Tried::of).collect(),
            problems: lacks
                .into_iter()
                .filter_map(|(of, problem)| problem.map(|problem| Lack { of, problem }))
                .collect(),
        }
    }
}

impl<'a> Kvm<'a> {
    fn of(kvm: &'a probe::Kvm) -> Kvm<'a> {
        let parameters = |module: &'a probe::Module| {
            let pairs = module.parameters.iter();
            pairs.map(|(name, value)| (&**name, &**value)).collect()
        };
        Kvm {
            paging: kvm.paging,
            modules: (kvm.modules.iter())
                .map(|module| (&*module.name, parameters(module)))
                .collect(),
            capabilities: (kvm.capabilities.iter())
                .map(|capability| (capability.name, capability.value))
                .collect(),
            cpuid_features: kvm.cpuid_features,
        }
    }
}

impl<'a> Uffd<'a> {
    fn of(uffd: &'a probe::Uffd) -> Uffd<'a> {
        Uffd {
            features: format!("{:#x}", uffd.features),
            names: &uffd.names,
            poison: uffd.poison,
        }
    }
}

impl Ended {
    fn refused(refusal: &Refusal) -> Ended {
        Ended {
            ended: "refused",
            errno: Some(refusal.errno),
            exit_reason: Some(refusal.exit_reason),
            gpa: refusal.named.map(|gpa| gpa.to_string()),
            ..Ended::default()
        }
    }

    fn synchronous(ended: &Synchronous) -> Ended {
        match ended {
            Synchronous::Refused(refusal) => Ended::refused(refusal),
            Synchronous::Endless => Ended {
                ended: "endless",
                ..Ended::default()
            },
        }
    }

    fn asynchronous(ended: &Asynchronous) -> Ended {
        match *ended {
            Asynchronous::Refused(ref refusal) => Ended::refused(refusal),
            Asynchronous::Loops { faults, elapsed_ns } => Ended {
                ended: "loops",
                faults: Some(faults),
                elapsed_ns: Some(elapsed_ns),
                ..Ended::default()
            },
            Asynchronous::Undecided { faults } => Ended {
                ended: "undecided",
                faults: Some(faults),
                ..Ended::default()
            },
        }
    }
}

impl<'a> Tried<'a> {
    fn of(mode: &'a Mode) -> Tried<'a> {
        Tried {
            apf: mode.apf,
            works: mode.works(),
            problems: &mode.problems,
        }
    }
}
