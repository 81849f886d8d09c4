//! Boots a kernel under QEMU's emulation of an AMD host, and listens until it is done or overdue.
//!
//! Emulation (TCG) and not the host's KVM: SVM with nested paging is what the kernel under test
//! then sees, on every x86-64 machine alike, and its `/dev/kvm` is that of a stock kernel.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::command::require;
use crate::protocol::{Phase, Transcript};

const QEMU: &str = "qemu-system-x86_64";
/// `cmpxchg16b` is hidden because QEMU 7.2's corrupts flags (1 clean boot of 8 with it, 8 of 8
/// without); one CPU, because wake-ups across emulated CPUs are slow.
const CPU: &str = "EPYC,+svm,+npt,-cx16";
/// Until the kernel is up: 5 s on an idle machine.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// For a step that takes no time at all: power off, or from one case to the next.
const STEP_LIMIT: Duration = Duration::from_secs(30);
/// On top of the limit that the kernel itself keeps for a case.
const GRACE: Duration = Duration::from_secs(30);

/// Says how to get QEMU, where it is missing.
///
/// # Errors
/// [`crate::missing::Missing`].
pub(crate) fn available() -> Result<()> {
    require(
        QEMU,
        "apt-get install --no-install-recommends qemu-system-x86",
    )
}

/// What to boot, and where to keep what it says.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    pub(crate) vmlinuz: &'a Path,
    pub(crate) initramfs: &'a Path,
    /// Where the console's log is written.
    pub(crate) console: &'a Path,
}

/// A boot that is over.
#[derive(Debug)]
pub(crate) struct Boot {
    pub(crate) transcript: Transcript,
    /// Why it ended before it was done; nothing when it came to its end.
    pub(crate) failure: Option<String>,
    /// From the start of QEMU until the kernel was up.
    pub(crate) up_after: Option<Duration>,
    /// What the kernel wrote to its console.
    pub(crate) console: String,
}

/// QEMU never outlives this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it has ended already, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots, and returns when the kernel is done, dead or overdue. `limit_of` says how long a case
/// may take.
///
/// # Errors
/// When QEMU cannot be started; what goes wrong in it is in [`Boot::failure`].
pub(crate) fn boot(machine: &Machine<'_>, limit_of: impl Fn(&str) -> Duration) -> Result<Boot> {
    let started = Instant::now();
    let mut child = Running(command(machine)?.spawn().context("starting QEMU")?);
    limit_cpu(&child.0);
    let stdout = child.0.stdout.take().context("QEMU has no stdout")?;
    let lines = read_lines(stdout);

    let mut transcript = Transcript::new();
    let mut up_after = None;
    let mut failure = None;
    let mut deadline = started + BOOT_LIMIT;
    loop {
        let wait = deadline.saturating_duration_since(Instant::now());
        match lines.recv_timeout(wait) {
            Ok(line) => {
                let before = transcript.phase().clone();
                if let Err(error) = transcript.handle_line(&line) {
                    failure = Some(format!("the serial line is garbled: {error}"));
                    break;
                }
                if *transcript.phase() != before {
                    up_after = up_after.or_else(|| Some(started.elapsed()));
                    deadline = Instant::now()
                        + match transcript.phase() {
                            Phase::Booting => BOOT_LIMIT,
                            Phase::Between | Phase::Done => STEP_LIMIT,
                            Phase::Running(case) => limit_of(case) + GRACE,
                        };
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                failure = Some(format!("hang: {}", doing(transcript.phase())));
                break;
            }
            Err(RecvTimeoutError::Disconnected) => {
                if *transcript.phase() != Phase::Done {
                    failure = Some(format!(
                        "the kernel died or restarted: {}",
                        doing(transcript.phase())
                    ));
                }
                break;
            }
        }
    }
    drop(child);
    let console = fs::read(machine.console).unwrap_or_default();
    Ok(Boot {
        console: String::from_utf8_lossy(&console).into_owned(),
        transcript,
        failure,
        up_after,
    })
}

fn doing(phase: &Phase) -> String {
    match phase {
        Phase::Booting => "it did not come up".to_owned(),
        Phase::Between => "no next case, and no end".to_owned(),
        Phase::Running(case) => format!("no end of the case {case}"),
        Phase::Done => "it did not power off".to_owned(),
    }
}

fn command(machine: &Machine<'_>) -> Result<Command> {
    let errors: PathBuf = machine.console.with_extension("qemu");
    let errors = File::create(&errors).with_context(|| format!("creating {}", errors.display()))?;
    let mut command = Command::new(QEMU);
    command
        .args(["-accel", "tcg", "-machine", "q35", "-cpu", CPU])
        .args(["-m", "1G", "-smp", "1", "-nodefaults", "-no-user-config"])
        .args(["-display", "none", "-monitor", "none", "-no-reboot"])
        .arg("-serial")
        .arg(format!("file:{}", machine.console.display()))
        .args(["-serial", "stdio"])
        .arg("-kernel")
        .arg(machine.vmlinuz)
        .arg("-initrd")
        .arg(machine.initramfs)
        .args(["-append", "console=ttyS0 quiet panic=-1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors);
    Ok(command)
}

/// Should this process be killed, then QEMU ends by itself after so much work.
fn limit_cpu(child: &Child) {
    let limit = Rlimit {
        current: Some(1200),
        maximum: Some(1200),
    };
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid
        && let Err(error) = prlimit(Some(pid), Resource::Cpu, limit)
    {
        eprintln!("matrix: QEMU runs without a limit of CPU time: {error}");
    }
}

/// Lines from a thread, so that waiting for one can end; it ends with QEMU.
fn read_lines(stdout: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        let mut line = Vec::new();
        while let Ok(1..) = reader.read_until(b'\n', &mut line) {
            if sender
                .send(String::from_utf8_lossy(&line).into_owned())
                .is_err()
            {
                return;
            }
            line.clear();
        }
    });
    receiver
}
