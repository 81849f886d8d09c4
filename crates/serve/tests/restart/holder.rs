//! Supervisor and worker both die; somebody else holds their descriptors, as systemd does: here this
//! test, which speaks its protocol.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tempfile::TempDir;

use crate::rig::{NONE, Rig, SUPERVISOR, is_full, now_ns, spread};

crate::cases![both_die_and_the_descriptors_are_kept];

/// What is stored, by name.
type Stored = Arc<Mutex<BTreeMap<String, OwnedFd>>>;

/// The part of systemd.
struct Holder {
    dir: TempDir,
    stored: Stored,
    ready: Arc<Mutex<u32>>,
}

impl Holder {
    fn new() -> Holder {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = UnixDatagram::bind(dir.path().join("notify")).expect("a socket");
        let (stored, ready) = (Stored::default(), Arc::<Mutex<u32>>::default());
        let (keeps, counts) = (Arc::clone(&stored), Arc::clone(&ready));
        std::thread::spawn(move || {
            while let Some((text, fd)) = receive(&socket) {
                let field = |name: &str| {
                    let mut lines = text.lines();
                    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
                };
                let mut stored = keeps.lock().expect("no panic");
                match (field("FDNAME"), fd) {
                    (Some(name), Some(fd)) if field("FDSTORE") == Some("1") => {
                        // By any name: systemd compares files.
                        if !stored.values().any(|kept| same_file::is(kept, &fd)) {
                            stored.insert(name.to_owned(), fd);
                        }
                    }
                    (Some(name), None) if field("FDSTOREREMOVE") == Some("1") => {
                        stored.remove(name);
                    }
                    _ if field("READY") == Some("1") => *counts.lock().expect("no panic") += 1,
                    _ => panic!("{text:?}"),
                }
            }
        });
        Holder { dir, stored, ready }
    }

    fn socket(&self) -> String {
        let socket = self.dir.path().join("notify");
        socket.to_str().expect("a plain name").to_owned()
    }

    /// Starts a supervisor again, which inherits what is stored.
    fn start(&self, rig: &Rig) -> Child {
        let stored = self.stored.lock().expect("no panic");
        let names: Vec<_> = stored.keys().cloned().collect();
        let fds: Vec<i32> = stored.values().map(|fd| fd.as_raw_fd()).collect();
        // The variables name the very process that they are for.
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg("LISTEN_PID=$$ exec \"$0\"")
            .arg(std::env::current_exe().expect("this test's binary"))
            .env(SUPERVISOR, serde_json::to_string(&rig.plan).expect("JSON"))
            .env("NOTIFY_SOCKET", self.socket())
            .env("LISTEN_FDS", fds.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"))
            .stdin(Stdio::null());
        inherit::pass(&mut command, fds);
        command.spawn().expect("a supervisor")
    }
}

fn receive(socket: &UnixDatagram) -> Option<(String, Option<OwnedFd>)> {
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC).ok()?;
    let fd = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let text = String::from_utf8_lossy(&bytes[..received.bytes]).into_owned();
    Some((text, fd))
}

fn both_die_and_the_descriptors_are_kept() {
    let rounds = if is_full() { 50 } else { 4 };
    let holder = Holder::new();
    let mut rig = Rig::with(
        |plan| plan.latency = "1ms".to_owned(),
        |command| {
            command.env("NOTIFY_SOCKET", holder.socket());
        },
    );
    let mut vms = rig.served_vms(2, |part| part.balloon = part.pages / 3);
    let mut freezes = Vec::new();
    for _ in 0..rounds {
        let killed = now_ns();
        rig.supervisor.kill().expect("killed");
        rig.supervisor.wait().expect("dead");
        rig.supervisor = holder.start(&rig);
        let (served, _) = rig.worker_after(killed);
        freezes.push(std::time::Duration::from_nanos(served - killed));
        std::thread::sleep(std::time::Duration::from_millis(60));
    }
    for vm in &mut vms {
        let report = vm.sound_report();
        assert_eq!(report.failed, NONE, "{report:?}");
    }
    drop(vms);
    println!("both died, {}", spread(freezes));
    assert_eq!(*holder.ready.lock().expect("no panic"), rounds + 1);
    // What is over is not kept: the sockets are.
    crate::rig::until("the VMs are forgotten", || {
        holder.stored.lock().expect("no panic").len() == 4
    });
    // And it still takes VMs in.
    let mut other = rig.vm(|part| part.pages = 64);
    assert_eq!(other.sound_report().failed, NONE);
}

mod same_file {
    #![expect(unsafe_code, reason = "a system call that no library has")]

    use std::os::fd::{AsRawFd as _, OwnedFd};

    /// `KCMP_FILE` of `linux/kcmp.h`: whether two descriptors are of the same open file.
    const KCMP_FILE: libc::c_int = 0;

    pub(super) fn is(one: &OwnedFd, other: &OwnedFd) -> bool {
        let (pid, fds) = (std::process::id(), [one.as_raw_fd(), other.as_raw_fd()]);
        // SAFETY: it compares, and nothing else.
        let order = unsafe { libc::syscall(libc::SYS_kcmp, pid, pid, KCMP_FILE, fds[0], fds[1]) };
        assert!(order >= 0, "kcmp: {}", std::io::Error::last_os_error());
        order == 0
    }
}

mod inherit {
    #![expect(
        unsafe_code,
        reason = "descriptors are put in place between fork and exec"
    )]

    use std::io;
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;

    /// Beyond every descriptor that this test has.
    const FAR: i32 = 400;

    /// Has the child inherit `fds` as 3, 4, …
    pub(super) fn pass(command: &mut Command, fds: Vec<i32>) {
        let place = move || {
            for (&fd, n) in fds.iter().zip(0..) {
                // SAFETY: a system call on a number.
                if unsafe { libc::dup3(fd, FAR + n, libc::O_CLOEXEC) } < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            for (_, n) in fds.iter().zip(0..) {
                // SAFETY: as above.
                if unsafe { libc::dup2(FAR + n, 3 + n) } < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        };
        // SAFETY: it does nothing but system calls, which is allowed after a fork.
        unsafe { command.pre_exec(place) };
    }
}
