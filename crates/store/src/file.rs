//! A raw file, or a block device: byte `n` of the guest's memory is byte `n` of the file.

#[cfg(test)]
mod tests;

use core::fmt;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FileType, Mode, OFlags, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};
use surefault_core::PageSize;
use thiserror::Error;

use crate::{ReadRequest, Store, StoreError};

/// A file or block device, read with `pread`.
///
/// It may be cut short while it is in use: reads past the new end then fail with both sizes, and
/// those before it go on.
#[derive(Debug)]
pub struct FileStore {
    file: OwnedFd,
    path: PathBuf,
    size: u64,
    /// Whether the file system has ever said that it cannot tell what is in memory.
    no_nowait: AtomicBool,
}

/// What something is that is no regular file and no block device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileKind {
    /// A directory.
    Directory,
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharacterDevice,
    /// Something else.
    Unknown,
}

/// Why a file cannot be the source of a guest's memory.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum OpenError {
    /// There is none.
    #[error("there is no file {}", path.display())]
    Missing {
        /// Where it should have been.
        path: PathBuf,
    },
    /// It may not be read.
    #[error("{} may not be read by this process", path.display())]
    Permission {
        /// The file.
        path: PathBuf,
    },
    /// It is not a file with bytes at offsets.
    #[error("{} is {kind}: expected a file or a block device", path.display())]
    NotAFile {
        /// What was named.
        path: PathBuf,
        /// What it is.
        kind: FileKind,
    },
    /// It has no bytes.
    #[error("{} is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Its last page is not whole.
    #[error("{} has {size} bytes, which is not a multiple of the page size, {page_size}", path.display())]
    PartialPage {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The page size.
        page_size: PageSize,
    },
    /// It has fewer bytes than the guest has memory.
    #[error("{} has {size} bytes, and {needed} are needed", path.display())]
    TooSmall {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// It could not be opened for another reason.
    #[error("cannot open {}", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        errno: Errno,
    },
}

impl FileStore {
    /// Opens the file at `path`, which must have whole pages of `page_size` and at least `needed`
    /// bytes. Never waits: a FIFO without a writer is refused like any other.
    ///
    /// # Errors
    /// [`OpenError`], one variant for each thing that can be wrong with it.
    pub fn open(path: &Path, page_size: PageSize, needed: u64) -> Result<FileStore, OpenError> {
        let store = FileStore::open_as_it_is(path)?;
        let (path, size) = (store.path.clone(), store.size);
        if size == 0 {
            return Err(OpenError::Empty { path });
        }
        if size % page_size.bytes() != 0 {
            return Err(OpenError::PartialPage {
                path,
                size,
                page_size,
            });
        }
        if size < needed {
            return Err(OpenError::TooSmall { path, size, needed });
        }
        Ok(store)
    }

    /// Opens the file at `path`, however long it is: what lies beyond its end fails when it is read.
    /// Never waits for a writer either.
    ///
    /// # Errors
    /// [`OpenError`], without those about its size.
    pub fn open_as_it_is(path: &Path) -> Result<FileStore, OpenError> {
        let path = path.to_owned();
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(file) => file,
            Err(errno) => return Err(OpenError::of_errno(path, errno)),
        };
        let size = match size_of(&file) {
            Ok(Size::Bytes(size)) => size,
            Ok(Size::None(kind)) => return Err(OpenError::NotAFile { path, kind }),
            Err(errno) => return Err(OpenError::Failed { path, errno }),
        };
        // It was for opening only; the server of a FUSE file would see it at every read.
        if let Err(errno) = rustix::fs::fcntl_setfl(&file, OFlags::empty()) {
            return Err(OpenError::Failed { path, errno });
        }
        Ok(FileStore {
            file,
            path,
            size,
            no_nowait: AtomicBool::new(false),
        })
    }

    /// The error for a read that ended after `done` bytes because the file does.
    fn truncated(&self, request: ReadRequest, len: usize, done: usize) -> StoreError {
        let end_seen = request.end(done);
        // The size now; but should the file have grown since, what the read saw.
        let found = match size_of(&self.file) {
            Ok(Size::Bytes(size)) => size.min(end_seen),
            Ok(Size::None(_)) | Err(_) => end_seen,
        };
        StoreError::Truncated {
            source_name: self.describe(),
            found,
            needed: request.end(len),
        }
    }
}

/// The size of an open file.
enum Size {
    Bytes(u64),
    /// It has none, being this.
    None(FileKind),
}

fn size_of(file: &OwnedFd) -> Result<Size, Errno> {
    let stat = rustix::fs::fstat(file)?;
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Size::Bytes(stat.st_size.cast_unsigned()),
        // `st_size` of a device is 0.
        FileType::BlockDevice => Size::Bytes(rustix::fs::seek(file, SeekFrom::End(0))?),
        FileType::Directory => Size::None(FileKind::Directory),
        FileType::Fifo => Size::None(FileKind::Fifo),
        FileType::Socket => Size::None(FileKind::Socket),
        FileType::CharacterDevice => Size::None(FileKind::CharacterDevice),
        FileType::Symlink | FileType::Unknown => Size::None(FileKind::Unknown),
    })
}

impl OpenError {
    fn of_errno(path: PathBuf, errno: Errno) -> OpenError {
        match errno {
            Errno::NOENT | Errno::NOTDIR => OpenError::Missing { path },
            Errno::ACCESS | Errno::PERM => OpenError::Permission { path },
            // Sockets cannot be opened at all; a device without a driver says the same.
            Errno::NXIO if is_socket(&path) => OpenError::NotAFile {
                path,
                kind: FileKind::Socket,
            },
            errno => OpenError::Failed { path, errno },
        }
    }
}

fn is_socket(path: &Path) -> bool {
    rustix::fs::stat(path)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket)
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FileKind::Directory => "a directory",
            FileKind::Fifo => "a FIFO",
            FileKind::Socket => "a socket",
            FileKind::CharacterDevice => "a character device",
            FileKind::Unknown => "something else",
        })
    }
}

impl Store for FileStore {
    fn size(&self) -> u64 {
        self.size
    }

    fn describe(&self) -> String {
        self.path.display().to_string()
    }

    fn read(&self, request: ReadRequest, buf: &mut [u8]) -> Result<(), StoreError> {
        let len = buf.len();
        let mut done = 0;
        while done < len {
            match rustix::io::pread(&self.file, &mut buf[done..], request.end(done)) {
                Ok(0) => return Err(self.truncated(request, len, done)),
                Ok(read) => done += read,
                Err(Errno::INTR) => {}
                Err(errno) => {
                    return Err(StoreError::Read {
                        source_name: self.describe(),
                        offset: request.end(done),
                        len: len - done,
                        errno,
                    });
                }
            }
        }
        Ok(())
    }

    fn file(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }

    /// Answers when all of the bytes are in the page cache (`RWF_NOWAIT`). Errors are left to
    /// [`read`](Self::read), so that they are classified in one place.
    fn read_now(&self, request: ReadRequest, buf: &mut [u8]) -> Option<Result<(), StoreError>> {
        if self.no_nowait.load(Ordering::Relaxed) {
            return None;
        }
        let len = buf.len();
        let mut parts = [IoSliceMut::new(buf)];
        let flags = ReadWriteFlags::NOWAIT;
        match rustix::io::preadv2(&self.file, &mut parts, request.offset, flags) {
            // Less: the rest is not in memory, or the file ends.
            Ok(read) => (read == len).then_some(Ok(())),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                self.no_nowait.store(true, Ordering::Relaxed);
                None
            }
            Err(_) => None,
        }
    }
}
