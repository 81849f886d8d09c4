//! Work on Surefault itself: `cargo xtask matrix` runs it on stock kernels.
//!
//! Packages → static programs → initramfs → QEMU → serial line → verdicts → table; a module each.
//! To add a case, add a file to `crates/xtask/cases` ([`cases`] says what is in it).

mod apt;
mod args;
mod cases;
mod command;
mod cpio;
mod expect;
mod host;
mod initramfs;
mod ledger;
mod listen;
mod lock;
mod matrix;
mod missing;
mod packages;
mod program;
mod protocol;
mod qemu;
mod sources;
mod table;
mod verdict;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::args::{Format, HELP, Options, Task};
use crate::cases::Case;
use crate::lock::Lock;
use crate::matrix::{Bench, Matrix};
use crate::missing::Missing;
use crate::packages::{Origin, Packages};
use crate::program::Programs;

const FAILED: u8 = 1;
const BAD_USAGE: u8 = 2;
const LACKING: u8 = 5;

fn main() -> ExitCode {
    let options = match args::parse(std::env::args().skip(1)) {
        Ok(Task::Help) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Ok(Task::Matrix(options)) => options,
        Err(error) => {
            eprintln!("xtask: {error}");
            return ExitCode::from(BAD_USAGE);
        }
    };
    match matrix(&options) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            let lacking = error.chain().any(|cause| cause.is::<Missing>());
            ExitCode::from(if lacking { LACKING } else { FAILED })
        }
    }
}

fn matrix(options: &Options) -> Result<ExitCode> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .context("the workspace is two levels up")?;
    let cases = cases::load(&root.join("crates/xtask/cases"))?;
    let cases: Vec<_> = cases
        .iter()
        .filter(|case| options.wants(&case.name, case.slow))
        .collect();
    if options.list {
        for case in &cases {
            println!("{:20} {}", case.name, case.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if cases.is_empty() {
        eprintln!("xtask: no case is called that; see cargo xtask matrix --list");
        return Ok(ExitCode::from(BAD_USAGE));
    }
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root.join("target"), |dir| root.join(PathBuf::from(dir)))
        .join("matrix");
    let _lock = Lock::of(&target)?;
    let boots = target.join("boots");
    // Logs of an earlier run would be taken for this one's.
    if boots.exists() {
        fs::remove_dir_all(&boots).with_context(|| format!("removing {}", boots.display()))?;
    }
    let mut failed = 0;
    for round in 1..=options.repeat {
        let matrix = run(root, &target, options, &cases, round)?;
        failed += usize::from(matrix.failed());
        if options.repeat > 1 {
            eprintln!(
                "matrix: round {round} of {}, {failed} failed",
                options.repeat
            );
        }
        if round == options.repeat {
            print(&matrix, options.format)?;
        }
        if options.record && round == options.repeat {
            record(root, &matrix)?;
        }
    }
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILED)
    })
}

fn run(
    root: &Path,
    target: &Path,
    options: &Options,
    cases: &[&Case],
    round: usize,
) -> Result<Matrix> {
    if cfg!(not(all(target_arch = "x86_64", target_os = "linux"))) {
        return Err(Missing::new(
            "the programs for the kernels are built for x86-64 Linux",
            "run this on an x86-64 Linux machine",
        )
        .into());
    }
    if options.kernels.iter().any(|k| k.origin != Origin::Host) {
        qemu::available()?;
    }
    let packages = Packages::get(
        &packages::cache_directory()?,
        &options.kernels,
        options.refresh,
    )?;
    let programs = Programs::build(root, target, cases)?;
    let directory = target.join(format!("boots/round-{round}"));
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    Bench {
        packages: &packages,
        programs: &programs,
        cases,
        directory: &directory,
        jobs: options.jobs,
    }
    .run()
}

fn print(matrix: &Matrix, format: Format) -> Result<()> {
    match format {
        Format::Text => print!("{}", table::text(matrix)),
        Format::Json => println!("{}", serde_json::to_string_pretty(matrix)?),
    }
    Ok(())
}

fn record(root: &Path, matrix: &Matrix) -> Result<()> {
    let path = root.join("docs/ledger.md");
    let ledger =
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let date = command::text(Command::new("date").args(["-u", "+%F"]))?;
    let ledger = ledger::with_table(&ledger, date.trim(), &table::markdown(matrix))?;
    fs::write(&path, ledger).with_context(|| format!("writing {}", path.display()))
}
