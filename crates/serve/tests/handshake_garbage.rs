//! Handshakes of anybody: the corpus of the fuzz target, and garbage of several kinds.

use std::path::PathBuf;

use proptest::prelude::*;

#[path = "../fuzz/handshake_holds.rs"]
mod handshake_holds;

use handshake_holds::check;

#[test]
fn the_corpus() {
    let corpus = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/handshake");
    let mut seen = 0;
    for entry in std::fs::read_dir(&corpus).expect("the corpus") {
        let path = entry.expect("an entry").path();
        let input = std::fs::read(&path).expect("a file");
        let checked = std::panic::catch_unwind(|| check(&input));
        assert!(checked.is_ok(), "{}", path.display());
        seen += 1;
    }
    assert!(seen >= 20, "{seen} files in {}", corpus.display());
}

/// Pieces that handshakes consist of, and some that they do not.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec![
            "[", "]", "{", "}", ",", ":", "\"", "\\", " ", "\n", "null", "true", "-", "1e9", "0x10",
            "\"base_host_virt_addr\":", "\"size\":", "\"offset\":", "\"page_size\":",
            "\"page_size_kib\":", "\"\\u0000\"", "[[[[[[[[", "\u{feff}",
        ])
        .prop_map(str::to_owned),
        2 => prop::sample::select(vec![0_u64, 1, 4096, 2 << 20, 1 << 40, 1 << 63, u64::MAX])
            .prop_map(|n| n.to_string()),
        1 => any::<u64>().prop_map(|n| (n & !0xfff).to_string()),
    ]
}

/// A region as a VMM might say it, with numbers at the edges.
fn region() -> impl Strategy<Value = String> {
    let edge = || {
        prop_oneof![
            (0..1_u64 << 36).prop_map(|n| n << 12),
            prop::sample::select(vec![0, 4095, 4096, 2 << 20, u64::MAX - 4095, u64::MAX]),
        ]
    };
    let page = prop::sample::select(vec![4096_u64, 4096, 4096, 2 << 20, 1 << 30, 1, 0]);
    (edge(), edge(), edge(), page, any::<bool>()).prop_map(|(base, size, offset, page, old)| {
        let name = if old { "page_size_kib" } else { "page_size" };
        format!(
            r#"{{"base_host_virt_addr":{base},"size":{size},"offset":{offset},"{name}":{page}}}"#
        )
    })
}

proptest! {
    #[test]
    fn bytes(input in prop::collection::vec(any::<u8>(), 0..300)) {
        check(&input);
    }

    #[test]
    fn words(pieces in prop::collection::vec(piece(), 0..60)) {
        check(pieces.concat().as_bytes());
    }

    #[test]
    fn regions(regions in prop::collection::vec(region(), 0..6)) {
        check(format!("[{}]", regions.join(",")).as_bytes());
    }

    #[test]
    fn regions_with_a_flaw(
        regions in prop::collection::vec(region(), 1..4),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<bool>(),
    ) {
        let mut input = format!("[{}]", regions.join(",")).into_bytes();
        let at = at.index(input.len());
        match cut {
            true => input.truncate(at),
            false => input[at] = byte,
        }
        check(&input);
    }
}
