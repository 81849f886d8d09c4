//! What a fault costs, end to end: a thread touches an absent page of 4 KiB and goes on.
//!
//! Beside the pager the floor: a thread that polls, reads one event and copies one page. The two take
//! turns in one run, because times on a shared host wander; what counts is the ratio.
//! `cargo bench -p surefault-pager`
#![expect(unsafe_code, reason = "memory is registered")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use surefault_core::{Hva, PageCount, PageSize};
use surefault_pager::{Pager, PagerConfig, ServedRegion};
use surefault_store::{ReadRequest, Store, StoreError};
use surefault_testkit::{Backing, Mapping, bytes, page_size};
use surefault_uffd::{
    Event, EventBuffer, Options, Outcome, PageRange, Read, RegisterMode, Userfaultfd, Wake,
};

const PAGES: usize = 2048;
const ROUNDS: usize = 40;

/// A source that costs nothing.
struct Instantly;

impl Store for Instantly {
    fn size(&self) -> u64 {
        u64::MAX
    }

    fn describe(&self) -> String {
        "nothing".to_owned()
    }

    fn read(&self, _: ReadRequest, _: &mut [u8]) -> Result<(), StoreError> {
        Ok(())
    }

    fn read_now(&self, _: ReadRequest, _: &mut [u8]) -> Option<Result<(), StoreError>> {
        Some(Ok(()))
    }
}

/// Touches every page once, in an order without neighbours, and notes how long each took.
fn touch(mapping: &Mapping, times: &mut Vec<Duration>) {
    for n in 0..PAGES {
        let page = n * 1237 % PAGES;
        let begun = Instant::now();
        std::hint::black_box(mapping.load(page));
        times.push(begun.elapsed());
    }
}

fn floor(times: &mut Vec<Duration>) {
    let mapping = Arc::new(Mapping::new(Backing::Anonymous, PAGES));
    let uffd = Userfaultfd::create(Options::default()).expect("a userfaultfd");
    // SAFETY: nothing relies on what the mapping's absent pages contain.
    unsafe { uffd.register(mapping.all(), RegisterMode::MISSING) }.expect("register");
    let stop = Arc::new(AtomicBool::new(false));
    let handler = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || serve(&uffd, &stop))
    };
    touch(&mapping, times);
    stop.store(true, Ordering::Release);
    handler.join().expect("the handler");
}

fn serve(uffd: &Userfaultfd, stop: &AtomicBool) {
    let page = bytes(1, 1);
    let mut buffer = EventBuffer::with_capacity(1);
    let patience = Timespec {
        tv_sec: 0,
        tv_nsec: 20_000_000,
    };
    while !stop.load(Ordering::Acquire) {
        let mut fds = [PollFd::new(uffd, PollFlags::IN)];
        poll(&mut fds, Some(&patience)).expect("poll");
        let Ok(Read::Events(events)) = uffd.read(&mut buffer) else {
            continue;
        };
        for event in events {
            if let Event::Pagefault(fault) = event {
                let len = page_size() as u64;
                let range = PageRange::new(fault.address, len, len).expect("a page");
                let copied = uffd.copy(range, &page, Wake::Now).expect("copy");
                assert_eq!(copied, Outcome::Done);
            }
        }
    }
}

fn pager(times: &mut Vec<Duration>) {
    let mapping = Mapping::new(Backing::Anonymous, PAGES);
    let region = ServedRegion {
        start: Hva::new(mapping.all().start().get()),
        pages: PageCount::new(PAGES as u64),
        page_size: PageSize::new(page_size() as u64).expect("a page size"),
        store_offset: 0,
    };
    // SAFETY: the mapping outlives the pager, and nobody has references into it.
    let pager = unsafe { Pager::start(&[region], Arc::new(Instantly), &PagerConfig::default()) };
    let pager = pager.expect("a pager");
    touch(&mapping, times);
    drop(pager);
}

fn main() {
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let (mut floors, mut pagers) = (Vec::new(), Vec::new());
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let (mut floor_times, mut pager_times) = (Vec::new(), Vec::new());
        floor(&mut floor_times);
        pager(&mut pager_times);
        let median = |times: &mut Vec<Duration>| part(times, 50).as_secs_f64();
        ratios.push(median(&mut pager_times) / median(&mut floor_times));
        floors.append(&mut floor_times);
        pagers.append(&mut pager_times);
    }
    for (name, times) in [("floor", &mut floors), ("pager", &mut pagers)] {
        let of = |percent| part(&mut times.clone(), percent);
        println!(
            "{name}: median {:?}, 10th and 90th percentile {:?} and {:?}, 99th {:?}",
            of(50),
            of(10),
            of(90),
            of(99)
        );
    }
    ratios.sort_by(f64::total_cmp);
    let at = |percent: usize| ratios[(ratios.len() - 1) * percent / 100];
    println!(
        "pager / floor: median of {ROUNDS} rounds of {PAGES} faults each {:.3}, 10th and 90th \
         percentile {:.3} and {:.3}",
        at(50),
        at(10),
        at(90)
    );
}

fn part(times: &mut [Duration], percent: usize) -> Duration {
    times.sort();
    times[(times.len() - 1) * percent / 100]
}
