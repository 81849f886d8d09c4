use std::sync::mpsc;

use surefault_core::Persistence;
use surefault_core::plan::Latency;

use super::*;
use crate::PatternStore;

const PAGE: u64 = 4096;
const PATIENCE: Duration = Duration::from_secs(60);

fn planned(rules: &[&str], latency: Duration) -> PlannedStore<PatternStore> {
    let mut plan = FaultPlan::new(1, Latency::fixed(latency));
    for rule in rules {
        plan.push(rule.parse().expect("a rule"));
    }
    PlannedStore::new(PatternStore::new(1, 64 * PAGE), plan, PageSize::KIB_4)
}

fn read(store: &impl Store, first: u64, pages: usize, attempt: u8) -> Result<Vec<u8>, StoreError> {
    let mut buf = vec![0; pages * PAGE as usize];
    let offset = first * PAGE;
    store.read(ReadRequest { offset, attempt }, &mut buf)?;
    Ok(buf)
}

fn read_now(store: &impl Store, first: u64, pages: usize) -> Option<Result<(), StoreError>> {
    let mut buf = vec![0; pages * PAGE as usize];
    store.read_now(ReadRequest::first(first * PAGE), &mut buf)
}

#[test]
fn healthy_pages_are_the_inner_stores() {
    let store = planned(&["5"], Duration::ZERO);
    let pages = read(&store, 6, 2, 1).expect("healthy");
    assert_eq!(pages[..8], PatternStore::word(1, 6 * PAGE).to_le_bytes());
    assert_eq!(read_now(&store, 6, 2), Some(Ok(())));
}

#[test]
fn a_range_fails_with_one_of_its_pages() {
    let store = planned(&["5", "6:temporary=2"], Duration::ZERO);
    let error = read(&store, 4, 4, 1).expect_err("page 5 is in it");
    assert!(matches!(
        error,
        StoreError::Injected { page, persistence: Persistence::Permanent, .. }
            if page == PageIndex::new(5)
    ));
    assert!(matches!(read_now(&store, 4, 4), Some(Err(_))));
    assert!(read(&store, 4, 1, 1).is_ok());
    for (attempt, healthy) in [(1, false), (2, false), (3, true)] {
        assert_eq!(read(&store, 6, 1, attempt).is_ok(), healthy, "{attempt}");
    }
    let error = read(&store, 6, 1, 1).expect_err("temporary");
    assert_eq!(error.persistence(), Persistence::Temporary);
    // Half a page is that page.
    let mut half = [0; 2048];
    let upper_half = ReadRequest::first(5 * PAGE + 2048);
    assert!(store.read(upper_half, &mut half).is_err());
}

#[test]
fn a_planned_truncation_has_both_sizes() {
    let store = planned(&["5:truncate"], Duration::ZERO);
    for (first, pages, needed) in [(5, 1, 6 * PAGE), (4, 4, 8 * PAGE)] {
        let error = read(&store, first, pages, 1).expect_err("truncated");
        assert_eq!(
            error,
            StoreError::Truncated {
                source_name: "seeded pattern 1".to_owned(),
                found: 5 * PAGE,
                needed,
            }
        );
    }
}

#[test]
fn latency_is_waited_for() {
    let latency = Duration::from_millis(20);
    let store = planned(&[], latency);
    let begun = Instant::now();
    assert!(read(&store, 0, 2, 1).is_ok());
    assert!(begun.elapsed() >= latency);
    assert_eq!(read_now(&store, 0, 1), None);
}

/// Runs `release` while a read of page 5 waits, and gives what became of the read.
fn released(
    store: &PlannedStore<PatternStore>,
    release: impl FnOnce(),
) -> Result<Vec<u8>, StoreError> {
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        scope.spawn(move || sender.send(read(store, 4, 3, 1)));
        let early = receiver.recv_timeout(Duration::from_millis(50));
        assert_eq!(
            early,
            Err(mpsc::RecvTimeoutError::Timeout),
            "it does not wait"
        );
        release();
        receiver.recv_timeout(PATIENCE).unwrap_or_else(|error| {
            // Lets the scope end.
            store.cancel();
            panic!("{error}")
        })
    })
}

#[test]
fn a_repair_releases_a_stall() {
    let store = planned(&["5:stall"], Duration::ZERO);
    assert_eq!(read_now(&store, 5, 1), None);
    let page_5 = PageIndex::new(5);
    let pages = released(&store, || store.repair(page_5..=page_5)).expect("repaired");
    assert_eq!(pages[..8], PatternStore::word(1, 4 * PAGE).to_le_bytes());
    assert_eq!(read_now(&store, 5, 1), Some(Ok(())));
}

#[test]
fn a_cancel_releases_stalls_and_sleeps() {
    for store in [
        planned(&["5:stall"], Duration::ZERO),
        planned(&[], Duration::from_secs(3600)),
    ] {
        let error = released(&store, || store.cancel()).expect_err("cancelled");
        assert!(matches!(error, StoreError::Cancelled { .. }), "{error}");
        assert_eq!(read_now(&store, 0, 1), None);
    }
}

#[test]
fn repaired_pages_stay_so() {
    let store = planned(&["0-63"], Duration::ZERO);
    let page = PageIndex::new;
    for repaired in [page(10)..=page(12), page(1)..=page(1), page(12)..=page(20)] {
        store.repair(repaired);
    }
    let healthy: Vec<_> = (0..64)
        .filter(|&first| read(&store, first, 1, 1).is_ok())
        .collect();
    let expected: Vec<_> = [1].into_iter().chain(10..=20).collect();
    assert_eq!(healthy, expected);
    assert_eq!(
        store.lock().repaired,
        [page(1)..=page(1), page(10)..=page(20)]
    );
    store.repair(page(30)..=page(29));
    assert!(read(&store, 29, 1, 1).is_err());
}
