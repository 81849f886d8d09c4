//! A source that does not answer: the deadline ends it, and others go on meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use surefault_core::CauseKind;
use surefault_core::residency::PageState;
use surefault_pager::FailedPage;
use surefault_testkit::{Backing, in_thread};

use crate::served::{Served, check, config, expected, index, marking, page_id, planned, until};
use crate::stores::Held;

crate::cases![
    a_stalled_page_fails_at_its_deadline,
    a_stalled_page_is_protected_at_its_deadline,
    more_stalled_pages_than_fetches,
    what_comes_too_late_is_dropped,
    a_stalled_page_does_not_hold_up_its_range,
];

fn a_stalled_page_fails_at_its_deadline() {
    stalled(FailedPage::Auto);
}

fn a_stalled_page_is_protected_at_its_deadline() {
    stalled(FailedPage::Protect);
}

fn stalled(failed_page: FailedPage) {
    let store = planned(64, &["9:stall"]);
    let config = marking(config(), failed_page);
    let deadline = config.residency.deadline;
    let served = Served::new(Backing::Anonymous, 64, store.clone(), &config);
    let mapping = Arc::clone(&served.mapping);
    let begun = Instant::now();
    let stalled = in_thread(move || (mapping.load_by_syscall(9), Instant::now()));
    until("the stall", || {
        served.pager.state(page_id(9)) == PageState::Pending
    });
    // Served while the other waits: if this takes longer than the deadline, all the same.
    (0..64)
        .filter(|&page| page != 9)
        .for_each(|page| check(&served.mapping, page, page));
    let (answer, at) = stalled();
    assert_eq!(answer, Err(Errno::FAULT));
    assert!(at - begun >= deadline, "{:?}", at - begun);
    let failure = served.failure(9);
    assert_eq!(
        (failure.cause.kind, failure.attempts),
        (CauseKind::Deadline, 1)
    );
    assert_eq!(
        served.pager.cause_text(failure.cause),
        "no answer from the source within 300ms"
    );
    store.repair(index(9));
    served.pager.heal(page_id(9), 1);
    check(&served.mapping, 9, 9);
}

/// Those for which there is no fetch left fail at their deadline, too; and when the reads come back
/// everything goes on.
fn more_stalled_pages_than_fetches() {
    let store = planned(64, &["0-11:stall"]);
    let mut config = config();
    config.residency.max_fetches = 4;
    config.residency.max_range = 1;
    let served = Served::new(Backing::Memfd, 64, store.clone(), &config);
    let touchers: Vec<_> = (0..12)
        .map(|page| {
            let mapping = Arc::clone(&served.mapping);
            in_thread(move || mapping.load_by_syscall(page))
        })
        .collect();
    for toucher in touchers {
        assert_eq!(toucher(), Err(Errno::FAULT));
    }
    for page in 0..12 {
        assert_eq!(served.failure(page).cause.kind, CauseKind::Deadline);
    }
    assert_eq!(served.pager.stats().fetches, 4);
    for page in 0..12 {
        store.repair(index(page));
    }
    // Not before the reads have come back is there room for others.
    until("the reads come back", || {
        served.mapping.load_by_syscall(20).is_ok() || {
            served.pager.heal(page_id(20), 1);
            false
        }
    });
    assert_eq!(served.pager.heal(page_id(0), 12), 12);
    (0..64).for_each(|page| check(&served.mapping, page, page));
}

fn what_comes_too_late_is_dropped() {
    let store = Arc::new(Held::new(8));
    store.hold(5);
    let served = Served::new(Backing::Anonymous, 8, store.clone(), &config());
    let failure = served.fails(5);
    assert_eq!(failure.cause.kind, CauseKind::Deadline);
    assert_eq!(store.waiting(), 1);
    store.release();
    until("the late result", || store.waiting() == 0);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(served.fails(5), failure, "failed until it is healed");
    assert_eq!(served.pager.heal(page_id(5), 1), 1);
    assert_eq!(served.mapping.page_by_syscall(5), Ok(expected(5)));
    served.settle();
    assert_eq!(served.pager.stats().installed, 1);
}

/// A page of a range that does not answer costs its neighbours their patience, not their deadline.
fn a_stalled_page_does_not_hold_up_its_range() {
    let store = planned(32, &["6:stall"]);
    let served = Served::new(Backing::Anonymous, 32, store, &config());
    assert_eq!(served.pager.prefetch(page_id(0), 16), 16);
    (8..16).for_each(|page| check(&served.mapping, page, page));
    assert_eq!(served.fails(6).cause.kind, CauseKind::Deadline);
}
