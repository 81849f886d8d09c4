//! The cases on this machine's own kernel: the same programs, started by the same script.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};

use crate::cases::Case;
use crate::initramfs::{CASES, script};
use crate::program::Programs;

const HOST: &str = include_str!("host.sh");

/// Starts the cases in `directory`, which must not exist yet. The protocol comes on the child's
/// stdout; what goes wrong in the script goes to `errors`.
///
/// # Errors
/// When files cannot be written, or the shell cannot be started.
pub(crate) fn start(
    directory: &Path,
    busybox: &Path,
    programs: &Programs,
    cases: &[&Case],
    errors: &Path,
) -> Result<Child> {
    write(directory, busybox, programs, cases)
        .with_context(|| format!("preparing {}", directory.display()))?;
    let errors = File::create(errors).with_context(|| format!("creating {}", errors.display()))?;
    Command::new(busybox)
        .args(["sh", "host.sh"])
        .arg(directory)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors)
        .spawn()
        .context("starting busybox")
}

fn write(directory: &Path, busybox: &Path, programs: &Programs, cases: &[&Case]) -> Result<()> {
    let bin = directory.join("bin");
    fs::create_dir_all(&bin)?;
    let applets = crate::command::text(Command::new(busybox).arg("--list"))?;
    for applet in applets.lines() {
        symlink(busybox, bin.join(applet))?;
    }
    for (name, path) in programs.used_by(cases) {
        symlink(path, bin.join(name))?;
    }
    fs::write(directory.join("host.sh"), HOST)?;
    fs::write(directory.join("cases.sh"), CASES)?;
    fs::write(directory.join("cases"), script(cases, programs))?;
    Ok(())
}
