//! A process that hands over its userfaultfd and goes away.

use std::io::{IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use surefault_uffd::{
    Address, Features, Outcome, PageRange, RegisterMode, Userfaultfd, Wake, host_page_size,
};

use crate::{Case, create, register};
use surefault_testkit::{Backing, Mapping, bytes};

/// The argument that makes this program play the other process.
pub(crate) const CHILD: &str = "--be-the-served-process";

pub(crate) const CASES: &[Case] = &[Case {
    name: "a_dead_process_is_gone",
    needs: Features::empty(),
    run: a_dead_process_is_gone,
}];

/// Makes a registered page, sends address and descriptor to the socket that is its standard input,
/// touches the page once, and ends.
pub(crate) fn child() {
    let uffd = create(Features::empty());
    let mapping = Mapping::new(Backing::Anonymous, 2);
    register(&uffd, &mapping, RegisterMode::MISSING);
    let fds = [uffd.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let address = mapping.all().start().get().to_ne_bytes();
    let data = [IoSlice::new(&address)];
    let stdin = std::io::stdin();
    rustix::net::sendmsg(&stdin, &data, &mut control, SendFlags::empty()).expect("sendmsg");
    let byte = mapping.load(0);
    std::io::stdout().write_all(&[byte]).expect("write");
}

fn a_dead_process_is_gone() {
    let (ours, theirs) = UnixStream::pair().expect("socketpair");
    let program = std::env::current_exe().expect("this program");
    let child = Command::new(program)
        .arg(CHILD)
        .stdin(std::os::fd::OwnedFd::from(theirs))
        .stdout(Stdio::piped())
        .spawn()
        .expect("spawn");

    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut address = [0; 8];
    let mut data = [IoSliceMut::new(&mut address)];
    rustix::net::recvmsg(&ours, &mut data, &mut control, RecvFlags::CMSG_CLOEXEC).expect("recvmsg");
    let fd = control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        })
        .expect("a descriptor");
    let uffd = Userfaultfd::from_fd(fd).expect("a userfaultfd");
    let start = Address::new(u64::from_ne_bytes(address));
    let pages = PageRange::new(start, 2 * host_page_size(), host_page_size()).expect("two pages");

    // Another process's page is served like one's own.
    let first = pages.first_page();
    assert_eq!(
        uffd.copy(first, &bytes(1, 42), Wake::Now),
        Ok(Outcome::Done)
    );
    let output = child.wait_with_output().expect("the child ends");
    assert_eq!(output.stdout, [42]);

    let second = pages.after(host_page_size()).expect("one more");
    assert_eq!(
        uffd.copy(second, &bytes(1, 1), Wake::Now),
        Ok(Outcome::Gone)
    );
    assert_eq!(uffd.zeropage(second, Wake::Now), Ok(Outcome::Gone));
    assert_eq!(uffd.wake(second), Ok(()));
}
