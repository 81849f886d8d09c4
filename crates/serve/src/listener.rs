//! Sockets that VMMs connect to.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with,
};
use thiserror::Error;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// A bound socket; its name is removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    path: PathBuf,
    socket: OwnedFd,
}

/// Why a socket cannot be listened at.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ListenError {
    /// There is one already.
    #[error("{} is listened at already", .0.display())]
    InUse(PathBuf),
    /// Something else has that name.
    #[error("{} is there, and not a socket", .0.display())]
    NotASocket(PathBuf),
    /// The system refuses.
    #[error("cannot listen at {}", path.display())]
    Failed {
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

impl Listener {
    /// Listens at `path`: for the owner and root, or for everybody whom the caller then asks who
    /// they are. A socket that nobody listens at any more is replaced.
    pub(crate) fn bind(path: &Path, for_all: bool) -> Result<Listener, ListenError> {
        let failed = |source: io::Error| {
            let path = path.to_owned();
            ListenError::Failed { path, source }
        };
        match std::fs::symlink_metadata(path) {
            Err(_) => {}
            Ok(there) if !there.file_type().is_socket() => {
                return Err(ListenError::NotASocket(path.to_owned()));
            }
            Ok(_) if UnixStream::connect(path).is_ok() => {
                return Err(ListenError::InUse(path.to_owned()));
            }
            Ok(_) => std::fs::remove_file(path).map_err(failed)?,
        }
        let errno = |errno: Errno| failed(errno.into());
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(errno)?;
        // The name has the mode of the socket, so that nobody can connect before it is narrowed.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(errno)?;
        bind(&socket, &SocketAddrUnix::new(path).map_err(errno)?).map_err(errno)?;
        let listener = Listener {
            path: path.to_owned(),
            socket,
        };
        if for_all {
            let everybody = std::fs::Permissions::from_mode(0o666);
            std::fs::set_permissions(path, everybody).map_err(failed)?;
        }
        listen(&listener.socket, BACKLOG).map_err(errno)?;
        Ok(listener)
    }

    /// The socket that another process has bound at `path`.
    pub(crate) fn adopt(path: &Path, socket: OwnedFd) -> Listener {
        Listener {
            path: path.to_owned(),
            socket,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The next connection, if one waits.
    pub(crate) fn accept(&self) -> io::Result<Option<UnixStream>> {
        accept(self.as_fd())
    }
}

/// The next connection that waits at `listener`, if one does.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<Option<UnixStream>> {
    match accept_with(listener, SocketFlags::CLOEXEC) {
        Ok(stream) => Ok(Some(stream.into())),
        Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Somebody may have removed it already.
        let _ = std::fs::remove_file(&self.path);
    }
}
