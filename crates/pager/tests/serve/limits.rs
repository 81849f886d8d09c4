//! Little room: everything ends all the same.

use std::sync::Arc;

use rustix::io::Errno;
use surefault_testkit::{BACKINGS, in_thread};

use crate::served::{Served, expected, page_id, patient, planned_with};

crate::cases![room_for_few_pages];

/// More threads than pages that may be pending, healthy pages and failing ones; prefetches in
/// between compete for the same room.
fn room_for_few_pages() {
    const PAGES: usize = 96;
    for (max_pending, max_fetches, batch) in [(1, 1, 64), (2, 1, 1), (3, 2, 64)] {
        for backing in BACKINGS {
            let mut config = patient();
            config.residency.max_pending = max_pending;
            config.residency.max_fetches = max_fetches;
            config.batch = batch;
            let latency = "0us..200us".parse().expect("a latency");
            let store = planned_with(PAGES, &["10,50-52", "20:temporary=2"], latency);
            let served = Served::new(backing, PAGES, store, &config);
            let touchers: Vec<_> = (0..8)
                .map(|thread| {
                    let mapping = Arc::clone(&served.mapping);
                    in_thread(move || {
                        for n in 0..PAGES {
                            let page = (thread * 11 + n * 5) % PAGES;
                            match page {
                                10 | 50..=52 => {
                                    assert_eq!(mapping.load_by_syscall(page), Err(Errno::FAULT));
                                }
                                _ => assert_eq!(mapping.page_by_syscall(page), Ok(expected(page))),
                            }
                        }
                    })
                })
                .collect();
            for first in (0..PAGES).step_by(8) {
                served.pager.prefetch(page_id(first), 4);
            }
            touchers.into_iter().for_each(|toucher| toucher());
            assert_eq!(served.pager.failed_pages().len(), 4);
            assert_eq!(served.pager.stats().strange_events, 0);
        }
    }
}
