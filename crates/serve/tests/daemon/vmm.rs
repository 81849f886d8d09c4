//! VMMs in processes of their own: this test's binary, started again.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};

use serde::{Deserialize, Serialize};
use surefault_core::PageSize;
use surefault_serve::demo::{Demo, DemoReport, Expect, run};

use crate::rig::{SEED, host_page};

/// Says to a process of this binary that it is a VMM, and which.
const PART: &str = "SUREFAULT_TEST_VMM";

/// What VMM is played.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) socket: PathBuf,
    pub(crate) pages: u64,
    pub(crate) huge: bool,
    pub(crate) regions: u64,
    pub(crate) vcpus: usize,
    pub(crate) balloon: u64,
    /// Whether it stays when all is read, until it is told to go.
    pub(crate) stays: bool,
}

impl Part {
    pub(crate) fn new(socket: &Path, pages: u64) -> Part {
        Part {
            socket: socket.to_owned(),
            pages,
            huge: false,
            regions: 1,
            vcpus: 2,
            balloon: 0,
            stays: false,
        }
    }
}

/// Plays the VMM, if this process is to be one.
pub(crate) fn play() -> Option<ExitCode> {
    let part: Part = serde_json::from_str(&std::env::var(PART).ok()?).expect("a part");
    let report = run(&Demo {
        socket: part.socket,
        pages: part.pages,
        page_size: if part.huge {
            PageSize::MIB_2
        } else {
            host_page()
        },
        regions: part.regions,
        vcpus: part.vcpus,
        expect: Expect::Pattern(SEED),
        balloon: part.balloon,
    });
    match report {
        Ok(report) => println!("{}", serde_json::to_string(&report).expect("JSON")),
        Err(error) => {
            eprintln!("a VMM that was played: {error}");
            return Some(ExitCode::FAILURE);
        }
    }
    if part.stays {
        std::io::stdout().flush().expect("flushed");
        let _ = std::io::stdin().read(&mut [0]);
    }
    Some(ExitCode::SUCCESS)
}

/// A VMM that runs; killed when it is dropped.
pub(crate) struct Vmm {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Vmm {
    pub(crate) fn start(part: &Part) -> Vmm {
        let binary = std::env::current_exe().expect("this test's binary");
        Vmm::spawn(part, &mut Command::new(binary))
    }

    /// Starts it as another user, from a copy of the binary that everybody may run.
    pub(crate) fn start_as(part: &Part, uid: u32, binary: &Path) -> Vmm {
        Vmm::spawn(part, Command::new(binary).current_dir("/").uid(uid))
    }

    fn spawn(part: &Part, command: &mut Command) -> Vmm {
        let mut child = command
            .env(PART, serde_json::to_string(part).expect("JSON"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a VMM");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let stdin = child.stdin.take();
        Vmm {
            child,
            stdin,
            stdout,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it saw; `None` when it died before.
    pub(crate) fn report(&mut self) -> Option<DemoReport> {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("a pipe");
        (!line.is_empty()).then(|| serde_json::from_str(&line).expect("a report"))
    }

    /// Its report, when everything but failed pages was right.
    pub(crate) fn sound_report(&mut self) -> DemoReport {
        let report = self.report().expect("it lives");
        assert_eq!((report.wrong, report.first_wrong), (0, None), "{report:?}");
        report
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("killed");
    }

    /// Lets it go, and gives the signal that ended it, if one did.
    pub(crate) fn ended_by(mut self) -> Option<i32> {
        self.stdin = None;
        self.child.wait().expect("a child").signal()
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
