//! The programs that serve: processes of their own, each behind a socket.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::{BenchError, Source};

const FLOOR: &str = include_str!("floor.c");

/// How long a handler may take until it listens.
const PATIENCE: Duration = Duration::from_secs(20);

/// Who serves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HandlerKind {
    /// One thread, `poll`, one event, one page.
    Floor,
    /// Everything from the start on, 2 MiB at a time.
    Ceiling,
    /// `surefault serve`.
    Surefault {
        /// The program.
        program: PathBuf,
        /// What it is told beside the socket and the file.
        arguments: Vec<String>,
        /// Whether its worker has a supervisor.
        supervised: bool,
    },
}

/// Surefault without a supervisor, in tables.
pub(crate) const UNSUPERVISED: &str = "surefault --no-supervisor";

impl HandlerKind {
    /// Its name in tables.
    pub fn name(&self) -> &'static str {
        match self {
            HandlerKind::Floor => "floor",
            HandlerKind::Ceiling => "ceiling",
            HandlerKind::Surefault {
                supervised: true, ..
            } => "surefault",
            HandlerKind::Surefault {
                supervised: false, ..
            } => UNSUPERVISED,
        }
    }

    /// The same without a supervisor, if it can have one.
    pub(crate) fn unsupervised(&self) -> Option<HandlerKind> {
        match self {
            HandlerKind::Floor | HandlerKind::Ceiling => None,
            HandlerKind::Surefault {
                program, arguments, ..
            } => Some(HandlerKind::Surefault {
                program: program.clone(),
                arguments: arguments.clone(),
                supervised: false,
            }),
        }
    }

    fn command(&self, socket: &Path, source: &Source) -> Result<Command, BenchError> {
        Ok(match self {
            HandlerKind::Floor | HandlerKind::Ceiling => {
                let mut command = Command::new(compile(source.dir())?);
                command.arg(socket).arg(source.path());
                if *self == HandlerKind::Ceiling {
                    command.arg("ceiling");
                }
                command
            }
            HandlerKind::Surefault {
                program,
                arguments,
                supervised,
            } => {
                let mut listen = socket.as_os_str().to_owned();
                listen.push("=");
                listen.push(source.path());
                let mut command = Command::new(program);
                command.arg("serve").arg("--listen").arg(listen);
                command.args(arguments);
                if !supervised {
                    command.arg("--no-supervisor");
                }
                command
            }
        })
    }
}

/// The floor's program, compiled once for each source.
fn compile(dir: &Path) -> Result<PathBuf, BenchError> {
    let program = dir.join("floor");
    if program.exists() {
        return Ok(program);
    }
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let failed = |source| BenchError::Compiler {
        compiler: compiler.clone(),
        source,
    };
    let text = dir.join("floor.c");
    std::fs::write(&text, FLOOR).map_err(failed)?;
    let output = Command::new(&compiler)
        .args(["-O2", "-o"])
        .arg(&program)
        .arg(&text)
        .stdin(Stdio::null())
        .output()
        .map_err(failed)?;
    match output.status.success() {
        true => Ok(program),
        false => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(failed(io::Error::other(said)))
        }
    }
}

/// A handler's process, killed when this is dropped.
#[derive(Debug)]
pub struct Handler {
    name: &'static str,
    socket: PathBuf,
    /// What it says on standard error.
    log: PathBuf,
    child: Child,
}

impl Handler {
    /// Starts a handler for `source`, and waits until it listens.
    ///
    /// # Errors
    /// When its program cannot be had, or does not listen.
    pub fn start(kind: &HandlerKind, source: &Source) -> Result<Handler, BenchError> {
        let name = kind.name();
        let socket = source.dir().join(format!("{name}.sock"));
        let log = source.dir().join(format!("{name}.log"));
        let failed = |source| BenchError::Start { name, source };
        let child = kind
            .command(&socket, source)?
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).map_err(failed)?)
            .spawn()
            .map_err(failed)?;
        let mut handler = Handler {
            name,
            socket,
            log,
            child,
        };
        let until = Instant::now() + PATIENCE;
        while !handler.socket.exists() {
            handler.check()?;
            if Instant::now() >= until {
                let patience = PATIENCE;
                return Err(BenchError::Silent { name, patience });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(handler)
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether it has ended.
    ///
    /// # Errors
    /// When it has.
    pub fn check(&mut self) -> Result<(), BenchError> {
        let name = self.name;
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                let said = std::fs::read_to_string(&self.log).unwrap_or_default();
                let said = said.lines().last().unwrap_or("it said nothing").to_owned();
                Err(BenchError::Ended { name, status, said })
            }
            Err(source) => Err(BenchError::Start { name, source }),
        }
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        // Two of them end the daemon in good order, and its worker with it.
        let pid = Pid::from_child(&self.child);
        let until = Instant::now() + PATIENCE;
        for _ in 0..2 {
            // Its number is its own as long as nobody has waited for it.
            if matches!(self.child.try_wait(), Ok(None)) {
                let _ = kill_process(pid, Signal::TERM);
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
