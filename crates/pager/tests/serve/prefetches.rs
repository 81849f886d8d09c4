//! Pages that are fetched before somebody wants them, because others were wanted.

use std::sync::Arc;

use surefault_core::residency::PageState;
use surefault_pager::{PagerConfig, Prefetch};
use surefault_testkit::{Backing, in_thread};

use crate::served::{Served, check, config, page_id, patient, planned, until};
use crate::stores::Held;

crate::cases![
    a_sweep_faults_now_and_then,
    around_a_page,
    a_prefetch_that_fails_fails_nobody,
    a_demand_does_not_wait_for_a_prefetch,
];

const PAGES: usize = 600;

/// One of each kind.
pub(crate) const PREFETCHES: [&str; 3] = ["none", "around=16", "sequential"];

pub(crate) fn prefetching(config: PagerConfig, prefetch: &str) -> PagerConfig {
    let prefetch: Prefetch = prefetch.parse().expect("a prefetch");
    PagerConfig { prefetch, ..config }
}

fn a_sweep_faults_now_and_then() {
    let config = prefetching(patient(), "sequential");
    let served = Served::new(Backing::Anonymous, PAGES, planned(PAGES, &[]), &config);
    let mut faults = 0;
    for page in 0..PAGES {
        check(&served.mapping, page, page);
        // A toucher that is slower than the pager: it goes on when all that its fault has brought
        // about is there.
        let more = served.pager.stats().faults > faults;
        faults = served.pager.stats().faults;
        let next = page_id((page + 1).min(PAGES - 1));
        until("the next page is there, or was never planned", || {
            let is_there = served.pager.state(next) == PageState::Present;
            !more || page == 0 || (is_there && served.pager.residency().1.get() == 0)
        });
    }
    let stats = served.pager.stats();
    assert_eq!(stats.installed, PAGES as u64, "{stats:?}");
    // Eight, if nobody ever overtakes a window of which a chunk is still missing.
    assert!(stats.faults <= PAGES as u64 / 4, "{stats:?}");
}

fn around_a_page() {
    let config = prefetching(patient(), "around=16");
    let served = Served::new(Backing::Memfd, PAGES, planned(PAGES, &[]), &config);
    check(&served.mapping, 37, 37);
    until("its block is there", || {
        served.pager.residency().0.get() == 16
    });
    for page in 32..48 {
        assert_eq!(served.pager.state(page_id(page)), PageState::Present);
        check(&served.mapping, page, page);
    }
    assert_eq!(served.pager.stats().faults, 1);
}

fn a_prefetch_that_fails_fails_nobody() {
    let config = prefetching(config(), "around=16");
    let store = planned(PAGES, &["40"]);
    let served = Served::new(Backing::Anonymous, PAGES, store, &config);
    check(&served.mapping, 37, 37);
    until("the prefetch has failed", || {
        served.pager.stats().failed_fetches > 0 && served.pager.residency().1.get() == 0
    });
    assert_eq!(served.pager.state(page_id(40)), PageState::Absent);
    assert_eq!(served.pager.stats().failed, 0);
    // Who wants it is told, on a budget of its own; its neighbours are served.
    assert_eq!(served.fails(40).attempts, 1);
    check(&served.mapping, 39, 39);
    check(&served.mapping, 41, 41);
}

fn a_demand_does_not_wait_for_a_prefetch() {
    let config = prefetching(patient(), "sequential");
    let store = Arc::new(Held::new(PAGES));
    store.hold(5);
    let held = Arc::clone(&store);
    let served = Served::new(Backing::Anonymous, PAGES, store, &config);
    for page in [0, 1] {
        check(&served.mapping, page, page);
    }
    until("the prefetch is held", || held.waiting() > 0);
    // Pages elsewhere, and as many of them as there could be fetches.
    for page in (100..500).step_by(5) {
        check(&served.mapping, page, page);
    }
    // One in the very range that is held is read alone when its time is over.
    let mapping = Arc::clone(&served.mapping);
    in_thread(move || check(&mapping, 6, 6))();
    held.release();
    check(&served.mapping, 5, 5);
}
