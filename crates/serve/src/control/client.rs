//! The other end of the control socket.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{Reply, Request};
use crate::event::Event;

/// A connection to a daemon's control socket.
#[derive(Debug)]
pub struct ControlClient {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

/// Why the daemon was not told, or its answer not understood.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ControlError {
    /// Nobody is there.
    #[error("cannot connect to {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The connection failed.
    #[error("talking to {} failed", path.display())]
    Talk {
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The daemon hung up.
    #[error("{} hung up", .0.display())]
    HungUp(PathBuf),
    /// That is no answer.
    #[error("{} gave an answer that makes no sense", path.display())]
    Nonsense {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The daemon did not do it.
    #[error("{0}")]
    Refused(String),
}

impl ControlClient {
    /// Connects to the control socket at `path`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(path: &Path) -> Result<ControlClient, ControlError> {
        let stream = UnixStream::connect(path).map_err(|source| ControlError::Connect {
            path: path.to_owned(),
            source,
        })?;
        Ok(ControlClient {
            path: path.to_owned(),
            stream: BufReader::new(stream),
        })
    }

    /// Tells the daemon something, and gives its answer.
    ///
    /// # Errors
    /// When it was not done, or cannot be told or understood.
    pub fn ask(&mut self, request: &Request) -> Result<Reply, ControlError> {
        let mut line = serde_json::to_vec(request).map_err(|source| self.nonsense(source))?;
        line.push(b'\n');
        let sent = self.stream.get_mut().write_all(&line);
        sent.map_err(|source| self.talk(source))?;
        match self.line()? {
            None => Err(ControlError::HungUp(self.path.clone())),
            Some(line) => match serde_json::from_str(&line) {
                Ok(Reply::Error { reason }) => Err(ControlError::Refused(reason)),
                Ok(reply) => Ok(reply),
                Err(source) => Err(self.nonsense(source)),
            },
        }
    }

    /// After [`Request::Events`]: the next event; `None` when the daemon has ended, or does not wait
    /// for who lags behind.
    ///
    /// # Errors
    /// When the connection fails, or an event is not understood.
    pub fn next_event(&mut self) -> Result<Option<Event>, ControlError> {
        let line = self.line()?;
        let event = line.map(|line| serde_json::from_str(&line)).transpose();
        event.map_err(|source| self.nonsense(source))
    }

    fn line(&mut self) -> Result<Option<String>, ControlError> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(line)),
            Err(source) => Err(self.talk(source)),
        }
    }

    fn talk(&self, source: io::Error) -> ControlError {
        let path = self.path.clone();
        ControlError::Talk { path, source }
    }

    fn nonsense(&self, source: serde_json::Error) -> ControlError {
        let path = self.path.clone();
        ControlError::Nonsense { path, source }
    }
}
