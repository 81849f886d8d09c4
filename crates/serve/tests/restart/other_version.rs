//! This test's binary as another version of Surefault: built from a copy of the sources in which
//! nothing but the version is another.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(crate) const VERSION: &str = "0.1.999";

/// Builds it: in minutes, a second time in seconds.
pub(crate) fn build() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let sources = target.join("other-version");
    std::fs::create_dir_all(&sources).expect("a directory");
    // With its times, so that what has not changed is not built again.
    let copied = Command::new("cp")
        .arg("-a")
        .args([root.join("crates"), root.join("Cargo.lock")])
        .arg(&sources)
        .status();
    assert!(copied.expect("cp").success());
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).expect("a manifest");
    let own = format!("version = \"{}\"", env!("CARGO_PKG_VERSION"));
    let changed = manifest.replace(&own, &format!("version = \"{VERSION}\""));
    assert_ne!(manifest, changed, "its version is in the manifest");
    std::fs::write(sources.join("Cargo.toml"), changed).expect("a manifest");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .current_dir(&sources)
        .env("CARGO_TARGET_DIR", sources.join("target"))
        .args(["test", "--no-run", "--offline", "--message-format=json"])
        .args(["-p", "surefault-serve", "--test", "restart"])
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo");
    assert!(built.status.success(), "the other version cannot be built");
    let messages = String::from_utf8(built.stdout).expect("JSON");
    let mut programs = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let program = message["executable"].as_str()?;
        (message["target"]["name"] == "restart").then(|| PathBuf::from(program))
    });
    programs.next_back().expect("a program")
}
