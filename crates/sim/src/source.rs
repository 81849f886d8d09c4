//! Where the simulated pages come from: the fault plan, and what was repaired since.

use std::collections::BTreeSet;
use std::time::Duration;

use surefault_core::plan::{FaultPlan, PlannedResult};
use surefault_core::residency::{Fault, FetchRange};
use surefault_core::{Cause, CauseId, CauseKind, PageIndex, Persistence};

/// A source that obeys a plan.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    plan: FaultPlan,
    repaired: BTreeSet<PageIndex>,
}

impl Source {
    pub(crate) fn new(plan: FaultPlan) -> Source {
        Source {
            plan,
            repaired: BTreeSet::new(),
        }
    }

    /// What becomes of a fetch, and when; `None` when it never comes back.
    ///
    /// A range takes as long as its slowest page and fails with the first page that does, as one
    /// read of it would.
    pub(crate) fn fetch(&self, range: &FetchRange) -> Option<(Duration, Result<(), Fault>)> {
        let mut latency = Duration::ZERO;
        let mut result = Ok(());
        let first = range.first.index().get();
        for page in (first..first + range.count).map(PageIndex::new) {
            let decision = self.plan.decide(page, range.attempt);
            latency = latency.max(decision.latency);
            if self.repaired.contains(&page) {
                continue;
            }
            let fault = match decision.result {
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

    /// From now on this page is provided, though as late as planned.
    pub(crate) fn repair(&mut self, page: PageIndex) {
        self.repaired.insert(page);
    }
}

/// The simulator has one text for each kind.
fn cause(kind: CauseKind) -> Cause {
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
        let mut source = Source::new(plan);
        let latency = Duration::from_millis(2);
        assert_eq!(source.fetch(&range(0, 4)), Some((latency, Ok(()))));
        let failed = source.fetch(&range(4, 4)).expect("an answer").1;
        assert_eq!(
            failed.map_err(|fault| fault.cause.kind),
            Err(CauseKind::Truncated)
        );
        assert_eq!(source.fetch(&range(8, 4)), None);
        source.repair(PageIndex::new(5));
        source.repair(PageIndex::new(9));
        assert_eq!(source.fetch(&range(4, 8)), Some((latency, Ok(()))));
    }
}
