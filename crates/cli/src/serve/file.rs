//! The file that has the daemon's settings.

use std::path::Path;

use super::args::Settings;
use crate::exit::{Exit, Failure};

/// Reads it.
pub(super) fn load(path: &Path) -> Result<Settings, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let error = anyhow::Error::new(error).context(format!("cannot read {}", path.display()));
        Failure::option("--config", error)
    })?;
    parse(&text).map_err(|what| {
        let error = anyhow::anyhow!("{}, {what}", path.display());
        Failure::new(Exit::Usage, error.context("--config"))
    })
}

/// What is wrong names the line, and shows what is in it: the field.
fn parse(text: &str) -> Result<Settings, String> {
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let at = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = text.as_bytes()[..at]
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count();
        let shown = text.lines().nth(line).unwrap_or_default().trim();
        format!(
            "line {} (`{shown}`): {}",
            line + 1,
            error.message().trim_end()
        )
    })
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use clap::Args as _;

    use super::*;
    use crate::serve::args::{FailedPageChoice, Listen};

    #[test]
    fn the_words_are_those_of_the_flags() {
        let text = r#"
            listen = ["/run/a.sock=/snap/a", "/run/b.sock=/snap/b"]
            control = "/run/control"
            deadline = "2s"
            failed-page = "kill"
            attempts = 5
            prefetch = "around=16"
            metrics = "127.0.0.1:9181"
            allow-uid = [1000]
            max-vms = 10
            max-regions = 4
            max-memory = 512
            max-pending = 64
            max-reads = 2
            handshake-time = "1s"
            no-seccomp = true
            no-supervisor = true
            worker-silence = "10s"
        "#;
        let settings = parse(text).expect("settings");
        let b = Listen {
            socket: "/run/b.sock".into(),
            store: "/snap/b".to_owned(),
        };
        assert_eq!(settings.listen[1], b);
        assert_eq!(settings.deadline, Some(Duration::from_secs(2)));
        assert_eq!(settings.failed_page, Some(FailedPageChoice::Kill));
        // Every flag is among them.
        let flags = Settings::augment_args(clap::Command::new("serve"));
        for flag in flags.get_arguments() {
            let name = flag.get_long().expect("a long name");
            assert!(text.contains(&format!("{name} = ")), "{name} is not tried");
        }
        let config = settings.config();
        assert_eq!(config.pager.residency.attempts, 5);
        assert_eq!(config.handshake.memory, 512 << 20);
    }

    #[test]
    fn flags_come_first() {
        let mut flags = Settings {
            attempts: Some(1),
            ..Settings::default()
        };
        flags.fill_in(parse("attempts = 7\nmax-vms = 3").expect("settings"));
        assert_eq!((flags.attempts, flags.max_vms), (Some(1), Some(3)));
    }

    #[test]
    fn what_is_wrong_is_shown() {
        for (text, words) in [
            (
                "\ndeadlin = \"5s\"",
                ["line 2 (`deadlin = \"5s\"`)", "unknown field `deadlin`"],
            ),
            ("deadline = \"5 apples\"", ["line 1 (`deadline", "apples"]),
            (
                "deadline = 5",
                ["line 1 (`deadline = 5`)", "expected a string"],
            ),
            (
                "failed-page = \"burn\"",
                ["line 1 (`failed-page", "unknown variant `burn`"],
            ),
            (
                "listen = [\"x\"]",
                ["line 1 (`listen", "'x' is not SOCKET=STORE"],
            ),
            ("attempts = \n", ["line 1", "value"]),
        ] {
            let error = parse(text).expect_err(text);
            for word in words {
                assert!(error.contains(word), "'{word}' is not in: {error}");
            }
        }
    }
}
