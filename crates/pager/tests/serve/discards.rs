//! Pages that are thrown away: what is on its way for them never arrives.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use surefault_core::residency::PageState;
use surefault_pager::FailedPage;
use surefault_testkit::{BACKINGS, Backing, bytes, in_thread};

use crate::prefetches::{PREFETCHES, prefetching};
use crate::served::{
    Served, check, expected, marking, page_id, patient, planned, planned_with, until,
};
use crate::stores::Held;

crate::cases![
    present_pages_are_zeros_afterwards,
    failed_pages_are_zeros_afterwards,
    a_read_under_way_is_dropped,
    a_prefetch_under_way_is_dropped,
    an_install_that_waits_for_a_discard_is_dropped,
    pages_beyond_the_region_are_not_touched,
    a_storm_of_discards,
];

fn present_pages_are_zeros_afterwards() {
    for backing in BACKINGS {
        let served = Served::new(backing, 8, planned(8, &[]), &patient());
        (0..8).for_each(|page| check(&served.mapping, page, page));
        served.mapping.store(4, 77);
        served.pager.discard(page_id(3), 3).expect("discard");
        assert_eq!(served.pager.state(page_id(3)), PageState::Removed);
        for page in 3..6 {
            assert_eq!(
                served.mapping.page_by_syscall(page),
                Ok(bytes(1, 0)),
                "{backing:?}"
            );
        }
        check(&served.mapping, 2, 2);
        check(&served.mapping, 6, 6);
        // What is written afterwards stays.
        served.mapping.store(4, 78);
        assert_eq!(served.mapping.load(4), 78);
        served.settle();
        assert_eq!(served.pager.stats().zeroed, 3);
    }
}

fn failed_pages_are_zeros_afterwards() {
    for failed_page in [FailedPage::Auto, FailedPage::Protect] {
        for backing in BACKINGS {
            let config = marking(patient(), failed_page);
            let served = Served::new(backing, 8, planned(8, &["4"]), &config);
            served.fails(4);
            served.pager.discard(page_id(4), 1).expect("discard");
            assert_eq!(
                served.mapping.page_by_syscall(4),
                Ok(bytes(1, 0)),
                "{backing:?}"
            );
            assert_eq!(served.pager.failed_pages(), []);
        }
    }
}

/// A thread waits for a page whose read is under way; the page is discarded; the read comes back.
fn a_read_under_way_is_dropped() {
    for backing in BACKINGS {
        let store = Arc::new(Held::new(8));
        store.hold(2);
        let served = Served::new(backing, 8, store.clone(), &patient());
        let mapping = Arc::clone(&served.mapping);
        let toucher = in_thread(move || mapping.page_by_syscall(2));
        until("the read", || store.waiting() == 1);
        served.pager.discard(page_id(2), 1).expect("discard");
        assert_eq!(toucher(), Ok(bytes(1, 0)), "it need not wait for the read");
        store.release();
        until("its end", || {
            store.waiting() == 0 && served.pager.residency().1.get() == 0
        });
        assert_eq!(served.mapping.page_by_syscall(2), Ok(bytes(1, 0)));
        served.settle();
        assert_eq!(served.pager.stats().installed, 0);
    }
}

fn a_prefetch_under_way_is_dropped() {
    let store = Arc::new(Held::new(8));
    store.hold(2);
    let served = Served::new(Backing::Memfd, 8, store.clone(), &patient());
    served.pager.prefetch(page_id(0), 8);
    until("the read", || store.waiting() == 1);
    served.pager.discard(page_id(2), 2).expect("discard");
    store.release();
    for page in 0..8 {
        let wanted = if page == 2 || page == 3 {
            bytes(1, 0)
        } else {
            expected(page)
        };
        assert_eq!(
            served.mapping.page_by_syscall(page),
            Ok(wanted),
            "page {page}"
        );
    }
}

/// Throwing much away takes a while. A read that comes back meanwhile is accepted, and its install
/// then finds itself out of date.
fn an_install_that_waits_for_a_discard_is_dropped() {
    const PAGES: usize = 2048;
    const LAST: usize = PAGES - 1;
    for round in 0..40 {
        let store = Arc::new(Held::new(PAGES));
        let served = Served::new(Backing::Anonymous, PAGES, store.clone(), &patient());
        served.pager.prefetch(page_id(0), LAST as u32);
        served.settle();
        store.hold(LAST);
        served.pager.prefetch(page_id(LAST), 1);
        until("the read", || store.waiting() == 1);
        let discard = in_thread(move || {
            served
                .pager
                .discard(page_id(0), PAGES as u32)
                .expect("discard");
            served
        });
        std::thread::sleep(std::time::Duration::from_micros(round * 20));
        store.release();
        let served = discard();
        until("its end", || store.waiting() == 0);
        served.settle();
        std::thread::sleep(std::time::Duration::from_millis(1));
        assert_eq!(served.mapping.page_by_syscall(LAST), Ok(bytes(1, 0)));
    }
}

fn pages_beyond_the_region_are_not_touched() {
    let served = Served::new(Backing::Anonymous, 4, planned(4, &[]), &patient());
    check(&served.mapping, 3, 3);
    let beyond = std::panic::AssertUnwindSafe(|| served.pager.discard(page_id(3), 2));
    assert!(std::panic::catch_unwind(beyond).is_err());
    check(&served.mapping, 3, 3);
}

/// Checks what a system call read of `page` that was discarded before it (`was_gone`) or perhaps
/// meanwhile. A discard may tear the read: data up to some byte, and zeros behind it. Never data
/// behind zeros.
pub(crate) fn check_around_discard(page: usize, data: &[u8], was_gone: bool) {
    let expected = expected(page);
    let same = data
        .iter()
        .zip(&expected)
        .take_while(|(a, b)| a == b)
        .count();
    let zeros_behind = data[same..].iter().all(|&byte| byte == 0);
    assert!(
        zeros_behind,
        "page {page} is neither its data nor zeros from byte {same} on"
    );
    // A byte of the data may be zero by itself.
    let is_all_zeros = data.iter().all(|&byte| byte == 0);
    assert!(!was_gone || is_all_zeros, "page {page} is back");
}

/// Threads read all pages again and again while each page is discarded once, at a random time: a
/// page reads as its data until then, and as zeros ever after. Nobody sees data after zeros.
fn a_storm_of_discards() {
    const PAGES: usize = 128;
    let latency = "0us..300us".parse().expect("a latency");
    let all = BACKINGS
        .into_iter()
        .flat_map(|backing| PREFETCHES.map(|prefetch| (backing, prefetch)));
    for (backing, prefetch) in all {
        let store = planned_with(PAGES, &["5,40-43,100"], latency);
        let config = prefetching(patient(), prefetch);
        let served = Served::new(backing, PAGES, store, &config);
        let gone: Arc<Vec<AtomicBool>> =
            Arc::new((0..PAGES).map(|_| AtomicBool::new(false)).collect());
        let stop = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = (0..4)
            .map(|thread| {
                let (mapping, gone) = (Arc::clone(&served.mapping), Arc::clone(&gone));
                let stop = Arc::clone(&stop);
                in_thread(move || {
                    let mut n = thread * 17;
                    while !stop.load(Ordering::Acquire) {
                        n += [1, 5, 7, 11][thread];
                        let page = n % PAGES;
                        let was_gone = gone[page].load(Ordering::Acquire);
                        match mapping.page_by_syscall(page) {
                            Ok(data) => check_around_discard(page, &data, was_gone),
                            Err(error) => assert_eq!((error, was_gone), (Errno::FAULT, false)),
                        }
                    }
                })
            })
            .collect();
        let discarder = {
            let gone = Arc::clone(&gone);
            in_thread(move || {
                for n in 0..PAGES / 2 {
                    let page = n * 37 % (PAGES / 2) * 2;
                    served.pager.discard(page_id(page), 2).expect("discard");
                    gone[page].store(true, Ordering::Release);
                    gone[page + 1].store(true, Ordering::Release);
                    std::thread::sleep(std::time::Duration::from_micros(n as u64 * 7 % 400));
                }
                served
            })
        };
        let served = discarder();
        stop.store(true, Ordering::Release);
        readers.into_iter().for_each(|reader| reader());
        for page in 0..PAGES {
            assert_eq!(served.mapping.page_by_syscall(page), Ok(bytes(1, 0)));
        }
        assert_eq!(served.pager.stats().strange_events, 0);
    }
}
