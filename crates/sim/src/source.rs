//! Where the simulated pages come from: the fault plan.

use std::collections::BTreeMap;
use std::time::Duration;

use surefault_core::plan::{FailureMode, FaultPlan, PlannedResult, mix};
use surefault_core::residency::{Fault, FetchRange};
use surefault_core::{Cause, CauseId, CauseKind, PageIndex, Persistence};

use crate::spec::SimSpec;

/// A source that obeys a plan.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    plan: FaultPlan,
    /// Of 100 attempts so many fail.
    intermittent: BTreeMap<PageIndex, u8>,
    /// Attempts are counted here, for want of anybody else who remembers them.
    counts: bool,
    attempts: BTreeMap<PageIndex, u32>,
    seed: u64,
}

impl Source {
    pub(crate) fn new(spec: &SimSpec) -> Source {
        Source {
            plan: spec.run.plan.clone(),
            intermittent: spec.intermittent.clone(),
            counts: !spec.keeps_record,
            attempts: BTreeMap::new(),
            seed: spec.run.seed,
        }
    }

    /// Whether this attempt, counted from 1, is one of those that fail.
    fn fails_now(&self, page: PageIndex, attempt: u32) -> bool {
        let draw = mix(self.seed ^ mix(u64::from(page.get()) << 32 | u64::from(attempt)));
        let failing = self.intermittent.get(&page);
        failing.is_some_and(|&percent| draw % 100 < u64::from(percent))
    }

    /// Counts an attempt at a page that may fail.
    fn attempt(&mut self, page: PageIndex) -> u32 {
        let attempts = self.attempts.entry(page).or_default();
        *attempts = attempts.saturating_add(1);
        *attempts
    }

    /// What becomes of a fetch, and when; `None` when it never comes back.
    ///
    /// A range takes as long as its slowest page and fails with the first page that does, as one
    /// read of it would.
    pub(crate) fn fetch(
        &mut self,
        range: &FetchRange,
        is_repaired: impl Fn(PageIndex) -> bool,
    ) -> Option<(Duration, Result<(), Fault>)> {
        let mut latency = Duration::ZERO;
        let mut result = Ok(());
        let first = range.first.index().get();
        for page in (first..first + range.count).map(PageIndex::new) {
            let may_fail = self.intermittent.contains_key(&page)
                || (self.counts && self.plan.mode_of(page) != FailureMode::Healthy);
            let own = if may_fail { self.attempt(page) } else { 1 };
            let attempt = match self.counts && may_fail {
                true => u8::try_from(own).unwrap_or(u8::MAX),
                false => range.attempt,
            };
            let decision = self.plan.decide(page, attempt);
            latency = latency.max(decision.latency);
            if is_repaired(page) {
                continue;
            }
            let fault = match decision.result {
                PlannedResult::Serve if self.fails_now(page, own) => Fault {
                    cause: cause(CauseKind::Injected),
                    persistence: Persistence::Temporary,
                },
                PlannedResult::Serve => continue,
                PlannedResult::Stall => return None,
                PlannedResult::Fail(persistence) => Fault {
                    cause: cause(CauseKind::Injected),
                    persistence,
                },
                PlannedResult::Truncate => Fault {
                    cause: cause(CauseKind::Truncated),
                    persistence: Persistence::Permanent,
                },
            };
            result = result.and(Err(fault));
        }
        Some((latency, result))
    }
}

/// The simulator has one text for each kind.
pub(crate) fn cause(kind: CauseKind) -> Cause {
    Cause {
        kind,
        id: CauseId::default(),
    }
}

/// The text of a cause, for the report.
pub(crate) fn text(kind: CauseKind, page: PageIndex) -> String {
    match kind {
        CauseKind::Injected => {
            format!("the fault plan fails page {page} of the simulated source")
        }
        CauseKind::Truncated => format!("the simulated source ends before page {page}"),
        CauseKind::Deadline => format!("page {page} did not arrive within the deadline"),
        CauseKind::BadAddress => "Bad address".to_owned(),
        other => format!("page {page}: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use surefault_core::plan::{FailureMode, Latency, PageSet, Rule};
    use surefault_core::residency::{Residency, ResidencyConfig};
    use surefault_core::{PageCount, PageId, RegionId};

    /// A fetch as the machine of pages asks for it: generations cannot be made up.
    fn range(first: u32, count: u32) -> FetchRange {
        let pages = PageCount::new(64);
        let mut machine = Residency::new(ResidencyConfig::default(), &[pages]).expect("limits");
        let page = |n| PageId::new(RegionId::new(0), PageIndex::new(n));
        machine.handle_prefetch(page(first), count).expect("pages");
        match machine.poll_effect() {
            Some(surefault_core::residency::Effect::Fetch(range)) => range,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_range_fails_with_its_first_failing_page_and_a_repair_mends_it() {
        let mut plan = FaultPlan::new(1, Latency::fixed(Duration::from_millis(2)));
        for (page, mode) in [(5, FailureMode::Truncate), (9, FailureMode::Stall)] {
            plan.push(Rule {
                pages: PageSet::Ranges(vec![(PageIndex::new(page), PageIndex::new(page))]),
                mode,
                latency: None,
            });
        }
        let mut spec = crate::SimSpec::new(surefault_core::run::RunSpec {
            tasks: 1,
            vcpus: 1,
            pages: PageCount::new(64),
            seed: 1,
            plan,
            deadline: Duration::from_secs(1),
            attempts: 3,
            timeout: Duration::from_secs(1),
            apf: surefault_core::run::ApfMode::User,
            irqchip: surefault_core::run::Irqchip::Kernel,
            on_error: surefault_core::run::OnError::Exit,
            policy: surefault_core::policy::PolicyKind::default(),
            pager: surefault_core::run::PagerMode::Surefault,
        });
        spec.intermittent = [(PageIndex::new(40), 50)].into();
        let mut source = Source::new(&spec);
        let latency = Duration::from_millis(2);
        let broken = |_| false;
        assert_eq!(source.fetch(&range(0, 4), broken), Some((latency, Ok(()))));
        let failed = source.fetch(&range(4, 4), broken).expect("an answer").1;
        assert_eq!(
            failed.map_err(|fault| fault.cause.kind),
            Err(CauseKind::Truncated)
        );
        assert_eq!(source.fetch(&range(8, 4), broken), None);
        let repaired = |page: PageIndex| [5, 9].contains(&page.get());
        assert_eq!(
            source.fetch(&range(4, 8), repaired),
            Some((latency, Ok(())))
        );
        let mut attempt = || source.fetch(&range(40, 1), broken).expect("an answer").1;
        let ends: Vec<bool> = (0..32).map(|_| attempt().is_ok()).collect();
        assert!(ends.contains(&true) && ends.contains(&false), "{ends:?}");
    }
}
