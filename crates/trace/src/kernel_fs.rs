//! tracefs and debugfs: where they are mounted, or on no path at all.

use core::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::error::{Operation, TraceError};

/// A file system in which the kernel shows itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum KernelFsKind {
    /// Trace events and their buffers.
    Tracefs,
    /// Statistics of KVM, among others.
    Debugfs,
}

impl KernelFsKind {
    const fn name(self) -> &'static str {
        match self {
            KernelFsKind::Tracefs => "tracefs",
            KernelFsKind::Debugfs => "debugfs",
        }
    }

    /// `TRACEFS_MAGIC`, `DEBUGFS_MAGIC`: an empty mount point is a directory of another file
    /// system, and looks just as good until something is opened in it.
    const fn magic(self) -> u64 {
        match self {
            KernelFsKind::Tracefs => 0x7472_6163,
            KernelFsKind::Debugfs => 0x6462_6720,
        }
    }

    const fn mount_points(self) -> &'static [&'static str] {
        match self {
            KernelFsKind::Tracefs => &["/sys/kernel/tracing", "/sys/kernel/debug/tracing"],
            KernelFsKind::Debugfs => &["/sys/kernel/debug"],
        }
    }
}

impl fmt::Display for KernelFsKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The root directory of a mounted file system of the kernel.
#[derive(Debug)]
pub struct KernelFs {
    root: OwnedFd,
}

impl KernelFs {
    /// Opens the file system where it is mounted; where it is not, mounts it on no path
    /// (`fsopen(2)`, `fsmount(2)`, Linux 5.2): the mount lives as long as this value, and nobody
    /// else sees it.
    ///
    /// # Errors
    /// [`TraceError::Mount`] when it is not mounted and mounting it is not possible.
    pub fn open(kind: KernelFsKind) -> Result<KernelFs, TraceError> {
        for path in kind.mount_points() {
            if let Ok(root) = rustix::fs::open(*path, directory(), Mode::empty())
                && rustix::fs::fstatfs(&root).is_ok_and(|fs| fs.f_type as u64 == kind.magic())
            {
                return Ok(KernelFs { root });
            }
        }
        let root = mount(kind).map_err(|errno| TraceError::Mount { kind, errno })?;
        Ok(KernelFs { root })
    }

    /// Opens the directory `path`.
    ///
    /// # Errors
    /// [`TraceError::File`].
    pub fn directory(&self, path: &str) -> Result<Directory, TraceError> {
        let fd = rustix::fs::openat(&self.root, path, directory(), Mode::empty())
            .map_err(failed(Operation::Open, path))?;
        Ok(Directory {
            fd,
            path: path.to_owned(),
        })
    }

    /// The text of the file `path`.
    ///
    /// # Errors
    /// [`TraceError::File`].
    pub fn read(&self, path: &str) -> Result<String, TraceError> {
        read_at(self.root.as_fd(), path).map_err(failed(Operation::Read, path))
    }

    /// The names in the directory `path`, sorted.
    ///
    /// # Errors
    /// [`TraceError::File`].
    pub fn list(&self, path: &str) -> Result<Vec<String>, TraceError> {
        self.directory(path)?.list()
    }

    pub(crate) fn make_directory(&self, path: &str) -> Result<(), Errno> {
        rustix::fs::mkdirat(&self.root, path, Mode::from_raw_mode(0o700))
    }

    pub(crate) fn remove_directory(&self, path: &str) -> Result<(), TraceError> {
        rustix::fs::unlinkat(&self.root, path, AtFlags::REMOVEDIR)
            .map_err(failed(Operation::RemoveDirectory, path))
    }
}

/// A directory within a [`KernelFs`].
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
    path: String,
}

impl Directory {
    /// The names in it, sorted.
    ///
    /// # Errors
    /// [`TraceError::File`].
    pub fn list(&self) -> Result<Vec<String>, TraceError> {
        let read = || -> Result<Vec<String>, Errno> {
            let mut names = Vec::new();
            for entry in rustix::fs::Dir::read_from(&self.fd)? {
                let entry = entry?;
                match entry.file_name().to_str() {
                    Ok("." | "..") | Err(_) => {}
                    Ok(name) => names.push(name.to_owned()),
                }
            }
            names.sort();
            Ok(names)
        };
        read().map_err(failed(Operation::Read, &self.path))
    }

    /// The text of the file `name`.
    ///
    /// # Errors
    /// [`TraceError::File`].
    pub fn read(&self, name: &str) -> Result<String, TraceError> {
        read_at(self.fd.as_fd(), name).map_err(failed(Operation::Read, &self.join(name)))
    }

    /// Writes `text` into the file `name`, in one call.
    ///
    /// # Errors
    /// [`TraceError::File`].
    pub fn write(&self, name: &str, text: &str) -> Result<(), TraceError> {
        let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, name, flags, Mode::empty())
            .and_then(|file| rustix::io::write(file, text.as_bytes()))
            .map(|_| ())
            .map_err(failed(Operation::Write, &self.join(name)))
    }

    /// Opens the directory `name` within this one.
    ///
    /// # Errors
    /// [`TraceError::File`].
    pub fn subdirectory(&self, name: &str) -> Result<Directory, TraceError> {
        let path = self.join(name);
        let fd = rustix::fs::openat(&self.fd, name, directory(), Mode::empty())
            .map_err(failed(Operation::Open, &path))?;
        Ok(Directory { fd, path })
    }

    /// Opens the file `name` for reads that do not wait.
    pub(crate) fn open_nonblocking(&self, name: &str) -> Result<OwnedFd, TraceError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, name, flags, Mode::empty())
            .map_err(failed(Operation::Open, &self.join(name)))
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn join(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }
}

pub(crate) fn failed(operation: Operation, path: &str) -> impl FnOnce(Errno) -> TraceError {
    let path = path.to_owned();
    move |errno| TraceError::File {
        operation,
        path,
        errno,
    }
}

const fn directory() -> OFlags {
    OFlags::RDONLY
        .union(OFlags::DIRECTORY)
        .union(OFlags::CLOEXEC)
}

fn mount(kind: KernelFsKind) -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen(kind.name(), FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mount = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    // What fsmount gives is an O_PATH descriptor: a directory can be listed only when opened.
    rustix::fs::openat(mount, ".", directory(), Mode::empty())
}

fn read_at(directory: BorrowedFd<'_>, name: &str) -> Result<String, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match rustix::io::read(&file, &mut chunk) {
            Ok(0) => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Ok(read) => bytes.extend_from_slice(&chunk[..read]),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
