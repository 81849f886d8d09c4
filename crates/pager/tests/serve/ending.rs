//! The end of a pager: bounded, and nothing is left.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use surefault_core::PageId;
use surefault_core::plan::Latency;
use surefault_core::residency::PageOutcome;
use surefault_pager::{Blocked, FailedPage, FaultObserver, Pager};
use surefault_testkit::{BACKINGS, Backing, Mapping, PATIENCE, in_thread};

use crate::served::{Served, check, marking, patient, planned, planned_with, region, until};
use crate::stores::Held;

crate::cases![
    nothing_is_left,
    a_store_that_does_not_let_go,
    what_comes_after_the_end_touches_nothing,
    a_thread_of_its_own_may_end_it,
];

fn count(directory: &str) -> usize {
    std::fs::read_dir(directory).expect("proc").count()
}

/// With stalled reads, whose store lets them go when it is told to.
fn nothing_is_left() {
    let (threads, descriptors) = (count("/proc/self/task"), count("/proc/self/fd"));
    for backing in BACKINGS {
        let store = planned(16, &["1-6:stall"]);
        let mut config = patient();
        config.residency.max_range = 1;
        let served = Served::new(backing, 16, store, &config);
        check(&served.mapping, 0, 0);
        let touchers: Vec<_> = (1..7)
            .map(|page| {
                let mapping = Arc::clone(&served.mapping);
                in_thread(move || mapping.load_by_syscall(page))
            })
            .collect();
        until("the stalls", || served.pager.residency().1.get() == 6);
        let begun = Instant::now();
        drop(served.pager);
        assert!(begun.elapsed() < PATIENCE / 2);
        for toucher in touchers {
            assert_eq!(toucher(), Err(Errno::FAULT), "refused, rather than zeros");
        }
    }
    until("all threads end", || count("/proc/self/task") <= threads);
    assert!(count("/proc/self/fd") <= descriptors);
}

fn a_store_that_does_not_let_go() {
    let (threads, descriptors) = (count("/proc/self/task"), count("/proc/self/fd"));
    let store = Arc::new(Held::stubborn(16));
    (0..4).for_each(|page| store.hold(page));
    let mut config = patient();
    config.residency.max_fetches = 2;
    config.residency.max_range = 1;
    let served = Served::new(Backing::Anonymous, 16, store.clone(), &config);
    let touchers: Vec<_> = (0..4)
        .map(|page| {
            let mapping = Arc::clone(&served.mapping);
            in_thread(move || mapping.load_by_syscall(page))
        })
        .collect();
    until("the stalls", || {
        store.waiting() == 2 && served.pager.residency().1.get() == 4
    });
    let begun = Instant::now();
    drop(served.pager);
    assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
    for toucher in touchers {
        assert_eq!(toucher(), Err(Errno::FAULT));
    }
    let begun = store.reads();
    store.release();
    until("all threads end", || count("/proc/self/task") <= threads);
    assert_eq!(store.reads(), begun, "no further read is begun");
    assert!(count("/proc/self/fd") <= descriptors);
}

/// A read that comes back after the end neither installs nor marks.
fn what_comes_after_the_end_touches_nothing() {
    for failed_page in [FailedPage::Auto, FailedPage::Protect] {
        let threads = count("/proc/self/task");
        let store = Arc::new(Held::stubborn(8));
        store.hold(2);
        let config = marking(patient(), failed_page);
        let served = Served::new(Backing::Anonymous, 8, store.clone(), &config);
        served.pager.prefetch(crate::served::page_id(2), 1);
        until("the read", || store.waiting() == 1);
        let mapping = served.mapping;
        drop(served.pager);
        // Its owner uses the memory for something else.
        let page = mapping.page(2);
        let rights = rustix::mm::MprotectFlags::READ | rustix::mm::MprotectFlags::WRITE;
        mapping.protect(2, rights);
        let advice = rustix::mm::Advice::LinuxDontNeed;
        mapping.give_up(2, advice).expect("madvise");
        store.release();
        until("all threads end", || count("/proc/self/task") <= threads);
        assert_eq!(mapping.load_by_syscall(2), Ok(0), "{page}");
    }
}

/// Drops the pager when it is told something by it.
#[derive(Default)]
struct Ending(Mutex<Option<Pager>>);

impl FaultObserver for Ending {
    fn blocked(&self, _: Blocked) {}

    fn attend(&self) -> Option<Instant> {
        None
    }

    fn settled(&self, _: PageId, _: PageOutcome) {
        let pager = self.0.lock().expect("nobody panics with it").take();
        drop(pager);
    }
}

/// Its event loop, which has the page at once, or a thread of the pool.
fn a_thread_of_its_own_may_end_it() {
    let threads = count("/proc/self/task");
    for latency in [0, 2].map(Duration::from_millis) {
        let store = planned_with(8, &[], Latency::fixed(latency));
        let mapping = Mapping::new(Backing::Anonymous, 8);
        let observer = Arc::new(Ending::default());
        let regions = [region(&mapping, 8, 0)];
        // SAFETY: the mapping outlives the pager, and nobody has references into it.
        let pager = unsafe { Pager::start_observed(&regions, store, &patient(), observer.clone()) };
        *observer.0.lock().expect("nobody panics with it") = Some(pager.expect("a pager"));
        check(&mapping, 3, 3);
        until("all threads end", || count("/proc/self/task") <= threads);
    }
}
