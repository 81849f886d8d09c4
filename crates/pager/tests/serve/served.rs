//! A memory that is served, and what the tests ask of it.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use surefault_core::plan::{FaultPlan, Latency};
use surefault_core::residency::{Backoff, ResidencyConfig};
use surefault_core::{Failure, Hva, PageCount, PageId, PageIndex, PageSize, RegionId};
use surefault_pager::{FailedPage, PageVerdict, Pager, PagerConfig, ServedRegion};
use surefault_store::{PatternStore, PlannedStore, Store};
use surefault_testkit::{Backing, Mapping, PATIENCE, page_size};

pub(crate) const SEED: u64 = 11;

/// One region, and the pager that serves it.
pub(crate) struct Served {
    pub(crate) pager: Pager,
    pub(crate) mapping: Arc<Mapping>,
}

impl Served {
    pub(crate) fn new(
        backing: Backing,
        pages: usize,
        store: Arc<dyn Store>,
        config: &PagerConfig,
    ) -> Served {
        let mapping = Arc::new(Mapping::new(backing, pages));
        let pager = start(&[region(&mapping, pages, 0)], store, config);
        Served { pager, mapping }
    }

    /// Waits until nothing is under way: touchers are woken before it is counted.
    pub(crate) fn settle(&self) {
        until("nothing is pending", || self.pager.residency().1.get() == 0);
    }

    /// The failure of `page`, of which an access has just been refused.
    pub(crate) fn failure(&self, page: usize) -> Failure {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.pager.verdict(page_id(page)) {
                PageVerdict::Failed(failure) => return failure,
                // Woken before the machine knew.
                PageVerdict::Retry => assert!(Instant::now() < until, "page {page} never fails"),
            }
            std::thread::yield_now();
        }
    }

    /// Touches a page that is to fail, and gives its failure.
    pub(crate) fn fails(&self, page: usize) -> Failure {
        assert_eq!(self.mapping.load_by_syscall(page), Err(Errno::FAULT));
        self.failure(page)
    }
}

pub(crate) fn start(
    regions: &[ServedRegion],
    store: Arc<dyn Store>,
    config: &PagerConfig,
) -> Pager {
    // SAFETY: the tests' mappings outlive their pagers, and nobody has references into them.
    unsafe { Pager::start(regions, store, config) }.expect("a pager")
}

pub(crate) fn region(mapping: &Mapping, pages: usize, store_offset: u64) -> ServedRegion {
    ServedRegion {
        start: Hva::new(mapping.all().start().get()),
        pages: PageCount::new(pages as u64),
        page_size: host_page(),
        store_offset,
    }
}

pub(crate) fn host_page() -> PageSize {
    PageSize::new(page_size() as u64).expect("a page size")
}

pub(crate) fn page_id(page: usize) -> PageId {
    PageId::new(RegionId::new(0), PageIndex::new(page as u32))
}

/// Short times, so that tests of deadlines are short.
pub(crate) fn config() -> PagerConfig {
    PagerConfig {
        residency: ResidencyConfig {
            deadline: Duration::from_millis(300),
            range_patience: Duration::from_millis(100),
            backoff: Backoff {
                first: Duration::from_millis(1),
                max: Duration::from_millis(4),
            },
            ..ResidencyConfig::default()
        },
        ..PagerConfig::default()
    }
}

/// As `config`, with time for everything that is not to fail.
pub(crate) fn patient() -> PagerConfig {
    let mut config = config();
    config.residency.deadline = PATIENCE;
    config
}

pub(crate) fn marking(config: PagerConfig, failed_page: FailedPage) -> PagerConfig {
    PagerConfig {
        failed_page,
        ..config
    }
}

pub(crate) fn pattern(pages: usize) -> PatternStore {
    PatternStore::new(SEED, (pages * page_size()) as u64)
}

/// The pattern, failing as `rules` say.
pub(crate) fn planned(pages: usize, rules: &[&str]) -> Arc<PlannedStore<PatternStore>> {
    planned_with(pages, rules, Latency::default())
}

pub(crate) fn planned_with(
    pages: usize,
    rules: &[&str],
    latency: Latency,
) -> Arc<PlannedStore<PatternStore>> {
    let mut plan = FaultPlan::new(SEED, latency);
    for rule in rules {
        plan.push(rule.parse().expect("a rule"));
    }
    Arc::new(PlannedStore::new(pattern(pages), plan, host_page()))
}

pub(crate) fn index(page: usize) -> RangeInclusive<PageIndex> {
    let page = PageIndex::new(page as u32);
    page..=page
}

/// The bytes of store page `page`.
pub(crate) fn expected(page: usize) -> Vec<u8> {
    let words = page_size() as u64 / 8;
    let first = page as u64 * words;
    (first..first + words)
        .flat_map(|word| PatternStore::word(SEED, word * 8).to_le_bytes())
        .collect()
}

/// Reads all of `page` as a guest would, and checks that it is store page `store_page`.
pub(crate) fn check(mapping: &Mapping, page: usize, store_page: usize) {
    for word in 0..page_size() / 8 {
        let offset = (store_page * page_size() + word * 8) as u64;
        assert_eq!(
            u64::from_le(mapping.word(page, word)),
            PatternStore::word(SEED, offset),
            "word {word} of page {page}"
        );
    }
}

/// Waits until `done`.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let limit = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < limit, "never happens: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
