//! The scenes of the story, and what each should come to.

use core::time::Duration;

use surefault_core::plan::{FailureMode, FaultPlan, Latency, PageSet, Rule};
use surefault_core::policy::PolicyKind;
use surefault_core::run::{ApfMode, Irqchip, OnError, Outcome, PagerMode, Reported, RunSpec};
use surefault_core::{CauseKind, PageCount, PageIndex};

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
    pub(super) expected: Outcome,
}

const fn linux(name: &'static str, title: &'static str, apf: ApfMode, expected: Outcome) -> Scene {
    Scene {
        name,
        title,
        pager: PagerMode::None,
        apf,
        repaired: false,
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
        expected: Outcome::Finished,
    }
}

static SCENES: [Scene; 8] = [
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
];

/// The scenes that this machine can play, in order.
pub(super) fn all(machine: Machine) -> impl Iterator<Item = &'static Scene> {
    SCENES.iter().filter(move |scene| match scene.apf {
        ApfMode::Off | ApfMode::Kernel => true,
        ApfMode::User => machine == Machine::Simulated,
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
            tasks: 1,
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
            on_error: OnError::Exit,
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
