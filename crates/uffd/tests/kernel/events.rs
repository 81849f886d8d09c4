//! Reading: batches, threads, and the events that are not faults.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::Arc;

use rustix::mm::Advice;
use surefault_uffd::{
    Event, EventBuffer, Features, Outcome, Read, RegisterMode, Tid, Userfaultfd, Wake,
};

use crate::{Case, create, fault_on, next_event, register, wait};
use surefault_testkit::in_thread;
use surefault_testkit::{BACKINGS, Backing, Mapping, bytes};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "nothing_queued_would_block",
        needs: Features::empty(),
        run: nothing_queued_would_block,
    },
    Case {
        name: "faults_name_their_threads",
        needs: Features::THREAD_ID,
        run: faults_name_their_threads,
    },
    Case {
        name: "many_faults_in_few_reads",
        needs: Features::empty(),
        run: many_faults_in_few_reads,
    },
    Case {
        name: "exact_addresses",
        needs: Features::EXACT_ADDRESS,
        run: exact_addresses,
    },
    Case {
        name: "a_queued_removal_says_again",
        needs: Features::EVENT_REMOVE,
        run: a_queued_removal_says_again,
    },
    Case {
        name: "an_unmap_is_reported",
        needs: Features::EVENT_UNMAP,
        run: an_unmap_is_reported,
    },
    Case {
        name: "a_fork_brings_a_descriptor",
        needs: Features::EVENT_FORK,
        run: a_fork_brings_a_descriptor,
    },
];

fn served(features: Features, backing: Backing, pages: usize) -> (Userfaultfd, Arc<Mapping>) {
    let uffd = create(features);
    let mapping = Mapping::new(backing, pages);
    register(&uffd, &mapping, RegisterMode::MISSING);
    (uffd, Arc::new(mapping))
}

fn nothing_queued_would_block() {
    let uffd = create(Features::empty());
    let mut buffer = EventBuffer::with_capacity(4);
    assert!(matches!(uffd.read(&mut buffer), Ok(Read::WouldBlock)));
}

fn faults_name_their_threads() {
    let (uffd, mapping) = served(Features::THREAD_ID, Backing::Anonymous, 1);
    let reader = mapping.clone();
    let reader = in_thread(move || {
        reader.load(0);
        rustix::thread::gettid().as_raw_nonzero().get() as u32
    });
    let fault = fault_on(next_event(&uffd), mapping.page(0));
    assert_eq!(uffd.zeropage(mapping.page(0), Wake::Now), Ok(Outcome::Done));
    assert_eq!(fault.thread, Tid::new(reader()));
}

fn many_faults_in_few_reads() {
    const THREADS: usize = 32;
    let (uffd, mapping) = served(Features::empty(), Backing::Anonymous, THREADS);
    let readers: Vec<_> = (0..THREADS)
        .map(|page| {
            let mapping = mapping.clone();
            in_thread(move || mapping.load(page))
        })
        .collect();
    let mut buffer = EventBuffer::with_capacity(8);
    let mut seen = BTreeSet::new();
    let mut largest = 0;
    // Each fault is read once, so there are at most as many reads as faults.
    for _ in 0..THREADS {
        wait(&uffd);
        let Ok(Read::Events(events)) = uffd.read(&mut buffer) else {
            panic!("poll said that there are events");
        };
        assert!(events.len() <= 8);
        largest = largest.max(events.len());
        for event in events {
            let Event::Pagefault(fault) = event else {
                panic!("{event:?}")
            };
            assert!(seen.insert(fault.address.get()), "each fault is read once");
        }
        if seen.len() == THREADS {
            break;
        }
        // Gives the others time to queue up, so that there is a batch; not needed for the rest.
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(seen.len(), THREADS);
    assert!(largest > 1, "never more than one event in a read");
    assert_eq!(
        uffd.copy(mapping.all(), &bytes(THREADS, 3), Wake::Now),
        Ok(Outcome::Done)
    );
    for reader in readers {
        assert_eq!(reader(), 3);
    }
}

fn exact_addresses() {
    let (uffd, mapping) = served(Features::EXACT_ADDRESS, Backing::Anonymous, 1);
    let reader = mapping.clone();
    let reader = in_thread(move || reader.load_at(0, 123));
    let Event::Pagefault(fault) = next_event(&uffd) else {
        panic!("not a fault");
    };
    assert_eq!(fault.address.get(), mapping.page(0).start().get() + 123);
    assert_eq!(uffd.zeropage(mapping.page(0), Wake::Now), Ok(Outcome::Done));
    reader();
}

/// While a removal waits to be read, no install goes through; once it has been read, they do.
fn a_queued_removal_says_again() {
    for backing in BACKINGS {
        let (uffd, mapping) = served(Features::EVENT_REMOVE, backing, 4);
        assert_eq!(
            uffd.copy(mapping.page(0), &bytes(1, 1), Wake::Now),
            Ok(Outcome::Done)
        );
        let remover = mapping.clone();
        let advice = match backing {
            Backing::Anonymous => Advice::LinuxDontNeed,
            Backing::Memfd => Advice::LinuxRemove,
        };
        let remover = in_thread(move || remover.give_up(0, advice));
        wait(&uffd);
        let other = mapping.page(2);
        assert_eq!(
            uffd.copy(other, &bytes(1, 1), Wake::Now),
            Ok(Outcome::Again),
            "{backing:?}"
        );
        assert_eq!(uffd.zeropage(other, Wake::Now), Ok(Outcome::Again));
        if Features::supported().is_ok_and(|there| there.contains(Features::POISON)) {
            assert_eq!(uffd.poison(other, Wake::Now), Ok(Outcome::Again));
        }
        let Event::Remove { start, end } = next_event(&uffd) else {
            panic!("not a removal");
        };
        assert_eq!(
            (start, end),
            (mapping.page(0).start(), mapping.page(0).end())
        );
        assert_eq!(remover(), Ok(()));
        assert_eq!(uffd.copy(other, &bytes(1, 1), Wake::Now), Ok(Outcome::Done));
        assert_eq!(
            uffd.copy(mapping.page(0), &bytes(1, 2), Wake::Now),
            Ok(Outcome::Done)
        );
        assert_eq!(mapping.load(0), 2, "the page was absent again");
    }
}

fn an_unmap_is_reported() {
    let (uffd, mapping) = served(Features::EVENT_UNMAP, Backing::Anonymous, 3);
    let all = mapping.all();
    let mapping = Arc::into_inner(mapping).expect("no reader");
    let unmapper = in_thread(move || drop(mapping));
    let Event::Unmap { start, end } = next_event(&uffd) else {
        panic!("not an unmap");
    };
    assert_eq!((start, end), (all.start(), all.end()));
    unmapper();
}

fn a_fork_brings_a_descriptor() {
    let (uffd, mapping) = served(Features::EVENT_FORK, Backing::Anonymous, 1);
    let child = in_thread(|| {
        let mut command = Command::new("/bin/true");
        // SAFETY: does nothing; it makes the standard library fork instead of spawning.
        unsafe { command.pre_exec(|| Ok(())) };
        command.status().expect("fork and exec").success()
    });
    let Event::Fork(fd) = next_event(&uffd) else {
        panic!("not a fork");
    };
    let of_child = Userfaultfd::from_fd(fd).expect("a userfaultfd");
    assert!(child());
    // The child's memory went away with its exec; ours is still there.
    let gone = of_child.zeropage(mapping.page(0), Wake::Now);
    assert_eq!(gone, Ok(Outcome::Gone));
    assert_eq!(uffd.zeropage(mapping.page(0), Wake::Now), Ok(Outcome::Done));
}
