//! QEMU's emulation of an AMD host, for a kernel to boot on.
//!
//! Emulation (TCG) and not the host's KVM: SVM with nested paging is what the kernel under test
//! then sees, on every x86-64 machine alike, and its `/dev/kvm` is that of a stock kernel.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::command::require;

const QEMU: &str = "qemu-system-x86_64";
/// `cmpxchg16b` is hidden because QEMU 7.2's corrupts flags (1 clean boot of 8 with it, 8 of 8
/// without); one CPU, because wake-ups across emulated CPUs are slow.
const CPU: &str = "EPYC,+svm,+npt,-cx16";
/// Of QEMU itself, in seconds: more than all cases can want.
const CPU_LIMIT: u64 = 1200;

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

/// Starts QEMU: the console goes to a file, the second serial line to its stdout, and what QEMU
/// itself has to say to `errors`.
///
/// # Errors
/// When it cannot be started.
pub(crate) fn start(
    vmlinuz: &Path,
    initramfs: &Path,
    console: &Path,
    errors: &Path,
) -> Result<Child> {
    let errors = File::create(errors).with_context(|| format!("creating {}", errors.display()))?;
    let child = Command::new(QEMU)
        .args(["-accel", "tcg", "-machine", "q35", "-cpu", CPU])
        .args(["-m", "1G", "-smp", "1", "-nodefaults", "-no-user-config"])
        .args(["-display", "none", "-monitor", "none", "-no-reboot"])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .args(["-serial", "stdio"])
        .arg("-kernel")
        .arg(vmlinuz)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", "console=ttyS0 quiet panic=-1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors)
        .spawn()
        .context("starting QEMU")?;
    limit_cpu(&child);
    Ok(child)
}

/// Should this process be killed, then QEMU ends by itself after so much work.
fn limit_cpu(child: &Child) {
    let limit = Rlimit {
        current: Some(CPU_LIMIT),
        maximum: Some(CPU_LIMIT),
    };
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid
        && let Err(error) = prlimit(Some(pid), Resource::Cpu, limit)
    {
        eprintln!("matrix: QEMU runs without a limit of CPU time: {error}");
    }
}
