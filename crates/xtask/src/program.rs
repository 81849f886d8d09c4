//! Builds the programs of the cases so that they run on any kernel: linked statically, in a target
//! directory of their own, so that the usual build is not disturbed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::cases::Case;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// A program of this workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Program<'a> {
    package: &'a str,
    kind: &'a str,
    name: &'a str,
}

impl<'a> Program<'a> {
    /// `surefault`, or `PACKAGE/KIND/NAME`.
    fn parse(word: &'a str) -> Result<Self> {
        if word == "surefault" {
            return Ok(Self {
                package: "surefault-cli",
                kind: "bin",
                name: word,
            });
        }
        let mut parts = word.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(package), Some(kind @ ("bin" | "test" | "example")), Some(name), None) => {
                Ok(Self {
                    package,
                    kind,
                    name,
                })
            }
            _ => bail!("{word}: neither surefault nor PACKAGE/bin|test|example/NAME"),
        }
    }
}

/// What was built: where it is, and its name on the kernels.
#[derive(Debug)]
pub(crate) struct Programs {
    /// By the word that the cases use.
    built: BTreeMap<String, Built>,
}

#[derive(Debug)]
struct Built {
    name: String,
    path: PathBuf,
}

impl Programs {
    /// Builds every program that the cases name, with one call of cargo.
    ///
    /// # Errors
    /// When one cannot be built; what cargo says has then been on stderr.
    pub(crate) fn build(root: &Path, target_dir: &Path, cases: &[&Case]) -> Result<Self> {
        let mut programs = BTreeMap::new();
        for case in cases {
            let program = Program::parse(case.program())
                .with_context(|| format!("in the case {}", case.name))?;
            programs.insert(case.program(), program);
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let mut command = Command::new(cargo);
        command
            .args(["build", "--quiet", "--release", "--target", TARGET])
            .args(["--message-format", "json-render-diagnostics"])
            .arg("--target-dir")
            .arg(target_dir)
            .current_dir(root)
            .env("RUSTFLAGS", "-C target-feature=+crt-static")
            .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .stdin(Stdio::null())
            .stderr(Stdio::inherit());
        for program in programs.values() {
            command.args(["-p", program.package]);
            command.args([&format!("--{}", program.kind), program.name]);
        }
        let output = command.output().context("starting cargo")?;
        if !output.status.success() {
            bail!("the static build failed");
        }
        let messages = String::from_utf8_lossy(&output.stdout);
        let built = programs
            .into_iter()
            .map(|(word, program)| {
                let path = executable(&messages, &program)
                    .with_context(|| format!("cargo built no {word}"))?;
                let built = Built {
                    name: word.replace('/', "-"),
                    path,
                };
                Ok((word.to_owned(), built))
            })
            .collect::<Result<_>>()?;
        Ok(Self { built })
    }

    /// The name under which a case finds its program.
    pub(crate) fn name_of<'a>(&'a self, case: &'a Case) -> &'a str {
        self.built
            .get(case.program())
            .map_or(case.program(), |built| &built.name)
    }

    /// Name and file of every program that these cases need.
    pub(crate) fn used_by(&self, cases: &[&Case]) -> Vec<(&str, &Path)> {
        self.built
            .iter()
            .filter(|(word, _)| cases.iter().any(|case| case.program() == *word))
            .map(|(_, built)| (built.name.as_str(), built.path.as_path()))
            .collect()
    }
}

#[derive(Deserialize)]
struct Artifact {
    package_id: String,
    target: ArtifactTarget,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct ArtifactTarget {
    name: String,
    kind: Vec<String>,
}

/// Finds a program among cargo's messages, one JSON object a line.
fn executable(messages: &str, program: &Program<'_>) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Artifact>(line).ok())
        .find(|artifact| {
            let id = &artifact.package_id;
            artifact.target.name == program.name
                && artifact.target.kind.iter().any(|k| k == program.kind)
                && (id.contains(&format!("#{}@", program.package))
                    || id.contains(&format!("/{}#", program.package)))
        })?
        .executable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_named_in_two_ways() {
        assert_eq!(
            Program::parse("surefault").unwrap().package,
            "surefault-cli"
        );
        let program = Program::parse("surefault-uffd/test/kernel").unwrap();
        assert_eq!((program.kind, program.name), ("test", "kernel"));
        for bad in ["ls", "a/b", "a/lib/c", "a/bin/c/d"] {
            assert!(Program::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_executable_is_found_among_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","package_id":"path+file:///w/crates/uffd#surefault-uffd@0.1.0","target":{"name":"surefault_uffd","kind":["lib"]},"executable":null}
{"reason":"compiler-artifact","package_id":"path+file:///w/crates/uffd#surefault-uffd@0.1.0","target":{"name":"kernel","kind":["test"]},"executable":"/t/kernel-1"}
{"reason":"build-finished","success":true}"#;
        let find = |word| executable(messages, &Program::parse(word).unwrap());
        assert_eq!(
            find("surefault-uffd/test/kernel"),
            Some(PathBuf::from("/t/kernel-1"))
        );
        assert_eq!(find("surefault-uffd/bin/kernel"), None);
        assert_eq!(find("surefault-kvm/test/kernel"), None);
    }
}
