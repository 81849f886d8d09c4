//! systemd: readiness, and its descriptor store, so that supervisor and worker may both die.
//!
//! The protocol of `sd_notify(3)` in a few lines: a datagram to `$NOTIFY_SOCKET`, descriptors by
//! `SCM_RIGHTS`. What is stored comes back as `$LISTEN_FDS` when the unit is started again.
//!
//! Every descriptor is stored by a name of its own. A memfd has the entry's record and the names of its
//! descriptors, in order, and is stored after them: where a record is found, all of its entry was
//! stored. systemd passes over a descriptor that it has already (`same_fd` in `service_add_fd_store`),
//! whatever its new name is; so what an entry has in common with the one that it replaces keeps its name.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IoSlice, Read as _, Seek as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, MemfdFlags, fstat, memfd_create};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, sendmsg_addr, socket_with,
};

use super::entries::{Entry, Record};

/// The way to systemd, if this process is a unit of it.
#[derive(Debug)]
pub(crate) struct Notify {
    socket: OwnedFd,
    address: SocketAddrUnix,
    /// What is stored, by the entries' keys.
    stored: BTreeMap<String, Stored>,
    next: u64,
}

/// An entry in the store.
#[derive(Debug)]
struct Stored {
    /// The name of its record.
    record: String,
    fds: Vec<StoredFd>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct StoredFd {
    name: String,
    /// Of a socket, of which an entry may have the same as the one before; others are new each time.
    socket: Option<(u64, u64)>,
}

/// What is written into a record.
type Written = (String, Record, Vec<String>);

const RECORD: &str = "surefault-record-";
const DESCRIPTOR: &str = "surefault-fd-";

impl Notify {
    /// `None` outside of systemd, or where the socket cannot be had.
    pub(crate) fn from_env() -> Option<Notify> {
        let path = std::env::var("NOTIFY_SOCKET").ok()?;
        let address = match path.strip_prefix('@') {
            Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes()).ok()?,
            None => SocketAddrUnix::new(&*path).ok()?,
        };
        let (family, kind) = (AddressFamily::UNIX, SocketType::DGRAM);
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None).ok()?;
        Some(Notify {
            socket,
            address,
            stored: BTreeMap::new(),
            next: 0,
        })
    }

    /// Everything is served.
    pub(crate) fn ready(&self) -> io::Result<()> {
        self.send("READY=1", &[])
    }

    /// Has an entry stored.
    pub(crate) fn store(&mut self, key: &str, entry: &Entry) -> io::Result<()> {
        let before = self.stored.remove(key);
        match self.store_after(key, entry, before.as_ref()) {
            Ok(stored) => {
                if let Some(before) = before {
                    self.remove(&before.record);
                    let mut over = before.fds.iter();
                    while let Some(fd) = over.find(|fd| !stored.fds.contains(fd)) {
                        self.remove(&fd.name);
                    }
                }
                self.stored.insert(key.to_owned(), stored);
                Ok(())
            }
            Err(error) => {
                self.stored.extend(before.map(|it| (key.to_owned(), it)));
                Err(error)
            }
        }
    }

    fn store_after(
        &mut self,
        key: &str,
        entry: &Entry,
        before: Option<&Stored>,
    ) -> io::Result<Stored> {
        let had = before.map_or(&[][..], |before| &before.fds);
        let mut fds = Vec::new();
        for fd in entry.borrowed() {
            let socket = socket_identity(fd);
            let same = had
                .iter()
                .find(|had| socket.is_some() && had.socket == socket);
            if let Some(same) = same {
                fds.push(same.clone());
                continue;
            }
            let name = self.name(DESCRIPTOR);
            self.send_fd(&name, fd)?;
            fds.push(StoredFd { name, socket });
        }
        let names = fds.iter().map(|fd| fd.name.clone()).collect();
        let written: Written = (key.to_owned(), entry.record.clone(), names);
        let mut memory = File::from(memfd_create("surefault-record", MemfdFlags::CLOEXEC)?);
        memory.write_all(&serde_json::to_vec(&written)?)?;
        let record = self.name(RECORD);
        self.send_fd(&record, memory.as_fd())?;
        Ok(Stored { record, fds })
    }

    /// Has an entry stored no longer.
    pub(crate) fn forget(&mut self, key: &str) {
        if let Some(stored) = self.stored.remove(key) {
            self.remove(&stored.record);
            for fd in &stored.fds {
                self.remove(&fd.name);
            }
        }
    }

    /// A name that nothing has.
    fn name(&mut self, kind: &str) -> String {
        self.next += 1;
        format!("{kind}{}", self.next)
    }

    fn send_fd(&self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.send(&format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}"), &[fd])
    }

    fn remove(&self, name: &str) {
        // What is not there need not be removed.
        let _ = self.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[]);
    }

    fn send(&self, text: &str, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
        }
        let data = [IoSlice::new(text.as_bytes())];
        let flags = SendFlags::NOSIGNAL;
        sendmsg_addr(&self.socket, &self.address, &data, &mut ancillary, flags)?;
        Ok(())
    }

    /// What was stored before this process was started, by name.
    ///
    /// To be called once, before anything opens a descriptor.
    pub(crate) fn stored(&mut self) -> Vec<(String, Entry)> {
        let (mut records, mut others) = (Vec::new(), BTreeMap::new());
        for (name, fd) in inherited::take() {
            let number = |kind| name.strip_prefix(kind)?.parse::<u64>().ok();
            self.next = self.next.max(number(DESCRIPTOR).unwrap_or(0));
            match number(RECORD) {
                Some(number) => records.push((number, name, fd)),
                None => drop(others.insert(name, fd)),
            }
        }
        // The newest first: one that it replaces may not have been removed yet.
        records.sort_unstable_by_key(|(number, _, _)| Reverse(*number));
        let mut entries = Vec::new();
        for (number, name, fd) in records {
            self.next = self.next.max(number);
            match read_record(fd) {
                Ok((key, record, names)) if !self.stored.contains_key(&key) => {
                    let fds: Vec<_> = names.iter().map_while(|name| others.remove(name)).collect();
                    let of = |(name, fd): (String, &OwnedFd)| StoredFd {
                        name,
                        socket: socket_identity(fd.as_fd()),
                    };
                    let stored = names.into_iter().zip(&fds).map(of).collect();
                    let stored = Stored {
                        record: name,
                        fds: stored,
                    };
                    self.stored.insert(key.clone(), stored);
                    entries.push((key, Entry { record, fds }));
                }
                Ok(_) | Err(_) => self.remove(&name),
            }
        }
        // Whose record was not stored was never acknowledged to its worker.
        for name in others.keys().filter(|name| name.starts_with(DESCRIPTOR)) {
            self.remove(name);
        }
        entries
    }
}

/// What tells one socket from another.
fn socket_identity(fd: BorrowedFd<'_>) -> Option<(u64, u64)> {
    let stat = fstat(fd).ok()?;
    let is_socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
    is_socket.then_some((stat.st_dev, stat.st_ino))
}

fn read_record(fd: OwnedFd) -> io::Result<Written> {
    let mut file = File::from(fd);
    let mut text = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

mod inherited {
    #![expect(unsafe_code, reason = "descriptors that were inherited come by number")]

    use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

    use rustix::io::{FdFlags, fcntl_setfd};

    /// The first of them, by `sd_listen_fds(3)`.
    const FIRST: RawFd = 3;

    /// The descriptors that systemd has passed to this process, with their names.
    pub(super) fn take() -> Vec<(String, OwnedFd)> {
        let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
        if number("LISTEN_PID") != Some(std::process::id()) {
            return Vec::new();
        }
        let count = number("LISTEN_FDS").unwrap_or(0);
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':').map(str::to_owned);
        let mut fds = Vec::new();
        for n in 0..RawFd::try_from(count).unwrap_or(0) {
            // SAFETY: by the protocol, whose variables name this very process, these descriptors are
            // open and meant for it; the caller asks once, before anything else is opened.
            let fd = unsafe { OwnedFd::from_raw_fd(FIRST + n) };
            if fcntl_setfd(&fd, FdFlags::CLOEXEC).is_ok() {
                fds.push((names.next().unwrap_or_default(), fd));
            } else {
                // It is not open after all, and nothing may close what has its number next.
                core::mem::forget(fd);
            }
        }
        fds
    }
}
