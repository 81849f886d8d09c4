//! The life of an instance: made, and removed by whoever is left.
//!
//! | state | what ends it |
//! |---|---|
//! | in use | [`Instance`] dropped: removed |
//! | its process was killed | the next [`Instance::make`] by anybody: removed |
//!
//! The name carries the maker's pid and start time, so that a pid that is in use again does not
//! protect what its predecessor left. An instance whose buffers are open cannot be removed
//! (`EBUSY`): a maker in another pid namespace, which looks gone from here, loses nothing.

use std::fs;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;

use crate::error::{Operation, TraceError};
use crate::kernel_fs::{Directory, KernelFs, failed};

const PREFIX: &str = "surefault";

/// Tells several sessions of one process apart.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// An instance of tracefs of our own, removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Instance {
    fs: KernelFs,
    path: String,
    directory: Option<Directory>,
}

impl Instance {
    /// Removes what killed predecessors left, and makes an instance.
    pub(crate) fn make(fs: KernelFs) -> Result<Instance, TraceError> {
        sweep(&fs)?;
        let pid = process::id();
        let start = start_time(pid).unwrap_or(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = format!("instances/{PREFIX}-{pid}-{start}-{number}");
        fs.make_directory(&path)
            .map_err(failed(Operation::MakeDirectory, &path))?;
        let mut instance = Instance {
            fs,
            path,
            directory: None,
        };
        instance.directory = Some(instance.fs.directory(&instance.path)?);
        Ok(instance)
    }

    pub(crate) fn directory(&self) -> &Directory {
        let directory = self.directory.as_ref();
        directory.expect("open from when the instance is made until it is dropped")
    }

    pub(crate) fn fs(&self) -> &KernelFs {
        &self.fs
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.directory = None;
        // Whoever holds a buffer open besides us keeps the instance; the next session removes it.
        let _ = self.fs.remove_directory(&self.path);
    }
}

/// Removes the instances whose makers are gone.
fn sweep(fs: &KernelFs) -> Result<(), TraceError> {
    for name in fs.list("instances")? {
        if maker(&name).is_some_and(|maker| !maker.is_alive()) {
            match fs.remove_directory(&format!("instances/{name}")) {
                Ok(()) => {}
                // In use after all, or another session was faster.
                Err(TraceError::File {
                    errno: Errno::BUSY | Errno::NOENT,
                    ..
                }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Who made an instance, by its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Maker {
    pid: u32,
    start: u64,
}

impl Maker {
    fn is_alive(self) -> bool {
        start_time(self.pid) == Some(self.start)
    }
}

/// `None` when the name is not one of ours.
fn maker(name: &str) -> Option<Maker> {
    let mut parts = name.strip_prefix(PREFIX)?.strip_prefix('-')?.split('-');
    let maker = Maker {
        pid: parts.next()?.parse().ok()?,
        start: parts.next()?.parse().ok()?,
    };
    let _number: u32 = parts.next()?.parse().ok()?;
    parts.next().is_none().then_some(maker)
}

/// When the process started, in clock ticks since boot; `None` when there is no such process.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name, in parentheses, may contain anything; `starttime` is the 22nd field.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_names_are_ours() {
        let maker_of = |name| maker(name).map(|maker| (maker.pid, maker.start));
        assert_eq!(maker_of("surefault-12-345-0"), Some((12, 345)));
        for foreign in [
            "surefault",
            "surefault-12",
            "surefault-12-345",
            "surefault-12-345-0-1",
            "surefault-a-345-0",
            "surefaults-12-345-0",
            "trace-12-345-0",
        ] {
            assert_eq!(maker_of(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn a_pid_that_is_used_again_is_another_process() {
        let start = start_time(process::id()).expect("we are there");
        let alive = Maker {
            pid: process::id(),
            start,
        };
        assert!(alive.is_alive());
        let before = Maker {
            start: start - 1,
            ..alive
        };
        assert!(!before.is_alive());
    }
}
