//! Touchers whose pages are there as soon as they are planned.

use surefault_core::RegionId;

use super::*;

const PAGE: PageSize = PageSize::KIB_4;
const PAGES: u32 = 10_000;

fn page(n: u32) -> PageId {
    PageId::new(RegionId::new(0), PageIndex::new(n))
}

/// A toucher whose pages are there as soon as they are planned: what is given out for it.
struct Toucher {
    prefetcher: Prefetcher,
    present: Vec<bool>,
    faults: u32,
    prefetched: u32,
}

impl Toucher {
    fn new(prefetch: &str) -> Toucher {
        Toucher {
            prefetcher: Prefetcher::new(prefetch.parse().expect("a prefetch")),
            present: vec![false; PAGES as usize],
            faults: 0,
            prefetched: 0,
        }
    }

    fn touch(&mut self, n: u32) {
        if self.present[n as usize] {
            return;
        }
        self.faults += 1;
        self.present[n as usize] = true;
        let left = u64::from(PAGES - n - 1);
        self.prefetcher.demanded(page(n), left, PAGE);
        while let Some((first, count)) = self.prefetcher.next_chunk(32) {
            assert!((1..=32).contains(&count));
            for at in first.index().get()..first.index().get() + count {
                self.prefetched += u32::from(!self.present[at as usize]);
                self.present[at as usize] = true;
            }
        }
    }
}

#[test]
fn a_sweep_faults_at_the_ends_of_growing_windows() {
    let mut toucher = Toucher::new("sequential");
    (0..PAGES).for_each(|n| toucher.touch(n));
    // The first page, then one before 8, 16, … 256 pages, and every 513 from there on.
    let growing = 1 + 6 + (8 + 16 + 32 + 64 + 128 + 256);
    assert_eq!(toucher.faults, 1 + 6 + (PAGES - growing).div_ceil(513));
    assert_eq!(toucher.prefetched + toucher.faults, PAGES);
}

#[test]
fn sweeps_that_take_turns_are_followed_each() {
    let mut toucher = Toucher::new("sequential");
    for n in 0..1000 {
        for sweep in 0..8 {
            toucher.touch(sweep * 1200 + n);
        }
    }
    assert_eq!(toucher.faults, 8 * (1 + 6 + 1));
}

#[test]
fn without_an_order_nothing_is_fetched_in_vain() {
    let mut toucher = Toucher::new("sequential");
    // No neighbours within many steps.
    for n in 0..PAGES {
        toucher.touch(u32::try_from(u64::from(n) * 3_571 % u64::from(PAGES)).expect("small"));
    }
    assert_eq!(toucher.prefetched, 0);
    assert_eq!(toucher.faults, PAGES);
}

#[test]
fn a_stream_that_ends_has_fetched_little_more_than_it_used() {
    for used in 2..600 {
        let mut toucher = Toucher::new("sequential");
        (0..used).for_each(|n| toucher.touch(n));
        let fetched = toucher.faults + toucher.prefetched;
        assert!(fetched <= 2 * used + FIRST_WINDOW, "{fetched} for {used}");
    }
}

#[test]
fn demands_that_overtake_the_prefetch_move_it_on() {
    let mut prefetcher = Prefetcher::new(Prefetch::Sequential);
    let mut demanded = |n| prefetcher.demanded(page(n), u64::from(PAGES - n - 1), PAGE);
    // Nothing is given out meanwhile: every page is demanded.
    (0..100).for_each(&mut demanded);
    let (first, count) = prefetcher.next_chunk(1 << 20).expect("planned");
    assert_eq!(
        first,
        page(100),
        "what was overtaken is not planned any more"
    );
    assert!(count <= 3 * 512 / 2, "{count} at a time");
}

#[test]
fn a_window_ends_with_its_region() {
    let mut toucher = Toucher::new("sequential");
    (PAGES - 20..PAGES).for_each(|n| toucher.touch(n));
    assert_eq!(toucher.faults + toucher.prefetched, 20);
}

/// Demands that overtake what is planned, again and again, in a region shorter than a window.
#[test]
fn a_short_region_swept_by_many() {
    const SHORT: u32 = 128;
    let mut prefetcher = Prefetcher::new(Prefetch::Sequential);
    for n in 0..5_000_u32 {
        let at = (n * [1, 5, 7, 11][n as usize % 4]) % SHORT;
        prefetcher.demanded(page(at), u64::from(SHORT - at - 1), PAGE);
        if n % 3 == 0
            && let Some((first, count)) = prefetcher.next_chunk(64)
        {
            assert!(count > 0 && first.index().get() + count <= SHORT);
        }
    }
}

#[test]
fn around_is_an_aligned_block() {
    let mut prefetcher = Prefetcher::new("around=16".parse().expect("a prefetch"));
    prefetcher.demanded(page(37), u64::from(PAGES - 38), PAGE);
    assert_eq!(prefetcher.next_chunk(10), Some((page(32), 10)));
    assert_eq!(prefetcher.next_chunk(10), Some((page(42), 6)));
    assert_eq!(prefetcher.next_chunk(10), None);
    prefetcher.demanded(page(PAGES - 1), 0, PAGE);
    let expected = (page(PAGES - 16), 16);
    assert_eq!(prefetcher.next_chunk(99), Some(expected));
}

#[test]
fn none_is_none() {
    let mut toucher = Toucher::new("none");
    (0..100).for_each(|n| toucher.touch(n));
    assert_eq!((toucher.faults, toucher.prefetched), (100, 0));
}

#[test]
fn words() {
    for word in ["none", "sequential", "around=16"] {
        let prefetch: Prefetch = word.parse().expect("a prefetch");
        assert_eq!(prefetch.to_string(), word);
    }
    for word in [
        "",
        "around",
        "around=",
        "around=0",
        "around=65537",
        "none=1",
    ] {
        let parsed: Result<Prefetch, _> = word.parse();
        let text = parsed.expect_err("no prefetch").to_string();
        assert!(
            text.starts_with(&format!("'{word}' is no prefetch")),
            "{text}"
        );
    }
}
