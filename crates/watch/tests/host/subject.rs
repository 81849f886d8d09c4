//! The processes that are watched: this program again, told what to be.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::mm::MapFlags;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use surefault_uffd::{
    Address, Event, EventBuffer, Features, Options, Outcome, PageRange, Read, RegisterMode,
    Userfaultfd, Wake,
};

use crate::memory::Mapping;
use crate::vm::{Vm, limit_life};

/// The first argument of a process that is watched.
pub(crate) const CHILD: &str = "--subject";
/// No process that is watched lives longer, in seconds.
const LIFE: u64 = 60;

pub(crate) const PAGE: usize = 4096;
const HUGE_PAGE: usize = 2 << 20;
/// Pages of the guest's data.
pub(crate) const PAGES: usize = 8;
/// The one that cannot be had, where there is one.
pub(crate) const BAD: usize = 5;

/// What a process is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// A VM in a memfd that is shorter than its mapping.
    TruncatedMemfd,
    /// A VM in the file that `SUBJECT_FILE` names.
    File,
    /// A VM in a sparse file on a full file system.
    Full,
    /// A VM on huge pages of which there are none.
    Hugetlb,
    /// A VM whose userfaultfd lets accesses fail.
    FailingUserfaultfd,
    /// A VM that faults asynchronously, again and again, and gets each page.
    Healthy,
    /// A VM whose handler is another process, the second line of what it says.
    Handled,
    /// A process that waits for a userfaultfd that nobody reads.
    Unanswered,
    /// The handler of another.
    Handler,
}

const KINDS: [(&str, Kind); 9] = [
    ("truncated-memfd", Kind::TruncatedMemfd),
    ("file", Kind::File),
    ("full", Kind::Full),
    ("hugetlb", Kind::Hugetlb),
    ("failing-userfaultfd", Kind::FailingUserfaultfd),
    ("healthy", Kind::Healthy),
    ("handled", Kind::Handled),
    ("unanswered", Kind::Unanswered),
    ("handler", Kind::Handler),
];

/// A process that is watched; killed when this is dropped.
pub(crate) struct Subject {
    child: Child,
    /// The address of its data.
    pub(crate) data: u64,
    /// Its handler, when that is a process of its own.
    pub(crate) handler: Option<u32>,
}

impl Subject {
    pub(crate) fn start(kind: Kind) -> Subject {
        Subject::start_with(kind, "")
    }

    pub(crate) fn start_with(kind: Kind, file: &str) -> Subject {
        let mut child = command(kind)
            .env("SUBJECT_FILE", file)
            .stdout(Stdio::piped())
            .spawn()
            .expect("spawn");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut number = || -> u64 {
            let line = lines.next().expect("a line").expect("read");
            line.parse().expect("a number")
        };
        let data = number();
        let handler = (kind == Kind::Handled).then(|| number() as u32);
        Subject {
            child,
            data,
            handler,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(kind: Kind) -> Command {
    let name = KINDS.iter().find(|(_, known)| *known == kind);
    let mut command = Command::new(std::env::current_exe().expect("our program"));
    command.args([CHILD, name.expect("all kinds have a name").0]);
    command
}

/// Plays one of the kinds.
pub(crate) fn child(name: &str) {
    limit_life(Duration::from_secs(LIFE));
    let kind = KINDS.iter().find(|(known, _)| *known == name);
    match kind.expect("a kind").1 {
        Kind::TruncatedMemfd => {
            let file = memfd((PAGES * PAGE) as u64);
            let data = Mapping::file(&file, PAGES * PAGE);
            file.set_len((BAD * PAGE) as u64).expect("truncate");
            run(&data, PAGES);
        }
        Kind::File => {
            let path = std::env::var("SUBJECT_FILE").expect("a path");
            let file = File::options().read(true).write(true).open(path);
            let file = file.expect("open");
            run(&Mapping::file(&file, PAGES * PAGE), PAGES);
        }
        Kind::Full => run(&Mapping::file(&full_file(), PAGES * PAGE), PAGES),
        Kind::Hugetlb => {
            let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::HUGETLB;
            run(&Mapping::flags(HUGE_PAGE, flags), PAGES);
        }
        Kind::FailingUserfaultfd => {
            let (data, _uffd) = registered(PAGES, Features::SIGBUS);
            run(&data, PAGES);
        }
        Kind::Healthy => healthy(),
        Kind::Handled => handled(),
        Kind::Unanswered => {
            let (data, _uffd) = registered(PAGES, Features::empty());
            announce(data.address());
            data.touch(BAD * PAGE);
        }
        Kind::Handler => {
            let stdin = std::io::stdin().as_fd().try_clone_to_owned();
            let uffd = Userfaultfd::from_fd(stdin.expect("a descriptor"));
            serve(&uffd.expect("a userfaultfd"));
        }
    }
}

fn announce(number: u64) {
    println!("{number}");
    std::io::stdout().flush().expect("stdout");
}

fn run(data: &Mapping, pages: usize) {
    announce(data.address());
    Vm::new(data, pages as u64).run(|| {});
}

fn memfd(len: u64) -> File {
    let file = File::from(rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC).expect("memfd"));
    file.set_len(len).expect("set length");
    file
}

/// A sparse file of [`PAGES`] pages on a tmpfs that is mounted nowhere and has room for none.
fn full_file() -> File {
    let fs = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).expect("fsopen");
    rustix::mount::fsconfig_set_string(&fs, "size", "64k").expect("size");
    rustix::mount::fsconfig_create(&fs).expect("create");
    let mount = rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty());
    let mount = mount.expect("fsmount");
    let open = |name| {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        File::from(rustix::fs::openat(&mount, name, flags, Mode::RUSR).expect("create"))
    };
    let file = open("guest");
    file.set_len((PAGES * PAGE) as u64).expect("set length");
    // The bad page and those behind it are holes when the file system is full.
    (&file).write_all(&[1; BAD * PAGE]).expect("write");
    let mut ballast = open("ballast");
    while ballast.write(&[2; PAGE]).is_ok_and(|written| written > 0) {}
    file
}

fn registered(pages: usize, features: Features) -> (Mapping, Userfaultfd) {
    let data = Mapping::anonymous(pages * PAGE);
    let uffd = Userfaultfd::create(Options {
        required: features,
        ..Options::default()
    });
    let uffd = uffd.expect("a userfaultfd");
    let len = (pages * PAGE) as u64;
    let range = PageRange::new(Address::new(data.address()), len, PAGE as u64).expect("a range");
    // SAFETY: nothing relies on what the mapping's absent pages contain.
    unsafe { uffd.register(range, RegisterMode::MISSING) }.expect("register");
    (data, uffd)
}

/// Gives each page that is asked for.
fn serve(uffd: &Userfaultfd) {
    let mut buffer = EventBuffer::with_capacity(16);
    loop {
        let mut fds = [PollFd::new(uffd, PollFlags::IN)];
        rustix::event::poll(&mut fds, None).expect("poll");
        let Read::Events(events) = uffd.read(&mut buffer).expect("read") else {
            continue;
        };
        for event in events {
            if let Event::Pagefault(fault) = event {
                let address = Address::new(fault.address.get() & !(PAGE as u64 - 1));
                let page = PageRange::new(address, PAGE as u64, PAGE as u64).expect("a page");
                let outcome = uffd.copy(page, &[7; PAGE], Wake::Now).expect("copy");
                match outcome {
                    Outcome::Done | Outcome::Partial { .. } => {}
                    Outcome::Gone => return,
                    Outcome::AlreadyThere | Outcome::Again | Outcome::NoRegion => {
                        uffd.wake(page).expect("wake");
                    }
                }
            }
        }
    }
}

/// Every page comes through a userfaultfd, and is dropped when all have been read.
fn healthy() {
    const MANY: usize = 4096;
    let (data, uffd) = registered(MANY, Features::empty());
    thread::spawn(move || serve(&uffd));
    announce(data.address());
    Vm::new(&data, MANY as u64).run(|| data.discard());
}

fn handled() {
    let (data, uffd) = registered(PAGES, Features::empty());
    let fd: OwnedFd = uffd.as_fd().try_clone_to_owned().expect("duplicate");
    let mut handler = command(Kind::Handler).stdin(fd).spawn().expect("spawn");
    announce(data.address());
    announce(u64::from(handler.id()));
    thread::spawn(move || handler.wait());
    Vm::new(&data, PAGES as u64).run(|| data.discard());
}
