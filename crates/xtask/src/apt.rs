//! A private apt: the machine's mirror, settings and keys, with lists and downloads of its own.
//!
//! The machine's own apt is read (`/etc/apt`: sources, proxies, credentials), and left as it is:
//! lists, cache and pins are private, and hooks of the machine that clean up after its updates
//! are not run.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};

use crate::command::{output, require, text};
use crate::missing::Missing;
use crate::sources::debian_archive;

const ETC_APT: &str = "/etc/apt";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// How long the lists of packages are taken to be fresh enough.
const FRESH: Duration = Duration::from_secs(24 * 60 * 60);
const OTHERWISE: &str =
    "run this on Debian (or in a container of it) with its archive in /etc/apt/sources.list*";

/// A private apt under a directory of ours.
pub(crate) struct Apt {
    root: PathBuf,
}

impl Apt {
    /// Sets the private apt up under `root` for these suites, and updates its lists when they are
    /// older than a day or `refresh` is asked for.
    ///
    /// # Errors
    /// [`Missing`], when this machine has no apt, no Debian archive or no keys, or when the
    /// archive cannot be reached and there are no lists of an earlier run.
    pub(crate) fn new(root: PathBuf, suites: &[&str], refresh: bool) -> Result<Self> {
        require("apt-get", OTHERWISE)?;
        require("dpkg-deb", OTHERWISE)?;
        let archive = debian_archive(Path::new(ETC_APT)).ok_or_else(|| {
            Missing::new(
                "this machine's apt sources have no Debian archive",
                OTHERWISE,
            )
        })?;
        if !Path::new(KEYRING).exists() {
            return Err(Missing::new(
                format!("Debian's archive keys are not in {KEYRING}"),
                "apt-get install debian-archive-keyring",
            )
            .into());
        }
        let apt = Self { root };
        let changed = apt
            .write_configuration(&archive, suites)
            .with_context(|| format!("preparing a private apt in {}", apt.root.display()))?;
        apt.update(changed || refresh)?;
        Ok(apt)
    }

    /// Whether what was written differs from what was there.
    fn write_configuration(&self, archive: &str, suites: &[&str]) -> Result<bool> {
        let root = &self.root;
        let parts = root.join("apt.conf.d");
        for dir in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(root.join(dir))?;
        }
        if parts.exists() {
            fs::remove_dir_all(&parts)?;
        }
        fs::create_dir_all(&parts)?;
        // Proxies and the like stay the machine's; read by apt itself, so nothing is copied.
        for entry in fs::read_dir(Path::new(ETC_APT).join("apt.conf.d"))
            .into_iter()
            .flatten()
        {
            let entry = entry?;
            symlink(entry.path(), parts.join(entry.file_name()))?;
        }
        fs::write(
            parts.join("zzz-private"),
            "#clear APT::Update::Pre-Invoke;\n#clear APT::Update::Post-Invoke;\n\
             #clear APT::Update::Post-Invoke-Success;\n",
        )?;
        let root_text = root.display();
        fs::write(
            root.join("apt.conf"),
            format!(
                "Dir::Etc::parts \"{root_text}/apt.conf.d\";\n\
                 Dir::Etc::sourcelist \"{root_text}/sources.list\";\n\
                 Dir::Etc::sourceparts \"/dev/null\";\n\
                 Dir::Etc::preferences \"/dev/null\";\n\
                 Dir::Etc::preferencesparts \"/dev/null\";\n\
                 Dir::State::lists \"{root_text}/lists\";\n\
                 Dir::Cache \"{root_text}/cache\";\n"
            ),
        )?;
        let list: String = suites
            .iter()
            .map(|suite| {
                format!(
                    "deb [arch=amd64 target=Packages signed-by={KEYRING}] {archive} {suite} main\n"
                )
            })
            .collect();
        let path = root.join("sources.list");
        let changed = fs::read_to_string(&path).ok().as_ref() != Some(&list);
        fs::write(&path, list)?;
        Ok(changed)
    }

    fn update(&self, force: bool) -> Result<()> {
        let stamp = self.root.join("updated");
        let age = fs::metadata(&stamp)
            .and_then(|m| m.modified())
            .ok()
            .and_then(|then| SystemTime::now().duration_since(then).ok());
        if !force && age.is_some_and(|age| age < FRESH) {
            return Ok(());
        }
        match output(self.command("apt-get").args(["-q", "update"])) {
            Ok(_) => fs::write(&stamp, "").with_context(|| format!("writing {}", stamp.display())),
            Err(error) if age.is_some() && !force => {
                eprintln!(
                    "matrix: the lists of packages could not be updated, older ones are used: {error:#}"
                );
                Ok(())
            }
            Err(error) => Err(Missing::new(
                format!("Debian's lists of packages could not be fetched: {error:#}"),
                "see that `apt-get update` works on this machine, then run this again",
            )
            .into()),
        }
    }

    /// The version of a package in a suite.
    pub(crate) fn version(&self, package: &str, suite: &str) -> Result<String> {
        let shown = self.show(&format!("{package}/{suite}"))?;
        stanza_field(&shown, "Version")
            .with_context(|| format!("{package} in {suite} has no version"))
    }

    /// What a package depends on, each with the version that it names exactly, if it does.
    pub(crate) fn depends(&self, package: &str, version: &str) -> Result<Vec<Dependency>> {
        let shown = self.show(&format!("{package}={version}"))?;
        Ok(stanza_field(&shown, "Depends")
            .map(|text| parse_depends(&text))
            .unwrap_or_default())
    }

    /// Downloads a package into a directory, its signature chain checked by apt.
    pub(crate) fn download(&self, package: &str, version: &str, into: &Path) -> Result<PathBuf> {
        fs::create_dir_all(into)?;
        output(
            self.command("apt-get")
                .args(["-q", "download", &format!("{package}={version}")])
                .current_dir(into),
        )?;
        fs::read_dir(into)?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with(&format!("{package}_")) && name.ends_with(".deb")
            })
            .with_context(|| format!("{package} {version} was downloaded, but left no file"))
    }

    fn show(&self, what: &str) -> Result<String> {
        text(
            self.command("apt-cache")
                .args(["show", "--no-all-versions", what]),
        )
        .map_err(|error| {
            Missing::new(
                format!("the package {what} cannot be had: {error:#}"),
                "see that the machine's Debian mirror carries this suite, or choose --kernel",
            )
            .into()
        })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("APT_CONFIG", self.root.join("apt.conf"))
            .env("LC_ALL", "C");
        command
    }
}

/// A package that another one depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dependency {
    pub(crate) package: String,
    /// Given only where the dependency is `(= version)`.
    pub(crate) version: Option<String>,
}

/// The value of a field in the first paragraph of `apt-cache show`.
fn stanza_field(text: &str, name: &str) -> Option<String> {
    text.lines()
        .take_while(|line| !line.is_empty())
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        .map(str::to_owned)
}

/// The first alternative of each dependency.
fn parse_depends(text: &str) -> Vec<Dependency> {
    text.split(", ")
        .filter_map(|one| {
            let first = one.split('|').next()?.trim();
            let (package, constraint) = first.split_once(' ').unwrap_or((first, ""));
            Some(Dependency {
                package: package.to_owned(),
                version: constraint
                    .strip_prefix("(= ")
                    .and_then(|v| v.strip_suffix(')'))
                    .map(str::to_owned),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_keep_exact_versions_and_first_alternatives() {
        let dependency = |package: &str, version: Option<&str>| Dependency {
            package: package.into(),
            version: version.map(str::to_owned),
        };
        assert_eq!(
            parse_depends(
                "dracut | initramfs-tools (>= 0.120), kmod, linux-binary-7.3.4-x (= 7.3.4-1~bpo13+1)"
            ),
            [
                dependency("dracut", None),
                dependency("kmod", None),
                dependency("linux-binary-7.3.4-x", Some("7.3.4-1~bpo13+1")),
            ]
        );
    }

    #[test]
    fn only_the_first_paragraph_counts() {
        let text = "Package: a\nVersion: 1\n\nPackage: a\nVersion: 2\nDepends: b\n";
        assert_eq!(stanza_field(text, "Version").as_deref(), Some("1"));
        assert_eq!(stanza_field(text, "Depends"), None);
    }
}
