//! Healthy memory: every byte is right, whoever touches it when.

use std::sync::Arc;
use std::time::Duration;

use rustix::mm::Advice;
use surefault_core::plan::Latency;
use surefault_core::{PageId, PageIndex, RegionId};
use surefault_store::{FileStore, Store};
use surefault_testkit::{BACKINGS, Backing, Mapping, in_thread, page_size};

use crate::served::{
    Served, check, host_page, page_id, patient, pattern, planned_with, region, start,
};

crate::cases![
    every_byte_is_right,
    every_byte_of_a_file_is_right,
    two_regions,
    a_region_of_several_mappings,
];

const PAGES: usize = 192;

/// All pages, beginning at a place and with a step of one's own.
fn order(thread: usize) -> impl Iterator<Item = usize> {
    // Both odd numbers and PAGES have no common divisor but 1.
    let step = [1, 5, 7, 11, 13, 17, 19, PAGES - 1][thread % 8];
    (0..PAGES).map(move |n| (thread * 31 + n * step) % PAGES)
}

fn touch_all(served: &Served, threads: usize) {
    let touchers: Vec<_> = (0..threads)
        .map(|thread| {
            let mapping = Arc::clone(&served.mapping);
            in_thread(move || order(thread).for_each(|page| check(&mapping, page, page)))
        })
        .collect();
    touchers.into_iter().for_each(|toucher| toucher());
    served.settle();
    let stats = served.pager.stats();
    assert_eq!(stats.installed, PAGES as u64, "{stats:?}");
    assert_eq!((stats.failed, stats.strange_events), (0, 0), "{stats:?}");
    let (present, pending) = served.pager.residency();
    assert_eq!((present.get(), pending.get()), (PAGES as u64, 0));
}

fn every_byte_is_right() {
    let slow =
        Latency::new(Duration::from_micros(20), Duration::from_millis(2)).expect("a latency");
    for backing in BACKINGS {
        for threads in [1, 2, 8] {
            for latency in [Latency::default(), slow] {
                for prefetched in [false, true] {
                    let store = planned_with(PAGES, &[], latency);
                    let served = Served::new(backing, PAGES, store, &patient());
                    if prefetched {
                        let wanted = served.pager.prefetch(page_id(10), PAGES as u32);
                        assert_eq!(wanted as usize, PAGES - 10, "those that there are");
                    }
                    touch_all(&served, threads);
                }
            }
        }
    }
}

fn every_byte_of_a_file_is_right() {
    let mut bytes = vec![0; PAGES * page_size()];
    let first = surefault_store::ReadRequest::first(0);
    pattern(PAGES).read(first, &mut bytes).expect("the pattern");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), &bytes).expect("write");
    for backing in BACKINGS {
        let store = FileStore::open(file.path(), host_page(), 0).expect("the file");
        let served = Served::new(backing, PAGES, Arc::new(store), &patient());
        touch_all(&served, 4);
    }
}

fn two_regions() {
    let half = PAGES / 2;
    let low = Arc::new(Mapping::new(Backing::Anonymous, half));
    let high = Arc::new(Mapping::new(Backing::Memfd, half));
    // The other way round in the store.
    let regions = [
        region(&low, half, (half * page_size()) as u64),
        region(&high, half, 0),
    ];
    let pager = start(&regions, Arc::new(pattern(PAGES)), &patient());
    let touchers: Vec<_> = (0..4)
        .map(|thread| {
            let (low, high) = (Arc::clone(&low), Arc::clone(&high));
            in_thread(move || {
                for page in order(thread) {
                    if page < half {
                        check(&high, page, page);
                    } else {
                        check(&low, page - half, page);
                    }
                }
            })
        })
        .collect();
    touchers.into_iter().for_each(|toucher| toucher());
    let last = PageId::new(RegionId::new(1), PageIndex::new(half as u32 - 1));
    let byte = high.page(half - 1).start().get() + 17;
    assert_eq!(pager.page_of(surefault_core::Hva::new(byte)), Some(last));
    assert_eq!(pager.stats().strange_events, 0);
}

/// An install of a range must lie within one mapping; a region need not.
fn a_region_of_several_mappings() {
    for backing in BACKINGS {
        let served = Served::new(backing, PAGES, Arc::new(pattern(PAGES)), &patient());
        for page in [3, 20, 21, 40] {
            let split = served.mapping.give_up(page, Advice::LinuxDontFork);
            split.expect("madvise");
        }
        assert_eq!(served.pager.prefetch(page_id(0), 64), 64);
        let (present, _) = served.pager.residency();
        assert_eq!(present.get(), 64, "the source answers at once");
        touch_all(&served, 2);
    }
}
