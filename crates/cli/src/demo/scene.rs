//! The scenes of the story, and what each should come to.

use core::time::Duration;

use surefault_core::plan::{FailureMode, FaultPlan, Latency, PageSet, Rule};
use surefault_core::policy::PolicyKind;
use surefault_core::run::{ApfMode, Irqchip, OnError, Outcome, PagerMode, Reported, RunSpec};
use surefault_core::{CauseKind, PageCount, PageIndex};
use surefault_kvm::vm::{Faults, Vm, VmError};

use crate::machine::{Machine, Ran};

/// Pages of the guest.
pub(super) const PAGES: u64 = 64;
/// The page that cannot be provided: the source is one page too short.
pub(super) const BAD: PageIndex = PageIndex::new(63);
/// Decides the order of touches, the same in every scene.
pub(super) const SEED: u64 = 7;

/// One run of the story.
pub(super) struct Scene {
    /// For programs.
    pub(super) name: &'static str,
    /// For people.
    pub(super) title: &'static str,
    pager: PagerMode,
    apf: ApfMode,
    /// The page is repaired when it has been reported, and the vCPU run on.
    pub(super) repaired: bool,
    /// The guest is told, and kills the one of its two tasks that needs the page.
    pub(super) told: bool,
    pub(super) expected: Outcome,
}

const fn linux(name: &'static str, title: &'static str, apf: ApfMode, expected: Outcome) -> Scene {
    Scene {
        name,
        title,
        pager: PagerMode::None,
        apf,
        repaired: false,
        told: false,
        expected,
    }
}

const fn reported(name: &'static str, title: &'static str, apf: ApfMode) -> Scene {
    Scene {
        name,
        title,
        pager: PagerMode::Surefault,
        apf,
        repaired: false,
        told: false,
        expected: Outcome::Reported,
    }
}

const fn repaired(name: &'static str, title: &'static str, apf: ApfMode) -> Scene {
    Scene {
        name,
        title,
        pager: PagerMode::Surefault,
        apf,
        repaired: true,
        told: false,
        expected: Outcome::Finished,
    }
}

static SCENES: [Scene; 9] = [
    linux(
        "linux-off",
        "Linux alone, every fault synchronous",
        ApfMode::Off,
        Outcome::Reported,
    ),
    linux(
        "linux-kernel",
        "Linux alone, asynchronous faults",
        ApfMode::Kernel,
        Outcome::Looped,
    ),
    reported(
        "surefault-off",
        "Surefault, every fault synchronous (--apf off)",
        ApfMode::Off,
    ),
    reported(
        "surefault-kernel",
        "Surefault, Linux's asynchronous faults (--apf kernel)",
        ApfMode::Kernel,
    ),
    reported(
        "surefault-user",
        "Surefault, its own asynchronous faults (--apf user)",
        ApfMode::User,
    ),
    repaired(
        "repaired-off",
        "The page is repaired, the vCPU runs on (--apf off)",
        ApfMode::Off,
    ),
    repaired(
        "repaired-kernel",
        "The page is repaired, the vCPU runs on (--apf kernel)",
        ApfMode::Kernel,
    ),
    repaired(
        "repaired-user",
        "The page is repaired, the vCPU runs on (--apf user)",
        ApfMode::User,
    ),
    Scene {
        name: "told-kernel",
        title: "Two tasks, and the guest is told (--apf kernel --on-error guest)",
        pager: PagerMode::Surefault,
        apf: ApfMode::Kernel,
        repaired: false,
        told: true,
        expected: Outcome::Finished,
    },
];

/// Why a machine cannot play the scenes with asynchronous faults from user space, if it cannot.
pub(super) fn no_user(machine: Machine) -> Option<String> {
    let made = match machine {
        Machine::Kvm => Vm::new(Faults::FromUserSpace { error_word: false }, Irqchip::Kernel),
        Machine::Simulated => return None,
    };
    // Without KVM at all, the first scene says so.
    match made {
        Ok(_) | Err(VmError::NoKvm | VmError::Forbidden) => None,
        Err(error) => Some(error.to_string()),
    }
}

/// The scenes, in order; those with asynchronous faults from user space only if asked for.
pub(super) fn all(user: bool) -> impl Iterator<Item = &'static Scene> {
    SCENES.iter().filter(move |scene| match scene.apf {
        ApfMode::Off | ApfMode::Kernel => true,
        ApfMode::User => user,
    })
}

impl Scene {
    /// With Surefault's pager behind the memory.
    pub(super) fn by_surefault(&self) -> bool {
        self.pager == PagerMode::Surefault
    }

    /// How long it is played: a loop for as long as one likes to look at it, by the machine's own
    /// clock.
    pub(super) fn limit(&self, machine: Machine) -> Duration {
        match (self.expected, machine) {
            (Outcome::Looped, Machine::Kvm) => Duration::from_secs(2),
            (Outcome::Looped, Machine::Simulated) => Duration::from_millis(100),
            _ => Duration::from_secs(30),
        }
    }

    pub(super) fn spec(&self, limit: Duration) -> RunSpec {
        let mut plan = FaultPlan::new(SEED, Latency::default());
        plan.push(Rule {
            pages: PageSet::Ranges(vec![(BAD, BAD)]),
            mode: FailureMode::Truncate,
            latency: None,
        });
        RunSpec {
            tasks: 1 + u16::from(self.told),
            vcpus: 1,
            pages: PageCount::new(PAGES),
            seed: SEED,
            plan,
            deadline: Duration::from_secs(5),
            attempts: 3,
            timeout: limit,
            pager: self.pager,
            apf: self.apf,
            irqchip: Irqchip::Kernel,
            on_error: match self.told {
                true => OnError::Guest,
                false => OnError::Exit,
            },
            policy: PolicyKind::default(),
        }
    }

    /// In what the run differs from what it should have come to. `before` is what Surefault has
    /// reported first.
    pub(super) fn problem(&self, ran: &Ran, before: Option<&Reported>) -> Option<String> {
        let result = &ran.result;
        let (stats, expected) = (&result.stats, self.expected);
        if result.outcome != expected {
            return Some(format!(
                "the run ended as {:?}, and not as {expected:?}",
                result.outcome
            ));
        }
        if stats.wrong_sums > 0 {
            return Some(format!("{} sums are wrong", stats.wrong_sums));
        }
        if self.expected == Outcome::Looped && stats.returns > 0 {
            return Some(format!("KVM_RUN returned {} times", stats.returns));
        }
        if self.told {
            let ended = (stats.tasks_killed, stats.tasks_finished);
            let (killed, finished) = ended;
            return (ended != (1, 1)).then(|| {
                format!("{killed} tasks were killed and {finished} finished, not 1 and 1")
            });
        }
        if self.repaired {
            return (stats.healed != 1)
                .then(|| format!("{} pages were repaired, and not 1", stats.healed));
        }
        let Some(reported) = &result.report else {
            return None;
        };
        let cause = match self.pager {
            PagerMode::Surefault => CauseKind::Truncated,
            PagerMode::None => CauseKind::BadAddress,
        };
        let kind = reported.report.failure.cause.kind;
        if (reported.page, kind) != (BAD, cause) {
            let page = reported.page;
            return Some(format!(
                "page {page} is reported as {kind}, and not page {BAD} as {cause}"
            ));
        }
        match before {
            Some(before) if before != reported && self.by_surefault() => {
                Some(format!("the report differs from the first: {reported:?}"))
            }
            _ => None,
        }
    }
}
