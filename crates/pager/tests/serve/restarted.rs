//! Pagers whose processes are killed while they serve, and others that go on: every byte is right, no
//! fault is lost, nothing that was given up comes back.
//!
//! This process is the one that has the memory; its pagers are children of it, as the daemon's workers
//! are processes of their own, and it holds what a supervisor would.

use std::io;
use std::os::fd::AsFd;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use surefault_core::plan::mix;
use surefault_pager::{Attendant, FailedPage, Pager, PagerConfig, Point, Records, ServedRegion};
use surefault_testkit::{BACKINGS, Backing, Mapping, bytes, in_thread, page_size};
use surefault_uffd::{Features, Options, RegisterMode, Userfaultfd};

use crate::attached::advice;
use crate::discards::check_around_discard;
use crate::served::{host_page, marking, patient, planned_with, region, until};

crate::cases![
    workers_killed_at_every_point(poison),
    workers_killed_at_any_moment(poison),
    failed_pages_stay_failed_and_can_be_healed(poison),
    a_failed_page_that_is_removed_when_nobody_serves_is_zeros(poison),
    records_that_make_no_sense,
];

/// The argument that makes this program play a worker.
pub(crate) const WORKER: &str = "--be-the-worker";

const PAGES: usize = 192;
/// The page that the source cannot give.
const BROKEN: usize = 5;
/// No access takes this long, even when each worker is killed before it has begun.
const LONGEST_FREEZE: Duration = Duration::from_secs(30);

/// Serves the memory whose userfaultfd is standard input and whose records are standard output.
pub(crate) fn worker(mut arguments: impl Iterator<Item = String>) {
    set_parent_process_death_signal(Some(Signal::KILL)).expect("to die with its parent");
    let mut number = || -> u64 { arguments.next().expect("one").parse().expect("a number") };
    let (start, point, nth, broken) = (number(), number(), number(), number());
    let duplicate = |fd: &dyn AsFd| fd.as_fd().try_clone_to_owned().expect("a duplicate");
    let uffd = Userfaultfd::from_fd(duplicate(&std::io::stdin())).expect("a userfaultfd");
    let regions = [ServedRegion {
        start: surefault_core::Hva::new(start),
        pages: surefault_core::PageCount::new(PAGES as u64),
        page_size: host_page(),
        store_offset: 0,
    }];
    let records = Records::open(duplicate(&std::io::stdout()), &regions).expect("records");
    let rule = BROKEN.to_string();
    let rules: &[&str] = if broken == 1 { &[&rule] } else { &[] };
    let store = planned_with(PAGES, rules, "0us..200us".parse().expect("a latency"));
    let mortal = Arc::new(Mortal {
        point: Point::ALL.get(point as usize).copied(),
        left: AtomicU64::new(nth),
    });
    let pager =
        Pager::attach_recorded(uffd, &regions, store, &config(), mortal, records).expect("a pager");
    if broken == 0 {
        pager.heal(crate::served::page_id(0), PAGES as u32);
    }
    loop {
        std::thread::park();
    }
}

fn config() -> PagerConfig {
    marking(patient(), FailedPage::Poison)
}

/// Dies the nth time that a point is reached.
struct Mortal {
    point: Option<Point>,
    left: AtomicU64,
}

impl Attendant for Mortal {
    fn reached(&self, point: Point) {
        if self.point == Some(point) && self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            let _ = kill_process(rustix::process::getpid(), Signal::KILL);
        }
    }

    fn kill(&self) -> io::Result<()> {
        panic!("nobody is to be killed");
    }
}

/// A memory, and what outlives its pagers.
struct Memory {
    mapping: Arc<Mapping>,
    uffd: Userfaultfd,
    records: Records,
}

impl Memory {
    fn new(backing: Backing) -> Memory {
        let mapping = Arc::new(Mapping::new(backing, PAGES));
        let uffd = Userfaultfd::create(Options {
            required: Features::EVENT_REMOVE,
            ..Options::default()
        })
        .expect("a userfaultfd");
        // SAFETY: nothing relies on what the mapping's absent pages contain.
        unsafe { uffd.register(mapping.all(), RegisterMode::MISSING) }.expect("register");
        let regions = [region(&mapping, PAGES, 0)];
        let records = Records::create(&regions, config().batch).expect("records");
        Memory {
            mapping,
            uffd,
            records,
        }
    }

    /// A worker that dies at the `nth` time of a point, or not by itself.
    fn worker(&self, death: Option<(Point, u64)>, broken: bool) -> Worker {
        let point = |point| Point::ALL.iter().position(|&known| known == point);
        let (point, nth) = match death {
            Some((at, nth)) => (point(at).expect("a point"), nth),
            None => (usize::MAX, 0),
        };
        let duplicate = |fd: &dyn AsFd| fd.as_fd().try_clone_to_owned().expect("a duplicate");
        let child = Command::new(std::env::current_exe().expect("this program"))
            .arg(WORKER)
            .arg(self.mapping.all().start().get().to_string())
            .arg(point.to_string())
            .arg(nth.to_string())
            .arg(u64::from(broken).to_string())
            .stdin(duplicate(&self.uffd))
            .stdout(duplicate(&self.records))
            .spawn()
            .expect("spawn");
        Worker(child)
    }
}

/// A worker, killed at the end.
struct Worker(Child);

impl Worker {
    fn is_dead(&mut self) -> bool {
        self.0.try_wait().expect("wait").is_some()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.is_dead() {
            let _ = kill_process(Pid::from_child(&self.0), Signal::KILL);
            let _ = self.0.wait();
        }
    }
}

/// Threads that touch all pages, and one that gives each back, touched or not.
struct Storm {
    ballooned: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    threads: Vec<Box<dyn FnOnce()>>,
    /// The longest access, in nanoseconds.
    longest: Arc<AtomicU64>,
}

fn storm(backing: Backing, mapping: &Arc<Mapping>, seed: u64) -> Storm {
    let gone: Arc<Vec<AtomicBool>> = Arc::new((0..PAGES).map(|_| AtomicBool::default()).collect());
    let (stop, ballooned) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let longest = Arc::<AtomicU64>::default();
    let mut threads: Vec<Box<dyn FnOnce()>> = Vec::new();
    for thread in 0..3_u64 {
        let (mapping, gone, stop) = (Arc::clone(mapping), Arc::clone(&gone), Arc::clone(&stop));
        let longest = Arc::clone(&longest);
        threads.push(Box::new(in_thread(move || {
            let mut n = seed ^ thread;
            while !stop.load(Ordering::Acquire) {
                n = mix(n + 1);
                let page = n as usize % PAGES;
                let begun = Instant::now();
                if page == BROKEN {
                    assert_eq!(mapping.load_by_syscall(page), Err(Errno::FAULT));
                } else {
                    let was_gone = gone[page].load(Ordering::Acquire);
                    let data = mapping.page_by_syscall(page).expect("a page");
                    check_around_discard(page, &data, was_gone);
                }
                let took = begun.elapsed().as_nanos() as u64;
                longest.fetch_max(took, Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(n % 300));
            }
        })));
    }
    let advice = advice(backing);
    let (mapping, done) = (Arc::clone(mapping), Arc::clone(&ballooned));
    threads.push(Box::new(in_thread(move || {
        for n in 0..PAGES {
            let page = n * 37 % PAGES;
            if page != BROKEN {
                mapping.give_up(page, advice).expect("madvise");
                gone[page].store(true, Ordering::Release);
            }
            std::thread::sleep(Duration::from_micros(mix(seed + n as u64) % 700));
        }
        done.store(true, Ordering::Release);
    })));
    Storm {
        ballooned,
        stop,
        threads,
        longest,
    }
}

impl Storm {
    fn is_over(&self) -> bool {
        self.ballooned.load(Ordering::Acquire)
    }

    /// Ends it, with somebody there who serves, and gives the longest access.
    fn end(self, mapping: &Mapping) -> Duration {
        until("the balloon's end", || self.is_over());
        self.stop.store(true, Ordering::Release);
        self.threads.into_iter().for_each(|thread| thread());
        for page in (0..PAGES).filter(|&page| page != BROKEN) {
            assert_eq!(
                mapping.page_by_syscall(page),
                Ok(bytes(1, 0)),
                "page {page}"
            );
        }
        let longest = Duration::from_nanos(self.longest.load(Ordering::Relaxed));
        assert!(longest < LONGEST_FREEZE, "an access took {longest:?}");
        longest
    }
}

fn workers_killed_at_every_point() {
    for point in Point::ALL {
        for (backing, nth) in BACKINGS.into_iter().zip([1, 4]) {
            let nth = if point == Point::Failing { 1 } else { nth };
            let memory = Memory::new(backing);
            let storm = storm(backing, &memory.mapping, nth);
            let mut mortal = memory.worker(Some((point, nth)), true);
            until(&format!("a death at {point:?}, {nth}"), || mortal.is_dead());
            // Another dies where it cannot help it: as soon as it has begun.
            drop(memory.worker(None, true));
            let successor = memory.worker(None, true);
            storm.end(&memory.mapping);
            drop(successor);
        }
    }
}

fn workers_killed_at_any_moment() {
    let full = std::env::var("SUREFAULT_FULL").is_ok_and(|full| full == "1");
    let goal = if full { 1000 } else { 40 };
    let (mut kills, mut round) = (0, 0);
    let mut longest = Vec::new();
    while kills < goal {
        round += 1;
        let backing = BACKINGS[round as usize % BACKINGS.len()];
        let memory = Memory::new(backing);
        let storm = storm(backing, &memory.mapping, round);
        let mut worker = memory.worker(None, true);
        while !storm.is_over() && kills < goal {
            // From before it has begun to well into its service.
            std::thread::sleep(Duration::from_micros(mix(kills) % 30_000));
            drop(worker);
            kills += 1;
            worker = memory.worker(None, true);
        }
        longest.push(storm.end(&memory.mapping));
    }
    longest.sort();
    println!(
        "{kills} kills in {round} memories; longest access: median {:?}, max {:?}",
        longest[longest.len() / 2],
        longest[longest.len() - 1]
    );
}

fn failed_pages_stay_failed_and_can_be_healed() {
    for backing in BACKINGS {
        let memory = Memory::new(backing);
        let first = memory.worker(None, true);
        assert_eq!(memory.mapping.load_by_syscall(BROKEN), Err(Errno::FAULT));
        drop(first);
        let second = memory.worker(None, true);
        assert_eq!(memory.mapping.load_by_syscall(BROKEN), Err(Errno::FAULT));
        drop(second);
        // Its store is whole, and it heals what its predecessors have recorded.
        let third = memory.worker(None, false);
        until("it is healed", || {
            memory.mapping.load_by_syscall(BROKEN).is_ok()
        });
        crate::served::check(&memory.mapping, BROKEN, BROKEN);
        drop(third);
    }
}

/// A hole punched into a file leaves the poison, and nobody faults on that.
fn a_failed_page_that_is_removed_when_nobody_serves_is_zeros() {
    for backing in BACKINGS {
        let memory = Memory::new(backing);
        let mut first = memory.worker(Some((Point::Noted, 2)), true);
        assert_eq!(memory.mapping.load_by_syscall(BROKEN), Err(Errno::FAULT));
        // The worker dies when it has noted that.
        let advice = advice(backing);
        memory.mapping.give_up(BROKEN, advice).expect("madvise");
        until("its death", || first.is_dead());
        let second = memory.worker(None, true);
        until("zeros", || {
            memory.mapping.page_by_syscall(BROKEN) == Ok(bytes(1, 0))
        });
        drop(second);
        memory.mapping.store(BROKEN, 7);
        let third = memory.worker(None, true);
        assert_eq!(memory.mapping.load(BROKEN), 7, "{backing:?}");
        drop(third);
    }
}

fn records_that_make_no_sense() {
    let mapping = Mapping::new(Backing::Anonymous, PAGES);
    let regions = [region(&mapping, PAGES, 0)];
    let fewer = [region(&mapping, PAGES - 1, 0)];
    let records = Records::create(&regions, 64).expect("records");
    let duplicate = || records.as_fd().try_clone_to_owned().expect("a duplicate");
    assert!(Records::open(duplicate(), &fewer).is_err());
    // The very last page's state is no state.
    let last = duplicate();
    let states = records_len(&last) - PAGES.next_multiple_of(page_size()) as u64;
    rustix::io::pwrite(&last, &[0xff], states + PAGES as u64 - 1).expect("pwrite");
    let records = Records::open(duplicate(), &regions).expect("it looks like records");
    let uffd = Userfaultfd::create(Options::default()).expect("a userfaultfd");
    let nobody = Arc::new(Mortal {
        point: None,
        left: AtomicU64::new(0),
    });
    let store = planned_with(PAGES, &[], "0us".parse().expect("a latency"));
    let refused = Pager::attach_recorded(uffd, &regions, store, &config(), nobody, records);
    let error = refused.err().expect("refused");
    let cause = std::error::Error::source(&error)
        .expect("a cause")
        .to_string();
    assert!(cause.contains(&format!("page {}", PAGES - 1)), "{cause}");
}

fn records_len(fd: &impl AsFd) -> u64 {
    rustix::fs::fstat(fd).expect("fstat").st_size as u64
}
