//! Where this machine gets Debian's packages from: its own apt sources, read and never changed.
//!
//! Both forms are understood: one line (`deb [options] URI SUITE COMPONENT…`, files `*.list`) and
//! deb822 paragraphs (files `*.sources`). No mirror is named in this tree: the kernels come from
//! wherever the machine's other packages do.

use std::fs;
use std::path::{Path, PathBuf};

/// Release names of Debian. An archive that offers one of them is taken to be Debian's own, and to
/// offer the backports of these releases too.
const RELEASES: [&str; 9] = [
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "sid",
    "oldstable",
    "stable",
    "testing",
    "unstable",
];

/// One source of binary packages.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    uri: String,
    suites: Vec<String>,
}

/// The URI of the machine's Debian archive, if its sources have one.
pub(crate) fn debian_archive(etc_apt: &Path) -> Option<String> {
    files(etc_apt)
        .into_iter()
        .filter_map(|path| {
            let text = fs::read_to_string(&path).ok()?;
            Some(if path.extension().is_some_and(|e| e == "sources") {
                parse_paragraphs(&text)
            } else {
                parse_lines(&text)
            })
        })
        .flatten()
        .find(|source| {
            source
                .suites
                .iter()
                .any(|suite| RELEASES.contains(&suite.as_str()))
        })
        .map(|source| source.uri)
}

/// The files that apt reads, in its order.
fn files(etc_apt: &Path) -> Vec<PathBuf> {
    let mut parts: Vec<_> = fs::read_dir(etc_apt.join("sources.list.d"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|e| e == "list" || e == "sources")
        })
        .collect();
    parts.sort();
    let mut files = vec![etc_apt.join("sources.list")];
    files.append(&mut parts);
    files
}

fn parse_lines(text: &str) -> Vec<Source> {
    text.lines()
        .filter_map(|line| {
            let line = line.split('#').next()?.trim();
            let mut rest = line.strip_prefix("deb")?;
            if !rest.starts_with([' ', '\t']) {
                return None; // deb-src
            }
            rest = rest.trim_start();
            if let Some(options) = rest.strip_prefix('[') {
                rest = options.split_once(']')?.1;
            }
            let mut words = rest.split_whitespace();
            Some(Source {
                uri: words.next()?.to_owned(),
                suites: vec![words.next()?.to_owned()],
            })
        })
        .collect()
}

fn parse_paragraphs(text: &str) -> Vec<Source> {
    // Comments may stand between the lines of a field; they do not end a paragraph.
    let uncommented: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
    uncommented
        .split(|line| line.trim().is_empty())
        .filter_map(|paragraph| {
            let words = |name: &str| field(paragraph, name);
            if words("Enabled").iter().any(|v| v == "no") || !words("Types").contains(&"deb".into())
            {
                return None;
            }
            Some(Source {
                uri: words("URIs").into_iter().next()?,
                suites: words("Suites"),
            })
        })
        .collect()
}

/// The words of a field, its continuation lines included.
fn field(paragraph: &[&str], name: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut inside = false;
    for line in paragraph {
        if line.starts_with([' ', '\t']) {
            if inside {
                words.extend(line.split_whitespace().map(str::to_owned));
            }
        } else if let Some((key, value)) = line.split_once(':') {
            inside = key.eq_ignore_ascii_case(name);
            if inside {
                words.extend(value.split_whitespace().map(str::to_owned));
            }
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_sources_are_read() {
        let text = "# deb http://old.invalid/debian bookworm main\n\
                    deb-src http://src.invalid/debian bookworm main\n\
                    deb [arch=amd64 signed-by=/k.gpg] http://m.invalid/debian bookworm main # why\n\
                    deb\thttp://s.invalid/security bookworm-security main\n\
                    deb\n";
        assert_eq!(
            parse_lines(text),
            [
                Source {
                    uri: "http://m.invalid/debian".into(),
                    suites: vec!["bookworm".into()],
                },
                Source {
                    uri: "http://s.invalid/security".into(),
                    suites: vec!["bookworm-security".into()],
                },
            ]
        );
    }

    #[test]
    fn paragraphs_are_read_with_comments_continuations_and_disabled_ones() {
        let text = "Types: deb\n# a comment inside\nURIs: http://m.invalid/debian\n\
                    Suites: bookworm\n bookworm-updates\nComponents: main\n\n\
                    Types: deb-src\nURIs: http://src.invalid/debian\nSuites: sid\n\n\
                    Enabled: no\nTypes: deb\nURIs: http://off.invalid/debian\nSuites: sid\n";
        assert_eq!(
            parse_paragraphs(text),
            [Source {
                uri: "http://m.invalid/debian".into(),
                suites: vec!["bookworm".into(), "bookworm-updates".into()],
            }]
        );
    }

    #[test]
    fn the_archive_is_debians_and_not_the_security_or_a_third_party_one() {
        let dir = tempfile::tempdir().unwrap();
        let parts = dir.path().join("sources.list.d");
        fs::create_dir(&parts).unwrap();
        fs::write(
            dir.path().join("sources.list"),
            "deb http://node.invalid/x nodistro main\n",
        )
        .unwrap();
        fs::write(
            parts.join("a.list.disabled"),
            "deb http://no.invalid/ sid main\n",
        )
        .unwrap();
        fs::write(
            parts.join("debian.sources"),
            "Types: deb\nURIs: http://sec.invalid/\nSuites: bookworm-security\n\n\
             Types: deb\nURIs: http://m.invalid/debian\nSuites: bookworm\n",
        )
        .unwrap();
        assert_eq!(
            debian_archive(dir.path()).as_deref(),
            Some("http://m.invalid/debian")
        );
        assert_eq!(debian_archive(&dir.path().join("nothing")), None);
    }
}
