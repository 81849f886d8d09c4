//! The command line of `cargo xtask`.

use crate::packages::{KERNELS, Kernel, Origin};

/// The text of `--help`.
pub(crate) const HELP: &str = "\
cargo xtask matrix [options]
  Boots stock kernels under QEMU's emulation of an AMD host and runs Surefault's cases in them.

  --kernel 6.1,6.12,7.3   only these kernels (default: all three); `host` is the one that runs
                          here, on which the cases run as they are
  --only CASE[,CASE]      only these cases; a final * stands for any rest
  --slow                  also the slow cases, the tests of the crates, which take minutes;
                          a slow case that --only names in full needs no --slow
  --format text|json      what is printed to stdout (default: text)
  --jobs N                kernels at a time (default: 1; times are then comparable)
  --repeat N              the whole N times; the last table is printed, every failure counts
  --record                writes the table into docs/ledger.md
  --refresh               looks for newer kernels now (otherwise once a day)
  --list                  lists the cases and stops

  Exit: 0 all as expected · 1 a case failed · 2 bad usage · 5 this machine lacks something (what,
  and how to get it). Downloads are kept in $XDG_CACHE_HOME/surefault/matrix, logs of failures in
  the target directory, under matrix/boots.
";

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// A table.
    Text,
    /// One object.
    Json,
}

/// What `cargo xtask matrix` was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) kernels: Vec<Kernel>,
    pub(crate) only: Option<Vec<String>>,
    pub(crate) slow: bool,
    pub(crate) format: Format,
    pub(crate) jobs: usize,
    pub(crate) repeat: usize,
    pub(crate) record: bool,
    pub(crate) refresh: bool,
    pub(crate) list: bool,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Print [`HELP`].
    Help,
    /// Run the matrix.
    Matrix(Options),
}

/// A command line that cannot be meant.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}; see cargo xtask --help")]
pub(crate) struct Usage(String);

impl Options {
    /// Whether a case was asked for.
    pub(crate) fn wants(&self, name: &str, slow: bool) -> bool {
        let Some(patterns) = &self.only else {
            return self.slow || !slow;
        };
        let matches = |pattern: &String| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start) && (self.slow || !slow),
            None => name == pattern,
        };
        patterns.iter().any(matches)
    }
}

/// Reads the words after the program's name.
///
/// # Errors
/// [`Usage`].
pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> Result<Task, Usage> {
    let mut words = words.into_iter();
    match words.next().as_deref() {
        Some("matrix") => {}
        None | Some("help" | "-h" | "--help") => return Ok(Task::Help),
        Some(other) => return Err(Usage(format!("there is no task {other}"))),
    }
    let mut options = Options {
        kernels: KERNELS
            .into_iter()
            .filter(|kernel| kernel.origin != Origin::Host)
            .collect(),
        only: None,
        slow: false,
        format: Format::Text,
        jobs: 1,
        repeat: 1,
        record: false,
        refresh: false,
        list: false,
    };
    while let Some(word) = words.next() {
        let (flag, mut given) = match word.split_once('=') {
            Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
            None => (word, None),
        };
        let mut value = || {
            given
                .take()
                .or_else(|| words.next())
                .ok_or_else(|| Usage(format!("{flag} wants a value")))
        };
        match flag.as_str() {
            "--kernel" => options.kernels = kernels(&value()?)?,
            "--only" => options.only = Some(value()?.split(',').map(str::to_owned).collect()),
            "--format" => {
                options.format = match value()?.as_str() {
                    "text" => Format::Text,
                    "json" => Format::Json,
                    other => return Err(Usage(format!("there is no format {other}"))),
                }
            }
            "--jobs" => options.jobs = count(&flag, &value()?)?,
            "--repeat" => options.repeat = count(&flag, &value()?)?,
            "--slow" => options.slow = true,
            "--record" => options.record = true,
            "--refresh" => options.refresh = true,
            "--list" => options.list = true,
            "-h" | "--help" => return Ok(Task::Help),
            other => return Err(Usage(format!("there is no option {other}"))),
        }
        if given.is_some() {
            return Err(Usage(format!("{flag} takes no value")));
        }
    }
    if options.record && options.only.is_some() {
        return Err(Usage(
            "--record wants all cases, not --only some".to_owned(),
        ));
    }
    Ok(Task::Matrix(options))
}

fn kernels(list: &str) -> Result<Vec<Kernel>, Usage> {
    let names: Vec<_> = list.split(',').collect();
    if let Some(unknown) = names.iter().find(|n| KERNELS.iter().all(|k| k.name != **n)) {
        let known = KERNELS.map(|kernel| kernel.name).join(", ");
        return Err(Usage(format!("there is no kernel {unknown}, only {known}")));
    }
    Ok(KERNELS
        .into_iter()
        .filter(|kernel| names.contains(&kernel.name))
        .collect())
}

fn count(flag: &str, text: &str) -> Result<usize, Usage> {
    text.parse()
        .ok()
        .filter(|&n| n > 0)
        .ok_or_else(|| Usage(format!("{flag}: {text} is not a count")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(line: &str) -> Result<Task, Usage> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    fn options(line: &str) -> Options {
        match parse_words(line).unwrap() {
            Task::Matrix(options) => options,
            Task::Help => panic!("help"),
        }
    }

    #[test]
    fn options_are_read_in_both_forms() {
        let all = options("matrix --kernel 7.3,6.1 --only=off-*,probe --format json --jobs=2");
        assert_eq!(all.kernels, [KERNELS[0], KERNELS[2]]);
        assert!(all.wants("off-stall", false) && all.wants("probe", true));
        assert!(!all.wants("off-slow", true));
        assert!(!all.wants("probe2", false) && !all.wants("kernel-stall", false));
        assert_eq!((all.format, all.jobs), (Format::Json, 2));
        assert!(options("matrix").wants("anything", false));
        assert!(!options("matrix").wants("anything", true));
        assert!(options("matrix --slow").wants("anything", true));
        assert_eq!(options("matrix").kernels, KERNELS[..3]);
        assert_eq!(options("matrix --kernel host").kernels, KERNELS[3..]);
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            "matrix --kernel 2.6",
            "matrix --jobs 0",
            "matrix --jobs",
            "matrix --record=yes",
            "matrix --what",
            "matrix --record --only off-stall",
            "matricks",
        ] {
            assert!(parse_words(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_words(""), Ok(Task::Help));
        assert_eq!(parse_words("matrix --help"), Ok(Task::Help));
    }
}
