use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};

use super::*;

fn at(n: u64) -> MapIndex {
    MapIndex::new(n)
}

fn duplicate(map: &PageMap) -> OwnedFd {
    map.as_fd().try_clone_to_owned().expect("a duplicate")
}

fn states(map: &PageMap) -> Vec<RecordedState> {
    map.states().collect::<Result<_, _>>().expect("states")
}

#[test]
fn a_successor_finds_what_was_recorded() {
    let (map, _journal) = PageMap::create(10_000, 64).expect("a map");
    map.intend(at(0), 3);
    map.settle(at(1), 1);
    map.give_up(at(2), 1);
    map.remove(at(4096), 2);
    map.fail(at(9_999), 17);
    let fd = duplicate(&map);
    drop(map);
    let (found, journal) = PageMap::open(fd, 10_000).expect("the same map");
    assert_eq!(journal.slots(), 64);
    let found = states(&found);
    assert_eq!(found.len(), 10_000);
    for (n, state) in found.into_iter().enumerate() {
        let expected = match n {
            0 => RecordedState::Intent,
            1 => RecordedState::Present,
            4096 | 4097 => RecordedState::Removed,
            9_999 => RecordedState::Failed { note: 17 },
            _ => RecordedState::Absent,
        };
        assert_eq!(state, expected, "page {n}");
    }
}

#[test]
fn a_removal_is_for_good() {
    let (map, _journal) = PageMap::create(1, 1).expect("a map");
    map.intend(at(0), 1);
    map.remove(at(0), 1);
    map.settle(at(0), 1);
    map.give_up(at(0), 1);
    map.intend(at(0), 1);
    map.fail(at(0), 1);
    assert_eq!(states(&map), [RecordedState::Removed]);
    map.forget(at(0), 1);
    assert_eq!(states(&map), [RecordedState::Absent]);
}

#[test]
fn a_removal_after_a_failure_is_told_from_others() {
    let (map, _journal) = PageMap::create(1, 1).expect("a map");
    map.fail(at(0), 3);
    map.remove(at(0), 1);
    map.remove(at(0), 1);
    assert_eq!(states(&map), [RecordedState::RemovedFailed]);
    map.forget(at(0), 1);
    assert_eq!(states(&map), [RecordedState::Absent]);
}

#[test]
fn what_was_not_intended_is_not_settled() {
    let (map, _journal) = PageMap::create(2, 1).expect("a map");
    map.settle(at(0), 2);
    assert_eq!(states(&map), [RecordedState::Absent; 2]);
    map.intend(at(1), 1);
    map.settle(at(1), 1);
    map.give_up(at(1), 1);
    map.intend(at(1), 1);
    map.fail(at(1), 1);
    assert_eq!(states(&map)[1], RecordedState::Present);
}

#[test]
#[should_panic(expected = "2 pages from page 9 on, of 10")]
fn pages_beyond_the_end_are_refused() {
    let (map, _journal) = PageMap::create(10, 1).expect("a map");
    map.remove(at(9), 2);
}

#[test]
fn only_a_sealed_map_of_this_memory_is_opened() {
    let (map, _journal) = PageMap::create(10, 8).expect("a map");
    assert!(matches!(
        PageMap::open(duplicate(&map), 11),
        Err(MapError::OtherMemory {
            found: 10,
            expected: 11
        })
    ));
    let file = tempfile();
    assert!(matches!(
        PageMap::open(file, 10),
        Err(MapError::NotSealed(_))
    ));
    let unsealed = memfd(8192, SealFlags::empty());
    assert!(matches!(
        PageMap::open(unsealed, 10),
        Err(MapError::NotSealed(_))
    ));
    for len in [0, 8, 4096, 1 << 20] {
        let foreign = memfd(len, SealFlags::SHRINK | SealFlags::GROW);
        assert!(
            matches!(
                PageMap::open(foreign, 10),
                Err(MapError::Foreign(_) | MapError::Map(_))
            ),
            "{len} bytes"
        );
    }
}

/// Every byte of the header, replaced by every other: the map is refused or the same.
#[test]
fn a_header_that_lies_is_refused() {
    let (map, _journal) = PageMap::create(10, 8).expect("a map");
    let header = map.memory.bytes(0, 64);
    for (offset, byte) in header.iter().enumerate() {
        let right = byte.load(Ordering::Relaxed);
        for wrong in (0..=u8::MAX).filter(|&value| value != right) {
            byte.store(wrong, Ordering::Relaxed);
            let opened = PageMap::open(duplicate(&map), 10);
            match (offset, opened) {
                (0..40, Err(MapError::Foreign(_))) => {}
                (0..40, Err(MapError::OtherMemory { .. } | MapError::TooLarge { .. })) => {}
                // Another number of slots that needs as many pages is as good.
                (32..40, Ok(_)) | (40.., Ok(_)) => {}
                (offset, other) => panic!("byte {offset} = {wrong:#x}: {other:?}"),
            }
        }
        byte.store(right, Ordering::Relaxed);
    }
}

#[test]
fn a_byte_that_is_no_state_is_named() {
    let (map, _journal) = PageMap::create(10, 8).expect("a map");
    map.cells(at(7), 1)[0].store(6, Ordering::Relaxed);
    let found: Result<Vec<_>, _> = map.states().collect();
    assert!(matches!(found, Err(MapError::Corrupt { page, value: 6 }) if page == at(7)));
    map.intend(at(0), 10);
    assert!(map.state(at(7)).is_err(), "it stays what it is");
}

#[test]
fn impossible_sizes_are_refused() {
    for pages in [u64::MAX, 1 << 63, (1 << 63) - 4096] {
        assert!(PageMap::create(pages, 8).is_err(), "{pages}");
    }
}

fn tempfile() -> OwnedFd {
    let program = std::env::current_exe().expect("this program");
    std::fs::File::open(program).expect("a file").into()
}

fn memfd(len: u64, seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("test", flags).expect("memfd");
    rustix::fs::ftruncate(&fd, len).expect("ftruncate");
    rustix::fs::fcntl_add_seals(&fd, seals).expect("seals");
    fd
}
