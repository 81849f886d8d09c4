use proptest::prelude::*;

use super::*;
use crate::format::tests::HEADER_PAGE;

fn header() -> PageHeader {
    PageHeader::parse(HEADER_PAGE).expect("parse")
}

/// A page that starts at time 1000 and contains `words`.
fn page(words: &[u32], flags: u64) -> Vec<u8> {
    let mut page = vec![0; 4096];
    page[..8].copy_from_slice(&1000_u64.to_le_bytes());
    page[8..16].copy_from_slice(&((4 * words.len() as u64) | flags).to_le_bytes());
    for (index, word) in words.iter().enumerate() {
        page[16 + 4 * index..][..4].copy_from_slice(&word.to_le_bytes());
    }
    page
}

const fn entry(kind: u32, delta: u32) -> u32 {
    kind | delta << 5
}

fn times(page: &[u8]) -> (Vec<(u64, usize)>, bool) {
    let mut events = SubBuffer::new(&header(), page).expect("a head");
    let times = events.by_ref().map(|e| (e.time, e.record.len())).collect();
    (times, events.is_malformed())
}

#[test]
fn every_kind_of_entry_is_understood() {
    let words = [
        entry(1, 7),
        0xaaaa_aaaa,
        entry(TYPE_TIME_EXTEND, 5),
        2,
        entry(0, 1),
        12,
        1,
        2,
        entry(TYPE_PADDING, 3),
        8,
        0,
        entry(2, 0),
        1,
        2,
        entry(TYPE_TIME_STAMP, 9),
        1 << 4,
        entry(1, 1),
        0,
        entry(TYPE_PADDING, 0),
        0xdead_beef,
        0xdead_beef,
    ];
    let extended = 1007 + (2 << 27) + 5 + 1;
    let stamped = (1 << 31) + 9 + 1;
    assert_eq!(
        times(&page(&words, 0)),
        (
            vec![(1007, 4), (extended, 8), (extended + 3, 8), (stamped, 4)],
            false
        )
    );
}

#[test]
fn an_absolute_time_keeps_the_bits_it_does_not_carry() {
    let mut bytes = page(&[entry(TYPE_TIME_STAMP, 1), 0, entry(1, 0), 0], 0);
    bytes[..8].copy_from_slice(&(3_u64 << TIME_STAMP_BITS | 77).to_le_bytes());
    assert_eq!(times(&bytes), (vec![(3 << TIME_STAMP_BITS | 1, 4)], false));
}

#[test]
fn lost_events_are_noticed() {
    let words = [entry(1, 0), 0];
    let lost = |bytes: &[u8]| SubBuffer::new(&header(), bytes).expect("a head").lost();
    assert_eq!(lost(&page(&words, 0)), Lost::Nothing);
    assert_eq!(lost(&page(&words, MISSED_EVENTS)), Lost::Some);
    let mut counted = page(&words, MISSED_EVENTS | MISSED_STORED);
    counted[24..32].copy_from_slice(&4711_u64.to_le_bytes());
    assert_eq!(lost(&counted), Lost::Count(4711));
    assert_eq!(times(&counted), (vec![(1000, 4)], false));
}

#[test]
fn what_does_not_fit_ends_the_page() {
    // A record of five words, of which three are there.
    let short = page(&[entry(1, 0), 0, entry(5, 0), 1, 2, 3], 0);
    assert_eq!(times(&short), (vec![(1000, 4)], true));
    // A length that does not even count itself.
    assert_eq!(times(&page(&[entry(0, 0), 3], 0)), (vec![], true));
    // A page that claims to be longer than it is.
    let mut long = page(&[entry(1, 0), 0], 0);
    long[8..16].copy_from_slice(&5000_u64.to_le_bytes());
    assert!(times(&long).1);
    assert!(SubBuffer::new(&header(), &long[..15]).is_none());
}

/// A page as Linux 6.18 wrote it: the loop of one vCPU.
#[test]
fn a_recorded_page_is_understood() {
    let bytes = include_bytes!("recorded.bin");
    let mut events = SubBuffer::new(&header(), bytes).expect("a head");
    let mut before = 0;
    let mut ids = Vec::new();
    for event in events.by_ref() {
        assert!(event.time >= before, "time goes on");
        before = event.time;
        ids.push(u16::from_le_bytes([event.record[0], event.record[1]]));
    }
    assert!(!events.is_malformed());
    // try_async_get_page, not_present, ready: 36, 34, 33 on that kernel.
    assert!(ids.len() > 50, "{} events", ids.len());
    let turn = ids.windows(3).filter(|ids| *ids == [36, 34, 33]).count();
    assert!(
        turn >= ids.len() / 3 - 1,
        "{turn} turns in {} events",
        ids.len()
    );
}

proptest! {
    /// Whatever the bytes are: no panic, and no more events than there is room for.
    #[test]
    fn arbitrary_bytes_decode(bytes in proptest::collection::vec(any::<u8>(), 0..5000)) {
        if let Some(events) = SubBuffer::new(&header(), &bytes) {
            prop_assert!(events.count() <= bytes.len() / 4);
        }
    }

    /// Entries of any kind and plausible lengths, which arbitrary bytes seldom are.
    #[test]
    fn arbitrary_entries_decode(
        words in proptest::collection::vec(
            prop_oneof![
                (0_u32..32, any::<u32>()).prop_map(|(kind, delta)| entry(kind, delta >> 5)),
                0_u32..64,
            ],
            0..1020,
        ),
        flags in any::<u64>(),
        cut in 0_usize..=4096,
    ) {
        let bytes = page(&words, flags);
        if let Some(events) = SubBuffer::new(&header(), &bytes[..cut]) {
            prop_assert!(events.count() <= cut / 4);
        }
    }
}
