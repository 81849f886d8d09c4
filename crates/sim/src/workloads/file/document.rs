//! The text of a workload's file, and where in it something is wrong.

use std::path::Path;
use std::time::Duration;

use surefault_core::plan::parse_duration;
use toml::Spanned;

use super::WorkloadFileError;

pub(super) struct Document<'a> {
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
}

impl Document<'_> {
    /// What TOML has to say against the text. The field is the key in the line that it points to.
    pub(super) fn toml(&self, error: &toml::de::Error) -> WorkloadFileError {
        let message = error
            .message()
            .replace("expected u16", "expected a number of at most 65535")
            .replace("expected u32", "expected a number of at most 4294967295");
        self.at(error.span().unwrap_or_default().start, &message)
    }

    /// Something is wrong with what stands at this byte.
    pub(super) fn at(&self, byte: usize, message: &str) -> WorkloadFileError {
        let line = self.line(byte);
        let text = self.text.lines().nth(line - 1).unwrap_or_default().trim();
        let path = self.path.to_owned();
        // Some messages have lines of their own.
        let message = message.trim().replace('\n', ", ");
        match key(text) {
            Some(field) => WorkloadFileError::Field {
                path,
                line,
                field: field.to_owned(),
                message,
            },
            None => WorkloadFileError::Line {
                path,
                line,
                text: text.to_owned(),
                message,
            },
        }
    }

    /// The line, counted from 1, of a byte.
    pub(super) fn line(&self, byte: usize) -> usize {
        let before = self.text.get(..byte).unwrap_or(self.text);
        before.matches('\n').count() + 1
    }

    /// A field contradicts another, or is missing: the whole of `raw` is at fault.
    pub(super) fn field<T>(
        &self,
        field: &'static str,
        raw: Option<&Spanned<T>>,
        message: String,
    ) -> WorkloadFileError {
        WorkloadFileError::Field {
            path: self.path.to_owned(),
            line: raw.map_or(1, |raw| self.line(raw.span().start)),
            field: field.to_owned(),
            message,
        }
    }

    fn wrong(
        &self,
        field: &'static str,
        raw: &Spanned<String>,
        expected: String,
    ) -> WorkloadFileError {
        WorkloadFileError::Value {
            path: self.path.to_owned(),
            line: self.line(raw.span().start),
            field,
            value: raw.get_ref().clone(),
            expected,
        }
    }

    pub(super) fn one_of<T: Copy>(
        &self,
        field: &'static str,
        raw: &Spanned<String>,
        names: &[(&'static str, T)],
    ) -> Result<T, WorkloadFileError> {
        let found = names.iter().find(|(name, _)| name == raw.get_ref());
        found.map(|&(_, value)| value).ok_or_else(|| {
            let names: Vec<&str> = names.iter().map(|&(name, _)| name).collect();
            self.wrong(field, raw, format!("one of {}", names.join(", ")))
        })
    }

    pub(super) fn optional<T: Copy>(
        &self,
        field: &'static str,
        raw: Option<&Spanned<String>>,
        names: &[(&'static str, T)],
    ) -> Result<Option<T>, WorkloadFileError> {
        raw.map(|raw| self.one_of(field, raw, names)).transpose()
    }

    /// A value that `read` understands.
    pub(super) fn read<T>(
        &self,
        field: &'static str,
        raw: Option<&Spanned<String>>,
        expected: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, WorkloadFileError> {
        raw.map(|raw| {
            read(raw.get_ref()).ok_or_else(|| self.wrong(field, raw, expected.to_owned()))
        })
        .transpose()
    }

    pub(super) fn time(
        &self,
        field: &'static str,
        raw: Option<&Spanned<String>>,
    ) -> Result<Option<Duration>, WorkloadFileError> {
        raw.map(|raw| {
            let expected = "a duration: a number and a unit (ns, us, ms, s)".to_owned();
            let positive = parse_duration(raw.get_ref())
                .ok()
                .filter(|time| !time.is_zero());
            positive.ok_or_else(|| self.wrong(field, raw, expected))
        })
        .transpose()
    }
}

/// The key that a line begins with: `key = value`, `[key]`, or a key alone.
fn key(line: &str) -> Option<&str> {
    let key = line.trim_start_matches('[').split(['=', ']', '#']).next()?;
    let key = key.trim().trim_matches(['"', '\'']);
    let is_bare = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    (!key.is_empty() && key.chars().all(is_bare)).then_some(key)
}
