//! A reader that is killed at any moment: what it has read is recorded.

use std::os::fd::AsFd;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::mm::Advice;
use rustix::process::{Pid, Signal, kill_process};
use surefault_uffd::{
    Address, Event, EventBuffer, Features, Journal, MapIndex, PageMap, Read, RecordedState,
    RegisterMode, Userfaultfd, host_page_size,
};

use crate::{Case, create, register, wait};
use surefault_testkit::{Backing, Mapping, PATIENCE, in_thread};

/// The argument that makes this program play the reader.
pub(crate) const CHILD: &str = "--be-the-reader";

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "what_was_read_is_recorded",
        needs: Features::EVENT_REMOVE,
        run: what_was_read_is_recorded,
    },
    Case {
        name: "a_read_brings_what_it_records",
        needs: Features::EVENT_REMOVE,
        run: a_read_brings_what_it_records,
    },
    Case {
        name: "readers_killed_at_any_moment_lose_no_removal",
        needs: Features::EVENT_REMOVE,
        run: readers_killed_at_any_moment_lose_no_removal,
    },
];

const REMOVERS: usize = 3;
/// Pages that each of them gives up, one by one.
const EACH: usize = 400;
const PAGES: usize = REMOVERS * EACH;
/// Fewer than there can be removals at once, so that batches are full, too.
const SLOTS: usize = 2;

/// Where a reader kills itself.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Death {
    /// Nowhere: somebody else does.
    Never,
    /// After its first read.
    Read,
    /// After the first event of a batch was noted.
    Noted,
}

/// Reads removals from the userfaultfd that is its standard input, and notes them in the map that is
/// its standard output.
pub(crate) fn child(mut arguments: impl Iterator<Item = String>) {
    let start: u64 = arguments.next().expect("an address").parse().expect("one");
    let death = match arguments.next().as_deref() {
        Some("Read") => Death::Read,
        Some("Noted") => Death::Noted,
        _ => Death::Never,
    };
    let duplicate = |fd: &dyn AsFd| fd.as_fd().try_clone_to_owned().expect("a duplicate");
    let uffd = Userfaultfd::from_fd(duplicate(&std::io::stdin())).expect("a userfaultfd");
    let fd = duplicate(&std::io::stdout());
    let (map, mut journal) = PageMap::open(fd, PAGES as u64).expect("a map");
    let left: Vec<_> = journal.replay().collect();
    for event in &left {
        note(&map, start, event);
    }
    journal.clear();
    let mut buffer = EventBuffer::with_capacity(SLOTS + 1);
    loop {
        wait(&uffd);
        let Read::Events(events) = uffd.read_recorded(&mut journal, &mut buffer).expect("read")
        else {
            continue;
        };
        die_if(death == Death::Read);
        for event in events {
            note(&map, start, &event);
            die_if(death == Death::Noted);
        }
        journal.clear();
    }
}

fn die_if(now: bool) {
    if now {
        let _ = kill_process(rustix::process::getpid(), Signal::KILL);
    }
}

fn note(map: &PageMap, start: u64, event: &Event) {
    let (first, count) = pages_of(start, event).expect("only removals are raised");
    map.remove(MapIndex::new(first), count);
}

fn pages_of(from: u64, event: &Event) -> Option<(u64, u64)> {
    match *event {
        Event::Remove { start, end } => {
            let first = (start.get() - from) / host_page_size();
            Some((first, (end.get() - start.get()) / host_page_size()))
        }
        _ => None,
    }
}

fn spawn(uffd: &Userfaultfd, map: &PageMap, start: Address, death: Death) -> Child {
    let duplicate = |fd: &dyn AsFd| fd.as_fd().try_clone_to_owned().expect("a duplicate");
    Command::new(std::env::current_exe().expect("this program"))
        .arg(CHILD)
        .arg(start.get().to_string())
        .arg(format!("{death:?}"))
        .stdin(duplicate(uffd))
        .stdout(duplicate(map))
        .spawn()
        .expect("spawn")
}

fn served(pages: usize) -> (Userfaultfd, Arc<Mapping>) {
    let uffd = create(Features::EVENT_REMOVE);
    let mapping = Mapping::new(Backing::Anonymous, pages);
    register(&uffd, &mapping, RegisterMode::MISSING);
    (uffd, Arc::new(mapping))
}

fn a_read_brings_what_it_records() {
    let (uffd, mapping) = served(1);
    let (_map, mut journal) = PageMap::create(1, 4).expect("a map");
    let mut buffer = EventBuffer::with_capacity(4);
    assert!(matches!(
        uffd.read_recorded(&mut journal, &mut buffer),
        Ok(Read::WouldBlock)
    ));
    assert!(journal.is_clear());
    let remover = mapping.clone();
    let remover = in_thread(move || remover.give_up(0, Advice::LinuxDontNeed));
    wait(&uffd);
    let Ok(Read::Events(events)) = uffd.read_recorded(&mut journal, &mut buffer) else {
        panic!("poll said that there is one");
    };
    let range = (mapping.page(0).start(), mapping.page(0).end());
    let is_it =
        |event: &Event| matches!(*event, Event::Remove { start, end } if (start, end) == range);
    let events: Vec<_> = events.collect();
    assert!(matches!(&events[..], [event] if is_it(event)), "{events:?}");
    let recorded: Vec<_> = journal.replay().collect();
    assert!(
        matches!(&recorded[..], [event] if is_it(event)),
        "{recorded:?}"
    );
    journal.clear();
    assert!(journal.is_clear() && journal.replay().count() == 0);
    assert_eq!(remover(), Ok(()));
}

/// Forced: the reader dies between reading and noting, and in the middle of a batch.
fn what_was_read_is_recorded() {
    for death in [Death::Read, Death::Noted] {
        let (uffd, mapping) = served(PAGES);
        let (map, journal) = PageMap::create(PAGES as u64, SLOTS).expect("a map");
        let start = mapping.all().start();
        let removers: Vec<_> = (0..2)
            .map(|page| {
                let mapping = mapping.clone();
                in_thread(move || mapping.give_up(page, Advice::LinuxDontNeed))
            })
            .collect();
        // Each reader takes at least one removal with it.
        for _ in 0..removers.len() {
            let done = recorded(&map, &journal, start.get()).len();
            if done == removers.len() {
                break;
            }
            let mut reader = spawn(&uffd, &map, start, death);
            assert!(!reader.wait().expect("it ends").success(), "it was killed");
            assert!(!journal.is_clear(), "{death:?}: it died before it cleared");
            assert!(recorded(&map, &journal, start.get()).len() > done || done == 0);
        }
        for remover in removers {
            assert_eq!(remover(), Ok(()), "its removal was read");
        }
        assert_eq!(recorded(&map, &journal, start.get()), [0, 1], "{death:?}");
    }
}

/// The pages whose removal is in the map or in the journal.
fn recorded(map: &PageMap, journal: &Journal, start: u64) -> Vec<u64> {
    let mut pages: Vec<u64> = journal
        .replay()
        .filter_map(|event| pages_of(start, &event))
        .flat_map(|(first, count)| first..first + count)
        .collect();
    for (page, state) in (0..).zip(map.states()) {
        if state.expect("a state") == RecordedState::Removed {
            pages.push(page);
        }
    }
    pages.sort_unstable();
    pages.dedup();
    pages
}

fn readers_killed_at_any_moment_lose_no_removal() {
    let (uffd, mapping) = served(PAGES);
    let (map, journal) = PageMap::create(PAGES as u64, SLOTS).expect("a map");
    let start = mapping.all().start();
    let done: Arc<[AtomicUsize; REMOVERS]> = Arc::default();
    let removers: Vec<_> = (0..REMOVERS)
        .map(|n| {
            let (mapping, done) = (mapping.clone(), done.clone());
            in_thread(move || {
                for page in 0..EACH {
                    mapping
                        .give_up(n * EACH + page, Advice::LinuxDontNeed)
                        .expect("given up");
                    done[n].store(page + 1, Ordering::Release);
                }
            })
        })
        .collect();
    let until = Instant::now() + PATIENCE;
    let (mut lives, mut seen) = (0, 0);
    while seen < PAGES {
        assert!(
            Instant::now() < until,
            "{seen} of {PAGES} pages after {lives} readers"
        );
        let mut reader = spawn(&uffd, &map, start, Death::Never);
        lives += 1;
        // It lives until some more removals have gone through, a different number each time.
        let goal = PAGES.min(seen + 1 + lives * 7 % 23);
        while seen < goal {
            std::thread::sleep(Duration::from_micros(200));
            seen = done.iter().map(|n| n.load(Ordering::Acquire)).sum();
            assert!(
                Instant::now() < until,
                "{seen} of {PAGES} pages after {lives} readers"
            );
        }
        let pid = Pid::from_child(&reader);
        kill_process(pid, Signal::KILL).expect("it is still there");
        reader.wait().expect("it ends");
        // Whoever has got on was read, and so is recorded.
        let recorded = recorded(&map, &journal, start.get());
        for (n, done) in done.iter().enumerate() {
            for page in n * EACH..n * EACH + done.load(Ordering::Acquire) {
                assert!(
                    recorded.binary_search(&(page as u64)).is_ok(),
                    "reader {lives} lost the removal of page {page}"
                );
            }
        }
    }
    for remover in removers {
        remover();
    }
    assert!(lives > 10, "{lives} readers");
}
