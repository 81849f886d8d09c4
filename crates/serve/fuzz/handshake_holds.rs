//! What holds of a handshake, whatever bytes it consists of. Used by the fuzz target, and by the test
//! of its corpus.

use std::io::Write as _;
use std::os::unix::net::UnixStream;

use surefault_serve::handshake::{HandshakeLimits, ReceiveError, WireRegion, parse, receive};

/// Panics unless `input` is treated as it should be.
pub(crate) fn check(input: &[u8]) {
    let limits = HandshakeLimits::default();
    let accepted = parsed(input, &limits);
    received(input, &limits, accepted);
}

/// What is accepted can be served: whole pages that do not overlap, within the limits, and nothing
/// overflows. Says whether it was accepted.
fn parsed(json: &[u8], limits: &HandshakeLimits) -> bool {
    let Ok(regions) = parse(json, limits) else {
        return false;
    };
    assert!(!regions.is_empty() && regions.len() <= limits.regions);
    let mut spans = Vec::new();
    let mut sum = 0_u64;
    for region in &regions {
        assert!(limits.page_sizes.contains(&region.page_size));
        let page = region.page_size.bytes();
        let len = region.pages.get().checked_mul(page).expect("a length");
        assert!(len > 0 && region.start.get() % page == 0);
        let end = region.start.get().checked_add(len).expect("an end");
        region.store_offset.checked_add(len).expect("an end");
        sum = sum.checked_add(len).expect("a sum");
        spans.push((region.start.get(), end));
    }
    assert!(sum <= limits.memory);
    spans.sort();
    assert!(spans.windows(2).all(|pair| pair[0].1 <= pair[1].0));

    // Said again in our own words it means the same.
    let wire: Vec<WireRegion> = regions
        .iter()
        .map(|region| WireRegion {
            base_host_virt_addr: region.start.get(),
            size: region.pages.get() * region.page_size.bytes(),
            offset: region.store_offset,
            page_size: Some(region.page_size.bytes()),
            page_size_kib: None,
        })
        .collect();
    let again = serde_json::to_vec(&wire).expect("JSON");
    assert_eq!(parse(&again, limits).expect("the same"), regions);
    true
}

/// From a connection, in pieces, the same bytes end the same way: with a refusal, since no
/// userfaultfd comes with them.
fn received(bytes: &[u8], limits: &HandshakeLimits, accepted: bool) {
    let (mut vmm, daemon) = UnixStream::pair().expect("a pair of sockets");
    vmm.set_nonblocking(true).expect("a socket");
    let piece = match bytes.first() {
        Some(&first) => usize::from(first) * 16 + 1,
        None => 1,
    };
    let mut whole = true;
    for piece in bytes.chunks(piece) {
        // A socket takes only so much before somebody reads.
        whole &= vmm.write(piece).is_ok_and(|written| written == piece.len());
    }
    drop(vmm);
    let refused = receive(&daemon, limits).expect_err("there is no userfaultfd");
    assert!(refused.uffd.is_none());
    if accepted && whole && bytes.len() <= limits.message {
        let error = &refused.error;
        assert!(
            matches!(error, ReceiveError::NoUserfaultfd(0)),
            "it was accepted before: {error}"
        );
    }
}
