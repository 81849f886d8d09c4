use std::io::{IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use proptest::prelude::*;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use surefault_core::Hva;
use surefault_uffd::{Options, Userfaultfd};

use super::framing::Framing;
use super::*;

fn limits() -> HandshakeLimits {
    HandshakeLimits {
        time: Duration::from_millis(300),
        page_sizes: vec![PageSize::KIB_4, PageSize::MIB_2],
        ..HandshakeLimits::default()
    }
}

fn wire(n: u64) -> WireRegion {
    WireRegion {
        base_host_virt_addr: 0x7000_0000_0000 + n * (1 << 30),
        size: 128 << 20,
        offset: n * (128 << 20),
        page_size: Some(4096),
        page_size_kib: None,
    }
}

fn json(regions: &[WireRegion]) -> Vec<u8> {
    serde_json::to_vec(regions).expect("JSON")
}

#[test]
fn what_firecracker_says() {
    let old = br#"[{"base_host_virt_addr":140000000000000,"size":134217728,"offset":0,
        "page_size_kib":4096}]"#;
    let new = br#"[{"base_host_virt_addr":140000000000000,"size":134217728,"offset":0,
        "page_size":4096,"page_size_kib":4096,"something_new":{"a":[1,"]"]}}]"#;
    for text in [&old[..], &new[..]] {
        let regions = parse(text, &limits()).expect("regions");
        assert_eq!(regions.len(), 1);
        assert_eq!(regions[0].start, Hva::new(140_000_000_000_000));
        assert_eq!(regions[0].pages.get(), 32768);
        assert_eq!(regions[0].page_size, PageSize::KIB_4);
    }
}

#[test]
fn sixty_four_regions() {
    let regions: Vec<WireRegion> = (0..64).map(wire).collect();
    let text = json(&regions);
    assert!(text.len() > 4096);
    assert_eq!(parse(&text, &limits()).expect("regions").len(), 64);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let good = wire(1);
    let cases: [(&str, Vec<WireRegion>); 13] = [
        ("it has no regions", vec![]),
        ("257 regions", (0..257).map(wire).collect()),
        (
            "region 0",
            vec![WireRegion {
                page_size: None,
                ..good
            }],
        ),
        (
            "region 0",
            vec![WireRegion {
                page_size: Some(0),
                ..good
            }],
        ),
        (
            "region 0",
            vec![WireRegion {
                page_size: Some(8192),
                ..good
            }],
        ),
        (
            "region 0",
            vec![WireRegion {
                page_size_kib: Some(4),
                ..good
            }],
        ),
        (
            "region 1",
            vec![
                wire(0),
                WireRegion {
                    base_host_virt_addr: 1,
                    ..good
                },
            ],
        ),
        ("region 0", vec![WireRegion { size: 0, ..good }]),
        ("region 0", vec![WireRegion { size: 4097, ..good }]),
        (
            "region 0",
            vec![WireRegion {
                base_host_virt_addr: u64::MAX - 4095,
                ..good
            }],
        ),
        (
            "region 0",
            vec![WireRegion {
                offset: u64::MAX - 5,
                ..good
            }],
        ),
        (
            "1 and 2 overlap",
            vec![wire(0), good, WireRegion { size: 4096, ..good }],
        ),
        (
            "are allowed",
            vec![WireRegion {
                size: 2 << 40,
                ..good
            }],
        ),
    ];
    for (reason, regions) in cases {
        let error = parse(&json(&regions), &limits()).expect_err(reason);
        assert!(error.to_string().contains(reason), "{reason}: {error}");
    }
    for garbage in [
        "",
        "{}",
        "[1]",
        "[[]]",
        "null",
        "[{\"size\":-1}]",
        "[{\"offset\":0.5}]",
    ] {
        let error = parse(garbage.as_bytes(), &limits());
        assert!(matches!(error, Err(ParseError::Json(_))), "{garbage}");
    }
}

#[test]
fn a_source_offset_need_not_be_aligned() {
    let region = WireRegion {
        offset: 1000,
        ..wire(0)
    };
    assert_eq!(
        parse(&json(&[region]), &limits()).expect("regions")[0].store_offset,
        1000
    );
}

fn refused(sends: impl FnOnce(&mut UnixStream)) -> ReceiveError {
    let (mut client, server) = UnixStream::pair().expect("sockets");
    sends(&mut client);
    let rejected = receive(&server, &limits()).expect_err("garbage");
    assert!(rejected.uffd.is_none());
    rejected.error
}

#[test]
fn peers_that_do_not_keep_to_it() {
    let hung_up = refused(|client| {
        client.write_all(b"[{").expect("sent");
        let (other, _) = UnixStream::pair().expect("sockets");
        *client = other;
    });
    assert!(matches!(hung_up, ReceiveError::HungUp(2)), "{hung_up}");
    let slow = refused(|client| client.write_all(b" [").expect("sent"));
    assert!(matches!(slow, ReceiveError::TooSlow(_)), "{slow}");
    let none = refused(|client| client.write_all(&json(&[wire(0)])).expect("sent"));
    assert!(matches!(none, ReceiveError::NoUserfaultfd(0)), "{none}");
    let trailing = refused(|client| client.write_all(b"[] \n [").expect("sent"));
    assert!(matches!(trailing, ReceiveError::Trailing), "{trailing}");
    for garbage in [&b"GET / HTTP/1.1\r\n"[..], b"]", b"\0\0\0"] {
        let error = refused(|client| client.write_all(garbage).expect("sent"));
        assert!(
            matches!(error, ReceiveError::Trailing | ReceiveError::Parse(_)),
            "{error}"
        );
    }
    let wrong = refused(|client| {
        let file: OwnedFd = std::fs::File::open("/dev/null").expect("a file").into();
        send(client, &[wire(0)], file.as_fd()).expect("sent");
    });
    assert!(matches!(wrong, ReceiveError::NoUserfaultfd(1)), "{wrong}");
}

/// What was looked at is there for whoever looks next, wherever the first one stopped.
#[test]
fn what_was_looked_at_is_left() {
    let (mut client, server) = UnixStream::pair().expect("sockets");
    let text = json(&[wire(0), wire(1)]);
    let uffd = Userfaultfd::create(Options::default()).expect("a userfaultfd");
    // What brings a descriptor is looked at by itself, and so in pieces.
    let (first, rest) = text.split_at(20);
    send_fd(&client, first, uffd.as_fd());
    assert!(has_descriptors(&server));
    for byte in rest {
        client.write_all(&[*byte]).expect("sent");
    }
    for _ in 0..2 {
        let (handshake, left) = look(&server, &limits()).expect("it is there");
        assert_eq!(handshake.regions.len(), 2);
        assert_eq!(left, text.len());
    }
    take_out(&server, text.len());
    assert!(!has_descriptors(&server));
    client.write_all(b"x").expect("sent");
    let mut next = [0; 8];
    assert_eq!((&server).read(&mut next).expect("read"), 1);
    assert_eq!(next[0], b'x');
}

/// More pieces than a socket has room for while none of them is taken out.
#[test]
fn who_has_no_room_is_given_some() {
    let (mut client, server) = UnixStream::pair().expect("sockets");
    let regions: Vec<WireRegion> = (0..100).map(wire).collect();
    let text = json(&regions);
    let uffd = Userfaultfd::create(Options::default()).expect("a userfaultfd");
    let sent = text.clone();
    let sender = std::thread::spawn(move || {
        send_fd(&client, &sent[..1], uffd.as_fd());
        for byte in &sent[1..] {
            client.write_all(&[*byte]).expect("sent");
        }
    });
    let patient = HandshakeLimits {
        time: Duration::from_secs(60),
        ..limits()
    };
    let (handshake, left) = look(&server, &patient).expect("it comes");
    assert_eq!(handshake.regions.len(), 100);
    assert_eq!(left, 0, "it was taken out");
    sender.join().expect("the sender ends");
}

fn send_fd(stream: &UnixStream, bytes: &[u8], fd: BorrowedFd<'_>) {
    let fds = [fd];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
    let parts = [IoSlice::new(bytes)];
    let sent = sendmsg(stream, &parts, &mut ancillary, SendFlags::empty());
    assert_eq!(sent, Ok(bytes.len()));
}

#[test]
fn a_message_without_an_end() {
    let (mut client, server) = UnixStream::pair().expect("sockets");
    let sender = std::thread::spawn(move || {
        let _ = client.write_all(b"[");
        while client.write_all(&[b' '; 4096]).is_ok() {}
    });
    let patient = HandshakeLimits {
        time: Duration::from_secs(60),
        ..limits()
    };
    let error = receive(&server, &patient).expect_err("too long").error;
    assert!(matches!(error, ReceiveError::TooLong(_)), "{error}");
    drop(server);
    sender.join().expect("the sender ends");
}

proptest! {
    #[test]
    fn however_it_is_cut(cuts in prop::collection::vec(1usize..400, 0..40), regions in 1u64..20) {
        let text = json(&(0..regions).map(wire).collect::<Vec<_>>());
        let mut framing = Framing::default();
        let mut seen = 0;
        for cut in cuts {
            seen = (seen + cut).min(text.len());
            let end = framing.end(&text[..seen]);
            if seen == text.len() {
                prop_assert_eq!(end, Some(text.len()));
                return Ok(());
            }
            prop_assert_eq!(end, None);
        }
    }

    #[test]
    fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[\\[\\]{}\",:a0-9 ]{0,60}") {
        for input in [&bytes[..], text.as_bytes()] {
            let _ = Framing::default().end(input);
            let _ = parse(input, &limits());
        }
    }
}
