//! A memory whose userfaultfd somebody else has made: nothing but absent pages can be changed.
//! Here that somebody is this process, so that its memory can be looked at.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::io::Errno;
use rustix::mm::Advice;
use surefault_core::residency::PageState;
use surefault_core::{CauseKind, Failure, Hva, PageId};
use surefault_pager::{Attendant, FailedPage, Pager, PagerConfig, StartError};
use surefault_store::Store;
use surefault_testkit::{BACKINGS, Backing, Mapping, bytes, in_thread};
use surefault_uffd::{Features, Options, RegisterMode, Userfaultfd};

use crate::prefetches::{PREFETCHES, prefetching};
use crate::served::{
    check, config, expected, index, marking, page_id, patient, pattern, planned, planned_with,
    region, until,
};
use crate::stores::Held;

crate::cases![
    what_was_handed_over_is_served,
    a_source_that_ends_early,
    removed_pages_are_zeros,
    a_read_under_way_is_dropped,
    failed_pages_are_poisoned_and_healed(poison),
    what_fails_again_is_said_again(poison),
    failed_pages_that_are_removed_are_zeros(poison),
    waiting_ends_when_the_source_heals,
    the_process_is_killed_before_it_is_woken,
    faults_outside_of_the_regions_end(poison),
    ways_that_mean_nothing_here,
    a_storm_of_removals,
    a_balloon_that_never_rests,
];

/// What an attendant has heard.
#[derive(Default)]
struct Heard {
    failed: Mutex<Vec<(PageId, Failure, String)>>,
    recovered: Mutex<Vec<PageId>>,
    stray: Mutex<Vec<Hva>>,
    kills: AtomicUsize,
}

impl Attendant for Heard {
    fn page_failed(&self, page: PageId, failure: Failure, cause: &str) {
        let mut failed = self.failed.lock().expect("no panic");
        failed.push((page, failure, cause.to_owned()));
    }

    fn page_recovered(&self, page: PageId) {
        self.recovered.lock().expect("no panic").push(page);
    }

    fn stray_fault(&self, address: Hva) {
        self.stray.lock().expect("no panic").push(address);
    }

    fn kill(&self) -> io::Result<()> {
        self.kills.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

impl Heard {
    fn failures(&self) -> usize {
        self.failed.lock().expect("no panic").len()
    }
}

struct Attached {
    pager: Pager,
    heard: Arc<Heard>,
    mapping: Arc<Mapping>,
}

impl Attached {
    /// As a VMM does it: made, registered with removals on, handed over.
    fn new(backing: Backing, pages: usize, store: Arc<dyn Store>, config: &PagerConfig) -> Self {
        Attached::partly(backing, pages, pages, store, config)
    }

    /// Of whose `pages` only `told` are told of.
    fn partly(
        backing: Backing,
        pages: usize,
        told: usize,
        store: Arc<dyn Store>,
        config: &PagerConfig,
    ) -> Self {
        let mapping = Arc::new(Mapping::new(backing, pages));
        let uffd = Userfaultfd::create(Options {
            required: Features::EVENT_REMOVE,
            ..Options::default()
        })
        .expect("a userfaultfd");
        // SAFETY: nothing relies on what the mapping's absent pages contain.
        unsafe { uffd.register(mapping.all(), RegisterMode::MISSING) }.expect("register");
        let uffd = Userfaultfd::from_fd(uffd.into()).expect("a userfaultfd");
        let heard = Arc::new(Heard::default());
        let regions = [region(&mapping, told, 0)];
        let pager = Pager::attach(uffd, &regions, store, config, heard.clone()).expect("a pager");
        Attached {
            pager,
            heard,
            mapping,
        }
    }

    fn is_present(&self, page: usize) -> bool {
        self.pager.state(page_id(page)) == PageState::Present
    }
}

fn what_was_handed_over_is_served() {
    for backing in BACKINGS {
        let attached = Attached::new(backing, 64, planned(64, &[]), &patient());
        (0..64)
            .rev()
            .for_each(|page| check(&attached.mapping, page, page));
        until("all are counted", || {
            attached.pager.latencies().count() == 64
        });
        let latencies = attached.pager.latencies();
        assert!(latencies.quantile(0.5) <= latencies.quantile(0.99));
        assert_eq!(attached.heard.failures(), 0);
    }
}

fn a_source_that_ends_early() {
    let store = Arc::new(pattern(4));
    let config = marking(patient(), FailedPage::Auto);
    let attached = Attached::new(Backing::Anonymous, 8, store, &config);
    check(&attached.mapping, 3, 3);
    assert_eq!(attached.mapping.load_by_syscall(4), Err(Errno::FAULT));
    until("it was said", || attached.heard.failures() == 1);
    let failed = attached.heard.failed.lock().expect("no panic");
    assert_eq!(failed[0].0, page_id(4));
    assert_eq!(failed[0].1.cause.kind, CauseKind::Truncated);
    assert!(failed[0].2.contains("too short"), "{}", failed[0].2);
}

/// How a balloon gives a page back.
pub(crate) fn advice(backing: Backing) -> Advice {
    match backing {
        Backing::Anonymous => Advice::LinuxDontNeed,
        Backing::Memfd => Advice::LinuxRemove,
    }
}

fn removed_pages_are_zeros() {
    for backing in BACKINGS {
        let attached = Attached::new(backing, 8, planned(8, &[]), &patient());
        for page in 0..4 {
            check(&attached.mapping, page, page);
        }
        // Both what was there and what has never been.
        for page in 2..6 {
            attached
                .mapping
                .give_up(page, advice(backing))
                .expect("madvise");
        }
        for page in 2..6 {
            assert_eq!(
                attached.mapping.page_by_syscall(page),
                Ok(bytes(1, 0)),
                "{backing:?}"
            );
        }
        check(&attached.mapping, 1, 1);
        check(&attached.mapping, 6, 6);
        attached.mapping.store(3, 7);
        assert_eq!(attached.mapping.load(3), 7);
        let stats = attached.pager.stats();
        assert_eq!((stats.removed, stats.strange_events), (4, 0));
    }
}

fn a_read_under_way_is_dropped() {
    for backing in BACKINGS {
        let store = Arc::new(Held::new(8));
        store.hold(2);
        let attached = Attached::new(backing, 8, store.clone(), &patient());
        let mapping = Arc::clone(&attached.mapping);
        let toucher = in_thread(move || mapping.page_by_syscall(2));
        until("the read", || store.waiting() == 1);
        attached
            .mapping
            .give_up(2, advice(backing))
            .expect("madvise");
        assert_eq!(toucher(), Ok(bytes(1, 0)), "it need not wait for the read");
        store.release();
        until("its end", || store.waiting() == 0);
        assert_eq!(attached.mapping.page_by_syscall(2), Ok(bytes(1, 0)));
        assert_eq!(attached.pager.stats().installed, 0);
    }
}

fn failed_pages_are_poisoned_and_healed() {
    for backing in BACKINGS {
        let store = planned(8, &["4"]);
        let config = marking(patient(), FailedPage::Poison);
        let attached = Attached::new(backing, 8, store.clone(), &config);
        for _ in 0..3 {
            assert_eq!(attached.mapping.load_by_syscall(4), Err(Errno::FAULT));
        }
        until("it was said", || attached.heard.failures() == 1);
        store.repair(index(4));
        assert_eq!(attached.pager.heal(page_id(4), 1), 1);
        // Nobody's access asks for it: there would be no event.
        until("it is there", || attached.is_present(4));
        check(&attached.mapping, 4, 4);
        assert_eq!(attached.heard.failures(), 1);
        assert_eq!(attached.pager.stats().strange_events, 0);
    }
}

fn what_fails_again_is_said_again() {
    let config = marking(patient(), FailedPage::Poison);
    let attached = Attached::new(Backing::Anonymous, 8, planned(8, &["4"]), &config);
    for round in 1..=3 {
        assert_eq!(attached.mapping.load_by_syscall(4), Err(Errno::FAULT));
        until("it was said", || attached.heard.failures() == round);
        // Still broken.
        assert_eq!(attached.pager.heal(page_id(0), 8), 1);
    }
    until("the last is said", || attached.heard.failures() == 4);
    assert_eq!(attached.pager.failed_pages().len(), 1);
}

fn failed_pages_that_are_removed_are_zeros() {
    for backing in BACKINGS {
        let config = marking(patient(), FailedPage::Poison);
        let attached = Attached::new(backing, 8, planned(8, &["4"]), &config);
        assert_eq!(attached.mapping.load_by_syscall(4), Err(Errno::FAULT));
        until("it was said", || attached.heard.failures() == 1);
        attached
            .mapping
            .give_up(4, advice(backing))
            .expect("madvise");
        // Poison that the removal left is overwritten soon, but not at once.
        until("it is readable", || {
            attached.mapping.load_by_syscall(4).is_ok()
        });
        assert_eq!(
            attached.mapping.page_by_syscall(4),
            Ok(bytes(1, 0)),
            "{backing:?}"
        );
    }
}

fn waiting_ends_when_the_source_heals() {
    let store = planned(8, &["4"]);
    let mut config = marking(config(), FailedPage::Wait);
    config.residency.failure_ttl = Some(Duration::from_millis(10));
    let attached = Attached::new(Backing::Anonymous, 8, store.clone(), &config);
    let mapping = Arc::clone(&attached.mapping);
    let toucher = in_thread(move || mapping.page_by_syscall(4));
    until("it is tried again", || {
        attached.pager.stats().failed_fetches >= 3
    });
    assert_eq!(attached.heard.failures(), 1, "it is said once");
    store.repair(index(4));
    assert_eq!(toucher(), Ok(expected(4)));
    until("it was said", || {
        *attached.heard.recovered.lock().expect("no panic") == [page_id(4)]
    });
    assert_eq!(attached.heard.kills.load(Ordering::SeqCst), 0);
}

fn the_process_is_killed_before_it_is_woken() {
    let store = planned(8, &["4"]);
    let config = marking(config(), FailedPage::Kill);
    let attached = Attached::new(Backing::Anonymous, 8, store.clone(), &config);
    let mapping = Arc::clone(&attached.mapping);
    let is_awake = Arc::new(AtomicBool::new(false));
    let awake = Arc::clone(&is_awake);
    let toucher = in_thread(move || {
        let page = mapping.page_by_syscall(4);
        awake.store(true, Ordering::SeqCst);
        page
    });
    until("it was said", || attached.heard.failures() == 1);
    assert_eq!(attached.heard.kills.load(Ordering::SeqCst), 1);
    std::thread::sleep(Duration::from_millis(20));
    assert!(!is_awake.load(Ordering::SeqCst), "nobody sees the page");
    // It was not killed after all, so that the thread can be got out of there.
    store.repair(index(4));
    attached.pager.heal(page_id(4), 1);
    assert_eq!(toucher(), Ok(expected(4)));
}

fn faults_outside_of_the_regions_end() {
    let config = marking(patient(), FailedPage::Poison);
    let attached = Attached::partly(Backing::Anonymous, 8, 4, planned(4, &[]), &config);
    assert_eq!(attached.mapping.load_by_syscall(6), Err(Errno::FAULT));
    check(&attached.mapping, 3, 3);
    let address = Hva::new(attached.mapping.page(6).start().get());
    until("it was said", || {
        *attached.heard.stray.lock().expect("no panic") == [address]
    });
}

fn ways_that_mean_nothing_here() {
    let uffd = Userfaultfd::create(Options::default()).expect("a userfaultfd");
    let mapping = Mapping::new(Backing::Anonymous, 4);
    let config = marking(patient(), FailedPage::Protect);
    let regions = [region(&mapping, 4, 0)];
    let heard = Arc::new(Heard::default());
    let answer = Pager::attach(uffd, &regions, planned(4, &[]), &config, heard);
    assert!(matches!(
        answer.err(),
        Some(StartError::FailedPage(FailedPage::Protect))
    ));
    for failed_page in [FailedPage::Kill, FailedPage::Wait] {
        let config = marking(patient(), failed_page);
        // SAFETY: the mapping outlives the pager, and nobody has references into it.
        let answer = unsafe { Pager::start(&regions, planned(4, &[]), &config) };
        assert!(matches!(answer.err(), Some(StartError::FailedPage(_))));
    }
    let attached = Attached::new(Backing::Anonymous, 4, planned(4, &[]), &patient());
    assert!(attached.pager.discard(page_id(0), 1).is_err());
}

/// Threads touch all pages while a balloon gives each back once: data before, zeros ever after.
fn a_storm_of_removals() {
    const PAGES: usize = 128;
    let latency = "0us..300us".parse().expect("a latency");
    let all = BACKINGS
        .into_iter()
        .flat_map(|backing| PREFETCHES.map(|prefetch| (backing, prefetch)));
    for (backing, prefetch) in all {
        let store = planned_with(PAGES, &[], latency);
        let config = prefetching(patient(), prefetch);
        let attached = Attached::new(backing, PAGES, store, &config);
        let gone: Arc<Vec<AtomicBool>> =
            Arc::new((0..PAGES).map(|_| AtomicBool::new(false)).collect());
        let stop = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = (0..4)
            .map(|thread| {
                let (mapping, gone) = (Arc::clone(&attached.mapping), Arc::clone(&gone));
                let stop = Arc::clone(&stop);
                in_thread(move || {
                    let mut n = thread * 17;
                    while !stop.load(Ordering::Acquire) {
                        n += [1, 5, 7, 11][thread];
                        let page = n % PAGES;
                        let was_gone = gone[page].load(Ordering::Acquire);
                        let data = mapping.page_by_syscall(page).expect("a page");
                        crate::discards::check_around_discard(page, &data, was_gone);
                    }
                })
            })
            .collect();
        for n in 0..PAGES {
            let page = n * 37 % PAGES;
            attached
                .mapping
                .give_up(page, advice(backing))
                .expect("madvise");
            gone[page].store(true, Ordering::Release);
            std::thread::sleep(Duration::from_micros(n as u64 * 7 % 400));
        }
        stop.store(true, Ordering::Release);
        readers.into_iter().for_each(|reader| reader());
        for page in 0..PAGES {
            assert_eq!(attached.mapping.page_by_syscall(page), Ok(bytes(1, 0)));
        }
        let stats = attached.pager.stats();
        assert_eq!((stats.removed, stats.strange_events), (PAGES as u64, 0));
    }
}

/// Says so when it is dropped.
struct Rests(Arc<AtomicBool>);

impl Drop for Rests {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// While an event waits to be read nothing can be installed, and a balloon raises the next one as soon as
/// one is read. How long an access takes is told in removals, of which a busy host makes no more.
fn a_balloon_that_never_rests() {
    const PAGES: usize = 128;
    for backing in BACKINGS {
        let attached = Attached::new(backing, 2 * PAGES, planned(2 * PAGES, &[]), &patient());
        let (stop, removals) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let balloon = {
            let (mapping, stop) = (Arc::clone(&attached.mapping), Arc::clone(&stop));
            let removals = Arc::clone(&removals);
            in_thread(move || {
                while !stop.load(Ordering::Acquire) {
                    let page = PAGES + removals.fetch_add(1, Ordering::AcqRel) % PAGES;
                    mapping.give_up(page, advice(backing)).expect("madvise");
                }
            })
        };
        let rests = Rests(stop);
        until("the balloon grows", || removals.load(Ordering::Acquire) > 0);
        let mut waits: Vec<usize> = (0..PAGES)
            .map(|page| {
                let before = removals.load(Ordering::Acquire);
                check(&attached.mapping, page, page);
                removals.load(Ordering::Acquire) - before
            })
            .collect();
        drop(rests);
        balloon();
        waits.sort_unstable();
        let (median, most) = (waits[PAGES / 2], waits[PAGES - 1]);
        println!("{backing:?}: an access took {median} removals (median), {most} at most");
        // A few do not find the moment for long: where two threads share a processor.
        assert!(median < 1000, "{backing:?}: {waits:?}");
    }
}
