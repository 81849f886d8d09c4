//! Pages of files: too short, full, unreadable.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::fs::{SeekFrom, StatFs};
use rustix::io::Errno;
use surefault_core::Hva;

use crate::cause::{Cause, CauseKind};
use crate::ids::Pid;
use crate::proc::maps::{self, Mapping};

const HUGETLBFS_MAGIC: u64 = 0x958458f6;
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// Why the page of the mapping's file does not come; `None` when the file does not explain it.
pub(super) fn cause(
    pid: Pid,
    hva: Hva,
    mapping: &Mapping,
    path: Option<&str>,
    probe: Duration,
) -> Option<Cause> {
    let openable = maps::openable(pid, mapping)?;
    let name = path.unwrap_or(&mapping.path);
    let page_size = crate::proc::pagemap::page_size();
    let offset = mapping.file_offset(hva.page_base(page_size));
    let metadata = std::fs::metadata(&openable).ok()?;
    if metadata.is_file() && metadata.len() <= offset {
        return Some(truncated(name, metadata.len(), offset, mapping));
    }
    let fs = rustix::fs::statfs(&openable).ok()?;
    let magic = fs.f_type as u64;
    if magic == HUGETLBFS_MAGIC {
        return hugetlb(fs.f_bsize as u64);
    }
    if is_full(&fs) && is_hole(&openable, offset) {
        return Some(no_space(name, offset));
    }
    if magic == TMPFS_MAGIC {
        // Its pages are nowhere but in memory: reading one explains nothing.
        return None;
    }
    unreadable(openable, name, offset, page_size.buffer_len(), probe)
}

fn truncated(name: &str, len: u64, offset: u64, mapping: &Mapping) -> Cause {
    let needed = mapping.file_end();
    Cause::new(
        CauseKind::Truncated,
        format!(
            "the file has {len} bytes, the page starts at {offset}, and the mapping goes on to \
             {needed}"
        ),
        format!(
            "put back what was cut off, or extend the file: truncate -s {needed} '{name}'; or stop the VM"
        ),
    )
}

/// hugetlbfs says itself how large its pages are; how many are left stands in sysfs.
fn hugetlb(page_bytes: u64) -> Option<Cause> {
    let directory = format!("/sys/kernel/mm/hugepages/hugepages-{}kB", page_bytes / 1024);
    let count = |file: &str| -> Option<u64> {
        let text = std::fs::read_to_string(format!("{directory}/{file}")).ok()?;
        text.trim().parse().ok()
    };
    let (free, reserved) = (count("free_hugepages")?, count("resv_hugepages")?);
    let total = count("nr_hugepages")?;
    (free <= reserved).then(|| {
        Cause::new(
            CauseKind::HugetlbExhausted,
            format!(
                "no huge page of {} KiB is left: {total} in the pool, {free} free, of which \
                 {reserved} are reserved for others",
                page_bytes / 1024
            ),
            format!("enlarge the pool: echo N > {directory}/nr_hugepages; or stop the VM"),
        )
    })
}

/// A file system that counts its blocks, and has none left.
fn is_full(fs: &StatFs) -> bool {
    fs.f_blocks > 0 && fs.f_bavail == 0
}

fn is_hole(path: &Path, offset: u64) -> bool {
    let data = File::open(path)
        .map_err(|error| error.raw_os_error())
        .and_then(|file| {
            rustix::fs::seek(file, SeekFrom::Data(offset)).map_err(|e| Some(e.raw_os_error()))
        });
    match data {
        Ok(data) => data > offset,
        // Not a single byte of data behind the offset.
        Err(errno) => errno == Some(Errno::NXIO.raw_os_error()),
    }
}

fn no_space(name: &str, offset: u64) -> Cause {
    Cause::new(
        CauseKind::NoSpace,
        format!("the page at {offset} is a hole of the file, and its file system is full"),
        format!("make room on the file system of '{name}'; or stop the VM"),
    )
}

/// Reads the page, in a thread that is left to itself when the read does not end.
fn unreadable(
    path: PathBuf,
    name: &str,
    offset: u64,
    length: usize,
    probe: Duration,
) -> Option<Cause> {
    let (sender, receiver) = mpsc::channel();
    let read = move || -> io::Result<usize> {
        let mut page = vec![0; length];
        File::open(path)?.read_at(&mut page, offset)
    };
    thread::Builder::new()
        .name("watch-probe".to_owned())
        .spawn(move || drop(sender.send(read())))
        .ok()?;
    let text = match receiver.recv_timeout(probe) {
        Ok(Ok(_)) => return None,
        Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => return None,
        Ok(Err(error)) => format!("reading the file at {offset} fails: {error}"),
        Err(_) => format!("reading the file at {offset} does not end within {probe:?}"),
    };
    let remedy = format!("look for errors of the storage below '{name}' (dmesg); or stop the VM");
    Some(Cause::new(CauseKind::Io, text, remedy))
}
