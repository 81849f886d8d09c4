//! The source of a workload on real vCPUs: it fails as the simulated one does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use surefault_core::plan::mix;
use surefault_core::{PageIndex, PageSize, Persistence};
use surefault_sim::SimSpec;
use surefault_store::{PatternStore, PlannedStore, ReadRequest, Store, StoreError};

const PAGE: u64 = PageSize::KIB_4.bytes();

/// Pages by the plan of a simulated machine, those that fail at times, and the repair of them all.
pub(super) struct LabSource {
    planned: PlannedStore<PatternStore>,
    intermittent: BTreeMap<PageIndex, u8>,
    seed: u64,
    /// The first read: the guest has begun.
    begun: OnceLock<Instant>,
    /// When the source is repaired, if ever.
    repaired_at: Option<Duration>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Attempts at intermittent pages.
    attempts: u64,
    repaired: BTreeSet<PageIndex>,
}

impl LabSource {
    pub(super) fn new(spec: &SimSpec) -> LabSource {
        let run = &spec.run;
        let pattern = PatternStore::new(run.seed, run.pages.get() * PAGE);
        LabSource {
            planned: PlannedStore::new(pattern, run.plan.clone(), PageSize::KIB_4),
            intermittent: spec.intermittent.clone(),
            seed: run.seed,
            begun: OnceLock::new(),
            repaired_at: spec.repairs.iter().map(|&(at, _)| at).max(),
            state: Mutex::default(),
        }
    }

    /// Until the source is repaired.
    pub(super) fn until_repaired(&self) -> Duration {
        let at = self.repaired_at.unwrap_or_default();
        at.saturating_sub(self.age())
    }

    fn age(&self) -> Duration {
        self.begun.get_or_init(Instant::now).elapsed()
    }

    /// `page` does not fail any more.
    pub(super) fn repair(&self, page: PageIndex) {
        self.planned.repair(page..=page);
        self.state().repaired.insert(page);
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fails_now(&self, page: PageIndex) -> bool {
        let Some(&percent) = self.intermittent.get(&page) else {
            return false;
        };
        let mut state = self.state();
        if state.repaired.contains(&page) {
            return false;
        }
        state.attempts += 1;
        mix(self.seed ^ mix(state.attempts)) % 100 < u64::from(percent)
    }
}

impl Store for LabSource {
    fn size(&self) -> u64 {
        self.planned.size()
    }

    fn describe(&self) -> String {
        "the laboratory's source".to_owned()
    }

    fn read(&self, request: ReadRequest, buf: &mut [u8]) -> Result<(), StoreError> {
        let age = self.age();
        if self.repaired_at.is_some_and(|at| age >= at) {
            let last = PageIndex::new((self.size() / PAGE) as u32);
            self.planned.repair(PageIndex::new(0)..=last);
        }
        self.planned.read(request, buf)?;
        let page = PageIndex::new((request.offset / PAGE) as u32);
        match self.fails_now(page) {
            false => Ok(()),
            true => Err(StoreError::Injected {
                source_name: self.describe(),
                page,
                attempt: request.attempt,
                persistence: Persistence::Temporary,
            }),
        }
    }

    fn read_now(&self, _: ReadRequest, _: &mut [u8]) -> Option<Result<(), StoreError>> {
        None
    }

    fn cancel(&self) {
        self.planned.cancel();
    }
}
