//! Pages that fail, alone and in company, and are healed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};

use rustix::io::Errno;
use surefault_core::CauseKind;
use surefault_pager::{FailedPage, PageVerdict};
use surefault_testkit::{BACKINGS, Backing, in_thread};

use crate::served::{
    Served, check, config, expected, index, marking, page_id, patient, pattern, planned, until,
};
use crate::stores::{Held, Panicking};

crate::cases![
    poisoned_pages_fail_and_heal(poison),
    protected_pages_fail_and_heal,
    a_permanent_failure_is_not_retried,
    a_temporary_failure_heals_within_its_budget,
    a_temporary_failure_beyond_its_budget,
    only_the_bad_page_of_a_range_fails,
    a_panicking_store_fails_that_fetch_only,
    everybody_who_touches_a_poisoned_page_is_told(poison),
    everybody_who_touches_a_protected_page_is_told,
];

fn poisoned_pages_fail_and_heal() {
    fail_and_heal(FailedPage::Poison);
}

fn protected_pages_fail_and_heal() {
    fail_and_heal(FailedPage::Protect);
}

/// Several pages, one after the other; neighbours are right before, meanwhile and afterwards.
fn fail_and_heal(failed_page: FailedPage) {
    for backing in BACKINGS {
        let store = planned(16, &["3,7-8"]);
        let config = marking(patient(), failed_page);
        let served = Served::new(backing, 16, store.clone(), &config);
        check(&served.mapping, 2, 2);
        for page in [3, 7, 8] {
            let failure = served.fails(page);
            assert_eq!(failure.cause.kind, CauseKind::Injected);
            assert_eq!(failure.attempts, 1);
            assert_eq!(
                served.pager.cause_text(failure.cause),
                format!("the fault plan fails page {page} of seeded pattern 11 on every attempt")
            );
            assert_eq!(served.pager.failed_pages(), [(page_id(page), failure)]);
            // Again, and it is the same failure.
            assert_eq!(served.fails(page), failure);
            check(&served.mapping, page - 1, page - 1);
            check(&served.mapping, page + 3, page + 3);
            store.repair(index(page));
            assert_eq!(served.pager.heal(page_id(0), 16), 1);
            assert_eq!(served.pager.verdict(page_id(page)), PageVerdict::Retry);
            assert_eq!(served.mapping.page_by_syscall(page), Ok(expected(page)));
            check(&served.mapping, page, page);
        }
        assert_eq!(served.pager.failed_pages(), []);
        (0..16).for_each(|page| check(&served.mapping, page, page));
        assert_eq!(served.pager.stats().strange_events, 0);
    }
}

fn a_permanent_failure_is_not_retried() {
    let served = Served::new(Backing::Anonymous, 8, planned(8, &["5"]), &patient());
    served.fails(5);
    served.fails(5);
    let stats = served.pager.stats();
    assert_eq!((stats.fetches, stats.failed_fetches), (1, 1), "{stats:?}");
}

fn a_temporary_failure_heals_within_its_budget() {
    let store = planned(8, &["5:temporary=2"]);
    let served = Served::new(Backing::Anonymous, 8, store, &patient());
    check(&served.mapping, 5, 5);
    let stats = served.pager.stats();
    assert_eq!((stats.fetches, stats.failed), (3, 0), "{stats:?}");
}

fn a_temporary_failure_beyond_its_budget() {
    let store = planned(8, &["5:temporary=3"]);
    let served = Served::new(Backing::Anonymous, 8, store, &patient());
    let failure = served.fails(5);
    assert_eq!(
        (failure.attempts, failure.cause.kind),
        (3, CauseKind::Injected)
    );
    assert_eq!(served.pager.stats().fetches, 3);
    // A healed page has a fresh budget: attempts count from 1 again.
    served.pager.heal(page_id(5), 1);
    assert_eq!(served.fails(5).attempts, 3);
    assert_eq!(served.pager.stats().fetches, 6);
}

/// While the only fetch there may be is held up, neighbours gather; then they are fetched together.
fn only_the_bad_page_of_a_range_fails() {
    struct Both {
        held: Held,
        planned: Arc<dyn surefault_store::Store>,
    }
    impl surefault_store::Store for Both {
        fn size(&self) -> u64 {
            self.held.size()
        }
        fn describe(&self) -> String {
            self.planned.describe()
        }
        fn read(
            &self,
            request: surefault_store::ReadRequest,
            buf: &mut [u8],
        ) -> Result<(), surefault_store::StoreError> {
            self.held.read(request, buf)?;
            self.planned.read(request, buf)
        }
        fn read_now(
            &self,
            _: surefault_store::ReadRequest,
            _: &mut [u8],
        ) -> Option<Result<(), surefault_store::StoreError>> {
            None
        }
    }
    let store = Arc::new(Both {
        held: Held::new(32),
        planned: planned(32, &["4"]),
    });
    store.held.hold(30);
    let mut config = patient();
    config.residency.max_fetches = 1;
    let served = Served::new(Backing::Memfd, 32, store.clone(), &config);
    let touch = |page| {
        let mapping = Arc::clone(&served.mapping);
        in_thread(move || mapping.page_by_syscall(page))
    };
    let first = touch(30);
    until("the held read", || store.held.waiting() == 1);
    let others: Vec<_> = (0..8).map(touch).collect();
    until("eight more", || served.pager.residency().1.get() == 9);
    store.held.release();
    assert_eq!(first(), Ok(expected(30)));
    for (page, touched) in others.into_iter().enumerate() {
        match page {
            4 => assert_eq!(touched(), Err(Errno::FAULT)),
            _ => assert_eq!(touched(), Ok(expected(page)), "page {page}"),
        }
    }
    assert_eq!(
        served.failure(4).attempts,
        1,
        "the range was no attempt at it"
    );
    assert_eq!(served.pager.failed_pages().len(), 1);
    // The held page, the range, and each of its pages.
    assert_eq!(served.pager.stats().fetches, 1 + 1 + 8);
}

fn a_panicking_store_fails_that_fetch_only() {
    for inline in [true, false] {
        let store = Arc::new(Panicking {
            inner: pattern(8),
            inline,
            mended: AtomicBool::new(false),
        });
        let served = Served::new(Backing::Anonymous, 8, store.clone(), &patient());
        check(&served.mapping, 2, 2);
        let failure = served.fails(3);
        assert_eq!(failure.cause.kind, CauseKind::Io);
        let text = served.pager.cause_text(failure.cause);
        assert_eq!(text, "reading the panicking store panicked");
        check(&served.mapping, 4, 4);
        store.mended.store(true, Ordering::Relaxed);
        served.pager.heal(page_id(3), 1);
        check(&served.mapping, 3, 3);
    }
}

fn everybody_who_touches_a_poisoned_page_is_told() {
    // Before such faults were answered, it hung within this many rounds (6.18).
    storm(FailedPage::Poison, 6_000);
}

fn everybody_who_touches_a_protected_page_is_told() {
    storm(FailedPage::Protect, 500);
}

/// Threads touch one failing page at the same time, while others heal it: each of them is told,
/// also those whose fault begins while the page is being marked.
fn storm(failed_page: FailedPage, rounds: usize) {
    const THREADS: usize = 4;
    for backing in BACKINGS {
        let config = marking(config(), failed_page);
        let served = Served::new(backing, 4, planned(4, &["1"]), &config);
        let start = Arc::new(Barrier::new(THREADS + 1));
        let touchers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (mapping, start) = (Arc::clone(&served.mapping), Arc::clone(&start));
                in_thread(move || {
                    for round in 0..rounds {
                        start.wait();
                        for _ in 0..(thread * 37 + round * 13) % 2500 {
                            std::hint::spin_loop();
                        }
                        assert_eq!(mapping.load_by_syscall(1), Err(Errno::FAULT));
                    }
                })
            })
            .collect();
        let healer = {
            let start = Arc::clone(&start);
            move || {
                for _ in 0..rounds {
                    start.wait();
                    served.pager.heal(page_id(0), 4);
                }
                served
            }
        };
        let served = in_thread(healer)();
        touchers.into_iter().for_each(|toucher| toucher());
        assert_eq!(served.pager.stats().strange_events, 0);
    }
}
