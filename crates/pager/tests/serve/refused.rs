//! First accesses that are refused instead of waiting.

use rustix::io::Errno;
use surefault_core::residency::PageState;
use surefault_pager::{FailedPage, PageVerdict, PagerConfig};
use surefault_testkit::{BACKINGS, Backing, bytes};

use crate::prefetches::prefetching;
use crate::served::{Served, check, expected, index, marking, page_id, patient, planned, until};

crate::cases![
    a_page_is_refused_until_it_is_asked_for(poison),
    a_page_that_fails_stays_refused_and_heals(poison),
    pages_that_are_thrown_away_are_waited_for(poison),
    a_page_that_was_asked_for_brings_others(poison),
    where_nothing_is_poisoned_nothing_is_refused,
];

fn refusing() -> PagerConfig {
    PagerConfig {
        refuse_absent: true,
        ..patient()
    }
}

fn a_page_is_refused_until_it_is_asked_for() {
    for backing in BACKINGS {
        let served = Served::new(backing, 8, planned(8, &[]), &refusing());
        assert!(served.pager.refuses_absent());
        for _ in 0..2 {
            assert_eq!(served.mapping.load_by_syscall(3), Err(Errno::FAULT));
            assert_eq!(served.pager.state(page_id(3)), PageState::Absent);
        }
        assert_eq!(served.pager.verdict(page_id(3)), PageVerdict::Retry);
        until("it is there", || {
            served.pager.state(page_id(3)) == PageState::Present
        });
        check(&served.mapping, 3, 3);
        assert_eq!(served.mapping.load_by_syscall(4), Err(Errno::FAULT));
        let stats = served.pager.stats();
        assert_eq!((stats.faults, stats.installed), (1, 1), "{stats:?}");
    }
}

fn a_page_that_fails_stays_refused_and_heals() {
    for backing in BACKINGS {
        let store = planned(8, &["5"]);
        let served = Served::new(backing, 8, store.clone(), &refusing());
        let failure = served.fails(5);
        assert_eq!(served.fails(5), failure);
        assert_eq!(served.pager.failed_pages(), [(page_id(5), failure)]);
        store.repair(index(5));
        assert_eq!(served.pager.heal(page_id(5), 1), 1);
        assert_eq!(served.mapping.page_by_syscall(5), Ok(expected(5)));
        assert_eq!(served.pager.stats().strange_events, 0);
    }
}

/// As they are everywhere else, whether anybody had asked for them or not.
fn pages_that_are_thrown_away_are_waited_for() {
    let served = Served::new(Backing::Anonymous, 8, planned(8, &[]), &refusing());
    served.pager.verdict(page_id(2));
    until("it is there", || {
        served.pager.state(page_id(2)) == PageState::Present
    });
    served.pager.discard(page_id(2), 2).expect("discard");
    for page in 2..4 {
        assert_eq!(served.mapping.page_by_syscall(page), Ok(bytes(1, 0)));
    }
    assert_eq!(served.mapping.load_by_syscall(4), Err(Errno::FAULT));
}

fn a_page_that_was_asked_for_brings_others() {
    let config = prefetching(refusing(), "around=16");
    let served = Served::new(Backing::Memfd, 64, planned(64, &[]), &config);
    served.pager.verdict(page_id(37));
    until("its block is there", || {
        served.pager.residency().0.get() == 16
    });
    (32..48).for_each(|page| check(&served.mapping, page, page));
    // The event loop, which sees none of these demands, is told of each.
    served.pager.verdict(page_id(5));
    until("that block is there, too", || {
        served.pager.residency().0.get() == 32
    });
    (0..16).for_each(|page| check(&served.mapping, page, page));
}

fn where_nothing_is_poisoned_nothing_is_refused() {
    let config = marking(refusing(), FailedPage::Protect);
    let served = Served::new(Backing::Anonymous, 8, planned(8, &[]), &config);
    assert!(!served.pager.refuses_absent());
    check(&served.mapping, 3, 3);
}
