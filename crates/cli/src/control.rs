//! The control socket of a run (`run --control PATH`): the protocol of the daemon's
//! ([`surefault_serve::control`]), of which a run knows `resume` and `heal`.
//!
//! ```text
//!  client ─ a line ─► its thread ─► asked ─► the run, when it looks ─► answer ─► a line
//! ```

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use surefault_serve::control::{Reply, Request};

use crate::exit::{Exit, Failure};

/// A request may be this long.
const REQUEST_LIMIT: u64 = 4096;
/// A client may take this long to take an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The socket, until this is dropped.
pub(crate) struct Control {
    path: PathBuf,
    asked: Receiver<Asked>,
}

/// What a client asked for. Dropped unanswered, it is told that the run has ended.
pub(crate) struct Asked {
    pub(crate) request: Request,
    answer: Sender<Reply>,
}

impl Asked {
    pub(crate) fn answer(self, reply: Reply) {
        // A client that has gone wants no answer.
        let _ = self.answer.send(reply);
    }

    pub(crate) fn refuse(self, reason: impl Into<String>) {
        let reason = reason.into();
        self.answer(Reply::Error { reason });
    }
}

impl Control {
    /// Listens at `path`, to which only this user may connect.
    pub(crate) fn listen(path: &Path) -> Result<Control, Failure> {
        let listener = bind(path).map_err(|error| {
            let error = anyhow::Error::new(error).context(path.display().to_string());
            Failure::option("--control", error)
        })?;
        let (send, asked) = mpsc::channel();
        let accept = move || {
            for stream in listener.incoming().flatten() {
                let send = send.clone();
                // One that cannot be had is a client that is not answered.
                let _ = std::thread::Builder::new()
                    .name("control".into())
                    .spawn(move || serve(&stream, &send));
            }
        };
        let accepting = std::thread::Builder::new().name("control".into());
        accepting
            .spawn(accept)
            .map_err(|error| Failure::new(Exit::Unexpected, error))?;
        Ok(Control {
            path: path.to_owned(),
            asked,
        })
    }

    /// The oldest question that has not been answered.
    pub(crate) fn asked(&self) -> Option<Asked> {
        self.asked.try_recv().ok()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Somebody may have taken it away.
        let _ = fs::remove_file(&self.path);
    }
}

/// A socket that is there, but that nobody listens at, is what a run has left that was killed.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let left = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if left && UnixStream::connect(path).is_err() {
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn serve(stream: &UnixStream, send: &Sender<Asked>) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut requests = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        let limited = &mut (&mut requests).take(REQUEST_LIMIT);
        if limited.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let reply = match serde_json::from_slice(&line) {
            Ok(request) => ask(request, send),
            Err(error) => Reply::Error {
                reason: format!("not a request: {error}"),
            },
        };
        let mut line = serde_json::to_vec(&reply)?;
        line.push(b'\n');
        let mut stream = stream;
        stream.write_all(&line)?;
    }
}

fn ask(request: Request, send: &Sender<Asked>) -> Reply {
    let (answer, answered) = mpsc::channel();
    let sent = send.send(Asked { request, answer });
    let reply = sent.ok().and_then(|()| answered.recv().ok());
    reply.unwrap_or_else(|| Reply::Error {
        reason: "the run has ended".to_owned(),
    })
}
