//! The cases: one file each in `crates/xtask/cases`, named after it.
//!
//! ```toml
//! about = "a page that cannot be provided ends in a report that names it"
//! run = "surefault run --apf off --fail 5 --format json"
//! exit = 3
//! limit_s = 30                  # killed after that; exit 137 says so
//! prepare = "head -c 1M /dev/zero > /tmp/image"   # optional: a line for the shell, before it
//! kernels = ["6.1"]             # optional: only there, and then `why` is needed
//! why = "no UFFDIO_POISON before 6.6"
//! alike = ["report"]            # optional: the same values on every kernel
//! like = "off-failing"          # optional: and the same as in that case
//! slow = true                   # optional: run only with --slow, or by its full name
//!
//! [json]                        # optional: what stdout must say as JSON (see expect.rs)
//! outcome = "reported"
//! report.gfn = 261
//!
//! [case]                        # optional: the same for wall_ms, cpu_ms, stdout, stderr
//! cpu_ms = { at_most = 500 }
//!
//! [differs."6.1"]               # optional: where a kernel is known to differ, and why
//! why = "…"
//! exit = 4
//! json.outcome = "looped"
//! ```
//!
//! The first word of `run` is `surefault`, or another program of this workspace as
//! `PACKAGE/KIND/NAME`, kind being `bin`, `test` or `example`. Words are split at white space.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::expect::{self, Expectation};
use crate::packages::KERNELS;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    about: String,
    run: String,
    #[serde(default)]
    exit: i32,
    limit_s: u64,
    prepare: Option<String>,
    kernels: Option<Vec<String>>,
    why: Option<String>,
    #[serde(default)]
    alike: Vec<String>,
    like: Option<String>,
    #[serde(default)]
    slow: bool,
    #[serde(default)]
    json: toml::Table,
    #[serde(default)]
    case: toml::Table,
    #[serde(default)]
    differs: BTreeMap<String, Differs>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Differs {
    why: String,
    exit: Option<i32>,
    #[serde(default)]
    json: toml::Table,
    #[serde(default)]
    case: toml::Table,
}

/// Something to run on each kernel, and what must come out.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) about: String,
    pub(crate) run: String,
    pub(crate) prepare: Option<String>,
    pub(crate) limit: Duration,
    /// Paths in the JSON that must have the same value on every kernel.
    pub(crate) alike: Vec<String>,
    /// The case in which they have the same values, too.
    pub(crate) like: Option<String>,
    /// Run only when asked for.
    pub(crate) slow: bool,
    only: Option<Only>,
    expected: Expected,
    differs: BTreeMap<String, Expected>,
}

#[derive(Clone, Debug)]
struct Only {
    kernels: Vec<String>,
    why: String,
}

/// What must come out of a case.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    pub(crate) exit: i32,
    /// Of stdout as JSON.
    pub(crate) json: Vec<Expectation>,
    /// Of the case from outside: time, text.
    pub(crate) case: Vec<Expectation>,
}

impl Case {
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self> {
        let file: File = toml::from_str(text)?;
        for kernel in file.kernels.iter().flatten().chain(file.differs.keys()) {
            if !KERNELS.iter().any(|k| k.name == kernel) {
                bail!("there is no kernel {kernel}");
            }
        }
        if file.run.split_whitespace().next().is_none() {
            bail!("nothing to run");
        }
        let only = match (file.kernels, file.why) {
            (Some(kernels), Some(why)) => Some(Only { kernels, why }),
            (None, None) => None,
            (Some(_), None) => bail!("`kernels` without `why`"),
            (None, Some(_)) => bail!("`why` without `kernels`"),
        };
        let expected = Expected {
            exit: file.exit,
            json: expect::parse(&file.json)?,
            case: expect::parse(&file.case)?,
        };
        let differs = file
            .differs
            .into_iter()
            .map(|(kernel, differs)| {
                if differs.why.is_empty() {
                    bail!("it is not said why {kernel} differs");
                }
                Ok((kernel, expected.but(&differs)?))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            name: name.to_owned(),
            about: file.about,
            run: file.run,
            prepare: file.prepare,
            limit: Duration::from_secs(file.limit_s),
            alike: file.alike,
            like: file.like,
            slow: file.slow,
            only,
            expected,
            differs,
        })
    }

    /// The program's word, and the words after it.
    pub(crate) fn program(&self) -> &str {
        self.run.split_whitespace().next().unwrap_or_default()
    }

    pub(crate) fn arguments(&self) -> impl Iterator<Item = &str> {
        self.run.split_whitespace().skip(1)
    }

    /// Why this case is not for that kernel, if it is not.
    pub(crate) fn not_for(&self, kernel: &str) -> Option<&str> {
        self.only
            .as_ref()
            .filter(|only| !only.kernels.iter().any(|k| k == kernel))
            .map(|only| only.why.as_str())
    }

    pub(crate) fn expected_on(&self, kernel: &str) -> &Expected {
        self.differs.get(kernel).unwrap_or(&self.expected)
    }
}

impl Expected {
    /// These expectations, with those replaced that stand at the same paths.
    fn but(&self, differs: &Differs) -> Result<Self> {
        let replace = |base: &[Expectation], table: &toml::Table| -> Result<Vec<_>> {
            let new = expect::parse(table)?;
            Ok(base
                .iter()
                .filter(|old| !new.iter().any(|new| new.path == old.path))
                .cloned()
                .chain(new.iter().cloned())
                .collect())
        };
        Ok(Self {
            exit: differs.exit.unwrap_or(self.exit),
            json: replace(&self.json, &differs.json)?,
            case: replace(&self.case, &differs.case)?,
        })
    }
}

/// All cases, in the order of their names.
///
/// # Errors
/// When a file cannot be read or understood: its name and why.
pub(crate) fn load(directory: &Path) -> Result<Vec<Case>> {
    let reading = || format!("reading the cases in {}", directory.display());
    let mut paths: Vec<_> = fs::read_dir(directory)
        .with_context(reading)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()
        .with_context(reading)?;
    paths.retain(|path| path.extension().is_some_and(|e| e == "toml"));
    // By name: the dot of the extension would come after the hyphen of a longer name.
    paths.sort_by_key(|path| path.file_stem().map(ToOwned::to_owned));
    paths
        .iter()
        .map(|path| {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let text = fs::read_to_string(path)?;
            Case::parse(&name, &text).with_context(|| format!("in {}", path.display()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "about = \"x\"\nrun = \"surefault  run --fail 5\"\nlimit_s = 30\n";

    #[test]
    fn every_case_of_the_tree_can_be_read() {
        let cases = load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("cases")).unwrap();
        assert!(!cases.is_empty());
        let names: Vec<_> = cases.iter().map(|case| case.name.clone()).collect();
        for case in cases {
            assert!(
                case.like.iter().all(|like| names.contains(like)),
                "{}",
                case.name
            );
            assert!(!case.name.contains(char::is_whitespace), "{}", case.name);
            assert!(!case.about.is_empty(), "{}", case.name);
        }
    }

    #[test]
    fn the_command_is_split_into_words() {
        let case = Case::parse("x", BASE).unwrap();
        assert_eq!(case.program(), "surefault");
        assert_eq!(case.arguments().collect::<Vec<_>>(), ["run", "--fail", "5"]);
        assert_eq!(case.not_for("6.1"), None);
    }

    #[test]
    fn a_case_may_be_for_some_kernels_but_says_why() {
        let text = format!("{BASE}kernels = [\"6.1\"]\nwhy = \"no poison\"\n");
        let case = Case::parse("x", &text).unwrap();
        assert_eq!(case.not_for("6.1"), None);
        assert_eq!(case.not_for("6.12"), Some("no poison"));
        for bad in [
            "kernels = [\"6.1\"]",
            "why = \"x\"",
            "kernels = [\"2.6\"]\nwhy = \"x\"",
        ] {
            assert!(
                Case::parse("x", &format!("{BASE}{bad}\n")).is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_difference_replaces_what_it_names_and_keeps_the_rest() {
        let text = format!(
            "{BASE}exit = 3\n[json]\noutcome = \"reported\"\nreport.gfn = 5\n\
             [differs.\"6.1\"]\nwhy = \"y\"\nexit = 4\njson.outcome = \"looped\"\n"
        );
        let case = Case::parse("x", &text).unwrap();
        assert_eq!(case.expected_on("6.12").exit, 3);
        let old = case.expected_on("6.1");
        assert_eq!(old.exit, 4);
        let root = serde_json::json!({"outcome": "looped", "report": {"gfn": 5}});
        assert!(old.json.iter().all(|e| e.mismatch(&root).is_none()));
        assert_eq!(old.json.len(), 2);
    }

    #[test]
    fn a_misspelt_field_is_refused() {
        assert!(Case::parse("x", &format!("{BASE}exti = 3\n")).is_err());
    }
}
