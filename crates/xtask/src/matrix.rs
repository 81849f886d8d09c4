//! Runs every case on every kernel: boots, listens, judges.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::cases::Case;
use crate::command::last_lines;
use crate::host;
use crate::initramfs;
use crate::listen::{Heard, listen};
use crate::packages::{Kernel, KernelFiles, Packages};
use crate::program::Programs;
use crate::protocol::Phase;
use crate::qemu;
use crate::verdict::{Outcome, compare_cases, compare_kernels, nanoseconds};

/// All that came out.
#[derive(Debug, Serialize)]
pub(crate) struct Matrix {
    pub(crate) schema: u32,
    pub(crate) command: &'static str,
    pub(crate) kernels: Vec<Column>,
}

/// A kernel and its cases.
#[derive(Debug, Serialize)]
pub(crate) struct Column {
    pub(crate) kernel: &'static str,
    pub(crate) package_version: String,
    /// What the kernel called itself, and what it said about its KVM.
    pub(crate) facts: Vec<(String, String)>,
    /// Until it was up; the first boot, when there were several.
    #[serde(rename = "up_after_ns", serialize_with = "nanoseconds")]
    pub(crate) up_after: Option<Duration>,
    #[serde(rename = "took_ns", serialize_with = "nanoseconds")]
    pub(crate) took: Option<Duration>,
    pub(crate) outcomes: Vec<Outcome>,
    /// Logs of boots in which something failed.
    pub(crate) logs: Vec<PathBuf>,
}

impl Matrix {
    pub(crate) fn failed(&self) -> bool {
        self.kernels
            .iter()
            .any(|column| column.outcomes.iter().any(Outcome::failed))
    }
}

/// A kernel's turn at some cases: a boot, or on the host a run of the script.
#[derive(Debug)]
struct Boot {
    heard: Heard,
    /// What the kernel, or on the host the script, complained about.
    console: String,
}

/// Everything that a run needs.
pub(crate) struct Bench<'a> {
    pub(crate) packages: &'a Packages,
    pub(crate) programs: &'a Programs,
    pub(crate) cases: &'a [&'a Case],
    /// For initramfs and logs.
    pub(crate) directory: &'a Path,
    pub(crate) jobs: usize,
}

impl Bench<'_> {
    /// Runs all cases on all kernels, `jobs` kernels at a time.
    ///
    /// # Errors
    /// When something on this side fails; a kernel that fails is a result.
    pub(crate) fn run(&self) -> Result<Matrix> {
        let queue: Mutex<VecDeque<_>> =
            Mutex::new(self.packages.kernels.iter().enumerate().collect());
        let next = || queue.lock().ok()?.pop_front();
        let mut columns: Vec<_> = thread::scope(|scope| {
            let workers: Vec<_> = (0..self.jobs.max(1))
                .map(|_| {
                    scope.spawn(|| {
                        std::iter::from_fn(next)
                            .map(|(place, (kernel, files))| {
                                let column = self
                                    .run_kernel(*kernel, files.as_ref())
                                    .with_context(|| format!("running Linux {}", kernel.name))?;
                                Ok((place, column))
                            })
                            .collect::<Result<Vec<_>>>()
                    })
                })
                .collect();
            workers
                .into_iter()
                .map(|worker| worker.join().expect("a worker does not panic"))
                .collect::<Result<Vec<_>>>()
        })?
        .into_iter()
        .flatten()
        .collect();
        columns.sort_by_key(|(place, _)| *place);
        let mut kernels: Vec<_> = columns.into_iter().map(|(_, column)| column).collect();
        compare(self.cases, &mut kernels);
        Ok(Matrix {
            schema: 1,
            command: "matrix",
            kernels,
        })
    }

    /// Boots until every case of the kernel had its turn: a case that takes the kernel down does
    /// not take the others with it.
    fn run_kernel(&self, kernel: Kernel, files: Option<&KernelFiles>) -> Result<Column> {
        let started = Instant::now();
        let mut column = Column {
            kernel: kernel.name,
            package_version: files.map_or_else(String::new, |f| f.package_version.clone()),
            facts: Vec::new(),
            up_after: None,
            took: None,
            outcomes: Vec::new(),
            logs: Vec::new(),
        };
        let mut remaining: Vec<&Case> = self.cases.to_vec();
        remaining.retain(|case| case.not_for(kernel.name).is_none());
        let mut outcomes = Vec::new();
        for boot_number in 1.. {
            if remaining.is_empty() {
                break;
            }
            let name = format!("{}-{boot_number}", kernel.name);
            let boot = self.boot(&name, files, &remaining)?;
            if let Some(up) = &boot.heard.transcript.up {
                column.facts.clone_from(&up.facts);
                if files.is_none() {
                    column.package_version.clone_from(&up.release);
                }
            }
            column.up_after = column.up_after.or(boot.heard.up_after);
            let (ended, left) = judge_boot(kernel.name, &remaining, &boot);
            for outcome in &ended {
                eprintln!("matrix: {} {}", kernel.name, crate::table::line(outcome));
            }
            if ended.iter().any(Outcome::failed) {
                let log = self.directory.join(format!("{name}.log"));
                fs::write(&log, self.log(&name, &boot, &ended))
                    .with_context(|| format!("writing {}", log.display()))?;
                column.logs.push(log);
            }
            outcomes.extend(ended);
            remaining = left;
        }
        column.outcomes = self
            .cases
            .iter()
            .map(|case| match case.not_for(kernel.name) {
                Some(why) => Outcome::not_applicable(case, why),
                None => outcomes
                    .iter()
                    .find(|outcome| outcome.case == case.name)
                    .cloned()
                    .unwrap_or_else(|| Outcome::lost(case, "it was not run".to_owned())),
            })
            .collect();
        column.took = Some(started.elapsed());
        Ok(column)
    }

    fn boot(&self, name: &str, files: Option<&KernelFiles>, cases: &[&Case]) -> Result<Boot> {
        let path = |kind: &str| self.directory.join(format!("{name}.{kind}"));
        let (console, initramfs) = (path("console"), path("cpio"));
        let busybox = &self.packages.busybox;
        let child = match files {
            None => host::start(&path("host"), busybox, self.programs, cases, &console)?,
            Some(files) => {
                initramfs::write(&initramfs, busybox, files, self.programs, cases)?;
                qemu::start(&files.vmlinuz, &initramfs, &console, &path("qemu"))?
            }
        };
        let heard = listen(child, |name| {
            let case = cases.iter().find(|case| case.name == name);
            case.map_or(Duration::ZERO, |case| case.limit)
        })?;
        if files.is_some() {
            fs::remove_file(&initramfs)
                .with_context(|| format!("removing {}", initramfs.display()))?;
        }
        let console = fs::read(console).unwrap_or_default();
        Ok(Boot {
            heard,
            console: String::from_utf8_lossy(&console).into_owned(),
        })
    }

    /// What somebody needs who wants to know why: the cases' own words, and the console.
    fn log(&self, name: &str, boot: &Boot, outcomes: &[Outcome]) -> String {
        let mut log = String::new();
        for outcome in outcomes {
            log += &format!("== {}\n", crate::table::line(outcome));
            if let Some(ended) = boot
                .heard
                .transcript
                .ended
                .iter()
                .find(|e| e.name == outcome.case)
            {
                log += &format!("-- stdout\n{}-- stderr\n{}", ended.stdout, ended.stderr);
            }
        }
        log += &format!(
            "== unfinished\n-- stdout\n{}-- stderr\n{}",
            boot.heard.transcript.stdout, boot.heard.transcript.stderr
        );
        let qemu = fs::read(self.directory.join(format!("{name}.qemu"))).unwrap_or_default();
        let qemu = String::from_utf8_lossy(&qemu);
        log += &format!("== qemu\n{qemu}\n== console\n{}\n", boot.console);
        log
    }
}

/// Holds cases against each other, where they say what must be alike.
fn compare(cases: &[&Case], kernels: &mut [Column]) {
    for (row, case) in cases.iter().enumerate() {
        let mut outcomes: Vec<_> = kernels
            .iter_mut()
            .filter_map(|column| Some((column.kernel, column.outcomes.get_mut(row)?)))
            .collect();
        compare_kernels(case, &mut outcomes);
        let like = case.like.as_ref();
        let Some(other) = like.and_then(|like| cases.iter().position(|c| c.name == *like)) else {
            continue;
        };
        for column in &mut *kernels {
            let other = column.outcomes[other].clone();
            compare_cases(case, &mut column.outcomes[row], &other);
        }
    }
}

/// The outcomes of a boot, and the cases that still want one.
fn judge_boot<'a>(kernel: &str, cases: &[&'a Case], boot: &Boot) -> (Vec<Outcome>, Vec<&'a Case>) {
    let mut outcomes = Vec::new();
    let mut left = Vec::new();
    let failure = || {
        let said = last_lines(&boot.heard.transcript.stderr, 5);
        let how = boot.heard.failure.as_deref().unwrap_or("no end marker");
        match said.as_str() {
            "" => how.to_owned(),
            said => format!("{how}; it said last: {said}"),
        }
    };
    for case in cases {
        let ended = boot
            .heard
            .transcript
            .ended
            .iter()
            .find(|e| e.name == case.name);
        match (ended, boot.heard.transcript.phase()) {
            (Some(ended), _) => outcomes.push(Outcome::of(case, kernel, ended)),
            (None, Phase::Running(name)) if *name == case.name => {
                outcomes.push(Outcome::lost(case, failure()).with_console(&boot.console));
            }
            (None, Phase::Running(_)) => left.push(*case),
            // Nothing to blame it on: trying again would be guessing.
            (None, Phase::Booting | Phase::Between | Phase::Done) => {
                outcomes.push(Outcome::lost(case, failure()).with_console(&boot.console));
            }
        }
    }
    (outcomes, left)
}

#[cfg(test)]
mod tests;
