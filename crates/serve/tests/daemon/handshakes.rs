//! What else may come in at a socket.

use std::io::{IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use surefault_serve::event::Event;
use surefault_serve::handshake::{HandshakeLimits, ReceiveError, WireRegion, receive};
use surefault_testkit::page_size;
use surefault_uffd::{Features, Options, Userfaultfd};

use crate::rig::{Planned, Rig};
use crate::vmm::{Part, Vmm};

crate::cases![
    in_pieces_and_with_other_descriptors,
    too_many_descriptors,
    garbage_is_refused_and_nobody_else_harmed,
    only_the_owner_may_connect,
    others_may_connect_if_allowed(Root),
    who_is_refused_with_its_memory_is_killed,
];

fn uffd() -> Userfaultfd {
    Userfaultfd::create(Options {
        required: Features::EVENT_REMOVE,
        ..Options::default()
    })
    .expect("a userfaultfd")
}

fn json() -> Vec<u8> {
    let region = WireRegion {
        base_host_virt_addr: 1 << 40,
        size: 4 * page_size() as u64,
        offset: 0,
        page_size: None,
        page_size_kib: Some(page_size() as u64),
    };
    serde_json::to_vec(&[region]).expect("JSON")
}

fn send_fds(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(fds)));
    let parts = [IoSlice::new(bytes)];
    let sent = sendmsg(stream, &parts, &mut ancillary, SendFlags::empty());
    assert_eq!(sent, Ok(bytes.len()));
}

fn in_pieces_and_with_other_descriptors() {
    let (mut client, server) = UnixStream::pair().expect("sockets");
    let sender = std::thread::spawn(move || {
        let (uffd, null) = (uffd(), std::fs::File::open("/dev/null").expect("a file"));
        let json = json();
        let (first, rest) = json.split_at(10);
        send_fds(&client, first, &[null.as_fd(), uffd.as_fd(), null.as_fd()]);
        for byte in rest {
            std::thread::sleep(Duration::from_micros(100));
            client.write_all(&[*byte]).expect("sent");
        }
        client
    });
    let handshake = receive(&server, &HandshakeLimits::default()).expect("a handshake");
    assert_eq!(handshake.regions.len(), 1);
    assert_eq!(handshake.regions[0].pages.get(), 4);
    sender.join().expect("the sender ends");
}

fn too_many_descriptors() {
    let uffd = uffd();
    for count in [4, 5, 12] {
        let (client, server) = UnixStream::pair().expect("sockets");
        send_fds(&client, &json(), &vec![uffd.as_fd(); count]);
        let error = receive(&server, &HandshakeLimits::default())
            .expect_err("too many")
            .error;
        assert!(
            matches!(error, ReceiveError::TooManyDescriptors(n) if n == count),
            "{error}"
        );
    }
    let (client, server) = UnixStream::pair().expect("sockets");
    send_fds(&client, &json(), &[uffd.as_fd(), uffd.as_fd()]);
    let error = receive(&server, &HandshakeLimits::default())
        .expect_err("two")
        .error;
    assert!(
        matches!(error, ReceiveError::SeveralUserfaultfds),
        "{error}"
    );
}

fn garbage_is_refused_and_nobody_else_harmed() {
    let rig = Rig::new(|config| config.handshake.time = Duration::from_millis(200));
    let socket = rig.listen("vm", Planned::new(64, &[], "0us"));
    let mut silent = Vec::new();
    let garbage: [&[u8]; 8] = [
        b"",
        b"[",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[[[[[[[[",
        &json(),
        b"[{\"size\": 1e99}]",
    ];
    for bytes in garbage {
        let mut stream = UnixStream::connect(&socket).expect("connected");
        stream.write_all(bytes).expect("sent");
        // Some hang up, some stay.
        if bytes.len() % 2 == 0 {
            silent.push(stream);
        }
    }
    let refusals = || {
        rig.events()
            .iter()
            .filter(|e| matches!(e, Event::Refused { .. }))
            .count()
    };
    let mut vmm = Vmm::start(&Part::new(&socket, 64));
    assert_eq!(vmm.sound_report().right, 128);
    crate::rig::until("all are refused", || refusals() == garbage.len());
    let killed = |event: &Event| match event {
        Event::Refused { killed, .. } => *killed,
        _ => false,
    };
    assert!(
        !rig.events().iter().any(killed),
        "none had handed over its memory"
    );
}

fn only_the_owner_may_connect() {
    let rig = Rig::new(|_| {});
    let socket = rig.listen("vm", Planned::new(4, &[], "0us"));
    for path in [&socket, &rig.path("control")] {
        let mode = std::fs::metadata(path)
            .expect("a socket")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    }
    let rig = Rig::new(|config| config.allow_uids = vec![12345]);
    let socket = rig.listen("vm", Planned::new(4, &[], "0us"));
    let mode = std::fs::metadata(&socket)
        .expect("a socket")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o666, "who may is decided by who it is");
}

/// Somebody without privileges has a userfaultfd for faults of user mode only: enough for this.
fn others_may_connect_if_allowed() {
    let (allowed, other) = (65_534, 65_533);
    let rig = Rig::new(|config| config.allow_uids = vec![allowed]);
    let socket = rig.listen("vm", Planned::new(64, &[], "0us"));
    let binary = rig.path("vmm");
    std::fs::copy(
        std::env::current_exe().expect("this test's binary"),
        &binary,
    )
    .expect("copied");
    for path in [rig.dir.path(), &binary] {
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(path, mode).expect("a mode");
    }
    let mut vmm = Vmm::start_as(&Part::new(&socket, 64), allowed, &binary);
    assert_eq!(vmm.sound_report().right, 128);
    let _refused = Vmm::start_as(&Part::new(&socket, 64), other, &binary);
    let reason = rig.told("that it was refused", |event| match event {
        Event::Refused { reason, .. } => Some(reason.clone()),
        _ => None,
    });
    assert_eq!(reason, "user 65533 is not allowed");
}

/// It would find zeros in its memory.
fn who_is_refused_with_its_memory_is_killed() {
    let rig = Rig::new(|config| config.handshake.memory = 8 * page_size() as u64);
    let socket = rig.listen("vm", Planned::new(64, &[], "0us"));
    let mut vmm = Vmm::start(&Part::new(&socket, 9));
    let pid = vmm.pid();
    assert_eq!(vmm.report(), None);
    assert_eq!(vmm.ended_by(), Some(9));
    let refused = rig.told("that it was refused", |event| match event {
        Event::Refused {
            pid,
            killed,
            reason,
            ..
        } => Some((*pid, *killed, reason.clone())),
        _ => None,
    });
    assert_eq!((refused.0, refused.1), (Some(pid), true));
    assert!(refused.2.contains("are allowed"), "{}", refused.2);
    assert_eq!(Vmm::start(&Part::new(&socket, 8)).sound_report().right, 16);
}
