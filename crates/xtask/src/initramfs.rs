//! Packs what a kernel of the matrix needs to run the cases: busybox, modules, programs, a script.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::cases::Case;
use crate::cpio::Archive;
use crate::packages::KernelFiles;
use crate::program::Programs;

const INIT: &str = include_str!("init.sh");
/// What runs a case, on these kernels and on the host.
pub(crate) const CASES: &str = include_str!("cases.sh");

/// Writes the initramfs for a boot that runs these cases.
///
/// # Errors
/// When a file cannot be read or written.
pub(crate) fn write(
    path: &Path,
    busybox: &Path,
    kernel: &KernelFiles,
    programs: &Programs,
    cases: &[&Case],
) -> Result<()> {
    let out = fs::File::create(path).with_context(|| format!("creating {}", path.display()))?;
    let mut archive = Archive::new(std::io::BufWriter::new(out));
    let packing = || format!("packing {}", path.display());
    let read = |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));

    for directory in ["bin", "dev", "modules"] {
        archive.directory(directory).with_context(packing)?;
    }
    // The kernel opens it for the first program, before anything is mounted.
    archive
        .character_device("dev/console", (5, 1))
        .with_context(packing)?;
    archive
        .executable("init", INIT.as_bytes())
        .with_context(packing)?;
    archive
        .executable("bin/busybox", &read(busybox)?)
        .with_context(packing)?;
    archive.symlink("bin/sh", "busybox").with_context(packing)?;
    for module in &kernel.modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive
            .executable(&format!("modules/{name}"), &read(module)?)
            .with_context(packing)?;
    }
    for (name, file) in programs.used_by(cases) {
        archive
            .executable(&format!("bin/{name}"), &read(file)?)
            .with_context(packing)?;
    }
    archive
        .executable("cases.sh", CASES.as_bytes())
        .with_context(packing)?;
    archive
        .executable("cases", script(cases, programs).as_bytes())
        .with_context(packing)?;
    archive.finish().with_context(packing)?;
    Ok(())
}

/// One line for each case, in the words of `cases.sh`.
pub(crate) fn script(cases: &[&Case], programs: &Programs) -> String {
    cases
        .iter()
        .map(|case| {
            let mut words = vec![
                "case_".to_owned(),
                quoted(&case.name),
                case.limit.as_secs().to_string(),
                quoted(case.prepare.as_deref().unwrap_or("true")),
            ];
            words.push(quoted(programs.name_of(case)));
            words.extend(case.arguments().map(quoted));
            words.join(" ") + "\n"
        })
        .collect()
}

/// A word that the shell takes as it is.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        for word in ["plain", "two words", "it's", "$HOME", "`id`", "a\\b", ""] {
            let line = format!("printf %s {}", quoted(word));
            let echoed =
                crate::command::text(std::process::Command::new("sh").args(["-c", &line])).unwrap();
            assert_eq!(echoed, word);
        }
    }
}
