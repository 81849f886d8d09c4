//! systemd: readiness, and its descriptor store, so that supervisor and worker may both die.
//!
//! The protocol of `sd_notify(3)` in a few lines: a datagram to `$NOTIFY_SOCKET`, descriptors by
//! `SCM_RIGHTS`. What is stored comes back as `$LISTEN_FDS` when the unit is started again. Each entry
//! is stored as its record, in a memfd, and its descriptors; the name says which is which.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IoSlice, Read as _, Seek as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, sendmsg_addr, socket_with,
};

use super::entries::Entry;

/// The way to systemd, if this process is a unit of it.
#[derive(Debug)]
pub(crate) struct Notify {
    socket: OwnedFd,
    address: SocketAddrUnix,
    /// What the entries' descriptors are stored by.
    names: BTreeMap<String, u64>,
    next: u64,
}

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
            names: BTreeMap::new(),
            next: 0,
        })
    }

    /// Everything is served.
    pub(crate) fn ready(&self) -> io::Result<()> {
        self.send("READY=1", &[])
    }

    /// Has an entry stored.
    pub(crate) fn store(&mut self, key: &str, entry: &Entry) -> io::Result<()> {
        let number = self.next;
        self.next += 1;
        let record = serde_json::to_vec(&(key, &entry.record))?;
        let mut memory = File::from(memfd_create("surefault-record", MemfdFlags::CLOEXEC)?);
        memory.write_all(&record)?;
        self.send(
            &format!("FDSTORE=1\nFDPOLL=0\nFDNAME=surefault-{number}-record"),
            &[memory.as_fd()],
        )?;
        for (n, fd) in entry.fds.iter().enumerate() {
            let text = format!("FDSTORE=1\nFDPOLL=0\nFDNAME=surefault-{number}-{n}");
            self.send(&text, &[fd.as_fd()])?;
        }
        if let Some(old) = self.names.insert(key.to_owned(), number) {
            self.remove(old);
        }
        Ok(())
    }

    /// Has an entry stored no longer.
    pub(crate) fn forget(&mut self, key: &str) {
        if let Some(number) = self.names.remove(key) {
            self.remove(number);
        }
    }

    fn remove(&self, number: u64) {
        for part in ["record", "0", "1", "2", "3"] {
            // What is not there need not be removed.
            let _ = self.send(
                &format!("FDSTOREREMOVE=1\nFDNAME=surefault-{number}-{part}"),
                &[],
            );
        }
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
        let mut parts: BTreeMap<u64, BTreeMap<String, OwnedFd>> = BTreeMap::new();
        for (name, fd) in inherited::take() {
            let mut words = name.splitn(3, '-');
            let (Some("surefault"), Some(number), Some(part)) =
                (words.next(), words.next(), words.next())
            else {
                continue;
            };
            if let Ok(number) = number.parse() {
                parts.entry(number).or_default().insert(part.to_owned(), fd);
            }
        }
        let mut entries = Vec::new();
        for (number, mut parts) in parts {
            self.next = self.next.max(number + 1);
            let record = parts.remove("record").and_then(|fd| read_record(fd).ok());
            // The store is not atomic: half an entry was never acknowledged to its worker.
            let Some((key, record)) = record else {
                continue;
            };
            self.names.insert(key.clone(), number);
            let fds = parts.into_values().collect();
            entries.push((key, Entry { record, fds }));
        }
        entries
    }
}

fn read_record(fd: OwnedFd) -> io::Result<(String, super::entries::Record)> {
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
