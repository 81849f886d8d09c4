//! The study is what the commands print: each that stands in `docs/policies.md` is run again, and its
//! output held against the document.
//!
//! ```text
//! SUREFAULT_STUDY=write cargo test -p surefault-cli --test command the_study
//! ```
//! writes what they print now into the document instead. `SUREFAULT_FULL=1` adds the commands that take
//! minutes in a debug build, figures among them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::surefault::{BINARY, output};

crate::cases![the_study_is_what_the_commands_print(Nothing)];

/// A command of the document, and the lines after it.
struct Shown {
    command: String,
    output: String,
}

/// What the document consists of.
enum Part {
    Text(String),
    Shown(Shown),
}

impl Shown {
    /// It takes minutes in a debug build.
    fn is_long(&self) -> bool {
        [
            "--plot",
            "surefault check",
            "--workload storm",
            "--tasks 384",
        ]
        .iter()
        .any(|word| self.command.contains(word))
    }

    /// Times are the host's own.
    fn is_measured(&self) -> bool {
        self.command.contains("--machine kvm")
    }

    /// What it prints in `dir`, without what the document leaves out.
    fn run(&self, dir: &Path) -> String {
        let programs = Path::new(BINARY).parent().expect("a folder");
        let path = std::env::var("PATH").unwrap_or_default();
        let ran = output(
            Command::new("sh")
                .args(["-c", &self.command])
                .current_dir(dir)
                .env("PATH", format!("{}:{path}", programs.display())),
        );
        // `check` says by its exit code that something is violated.
        assert!(
            matches!(ran.code, Some(0 | 3)),
            "{}: {}",
            self.command,
            ran.stderr
        );
        let printed = match self.command.starts_with("surefault compare") {
            // The legend.
            true => ran
                .stdout
                .split_once("\n\n")
                .map_or("", |(_, tables)| tables),
            false => &ran.stdout,
        };
        // How long it took.
        let kept = printed.lines().filter(|line| !line.starts_with("seconds"));
        kept.collect::<Vec<_>>().join("\n").trim_end().to_owned()
    }
}

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    root.expect("the workspace is two levels up").to_owned()
}

/// The commands of all blocks, each with its output, and everything else.
fn parts(document: &str) -> Vec<Part> {
    let mut parts = vec![Part::Text(String::new())];
    let mut in_block = false;
    for line in document.lines() {
        in_block ^= line.starts_with("```");
        match (line.strip_prefix("$ "), parts.last_mut()) {
            (Some(command), _) if in_block => parts.push(Part::Shown(Shown {
                command: command.to_owned(),
                output: String::new(),
            })),
            (_, Some(Part::Shown(shown))) if in_block => {
                let _ = writeln!(shown.output, "{line}");
            }
            (_, Some(Part::Text(text))) => drop(writeln!(text, "{line}")),
            (_, Some(Part::Shown(_)) | None) => parts.push(Part::Text(format!("{line}\n"))),
        }
    }
    parts
}

/// A workspace in which the commands of the document work, and spoil nothing.
fn workspace() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("room");
    std::os::unix::fs::symlink(root().join("crates"), dir.path().join("crates")).expect("a link");
    std::fs::create_dir_all(dir.path().join("docs/figures")).expect("room");
    dir
}

fn the_study_is_what_the_commands_print() {
    let path = root().join("docs/policies.md");
    let document = std::fs::read_to_string(&path).expect("the study is there");
    let set = |name: &str, value: &str| std::env::var(name).is_ok_and(|is| is == value);
    let (full, write) = (set("SUREFAULT_FULL", "1"), set("SUREFAULT_STUDY", "write"));
    let dir = workspace();
    let mut written = String::new();
    let mut played = 0;
    for part in parts(&document) {
        let mut shown = match part {
            Part::Text(text) => {
                written += &text;
                continue;
            }
            Part::Shown(shown) => shown,
        };
        let before = shown.output.trim_end().to_owned();
        if shown.is_measured() {
            println!("not run again, its times are the host's: {}", shown.command);
        } else if shown.is_long() && !full {
            println!("only with SUREFAULT_FULL=1: {}", shown.command);
        } else {
            played += 1;
            let printed = shown.run(dir.path());
            // Where the document shows nothing, a file or a figure is all that is wanted.
            let now = if before.is_empty() {
                String::new()
            } else {
                printed
            };
            if !write {
                assert_eq!(now, before, "{}", shown.command);
            }
            let blank = &shown.output[shown.output.trim_end().len()..];
            let end = if now.is_empty() { "" } else { blank };
            shown.output = format!("{now}{end}");
        }
        let _ = write!(written, "$ {}\n{}", shown.command, shown.output);
    }
    assert!(played >= 12, "{played} commands");
    for figure in std::fs::read_dir(dir.path().join("docs/figures")).expect("a folder") {
        let figure = figure.expect("an entry");
        let drawn = std::fs::read(figure.path()).expect("it was drawn");
        let kept = root().join("docs/figures").join(figure.file_name());
        match write {
            true => std::fs::write(&kept, drawn).expect("it can be written"),
            false => assert!(
                std::fs::read(&kept).is_ok_and(|kept| kept == drawn),
                "{} is drawn otherwise",
                kept.display()
            ),
        }
    }
    match write {
        true => std::fs::write(&path, written).expect("it can be written"),
        false => assert_eq!(written, document, "what is written is the document"),
    }
}
