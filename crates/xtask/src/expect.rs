//! What a case's JSON must say: matchers for values at paths.
//!
//! A table of the case file is walked down to its leaves. A leaf is a plain value, which must be
//! equal, or a table with words of the list in [`matchers`], which must all hold:
//!
//! ```toml
//! [json]
//! outcome = "reported"
//! report.gfn = 261
//! report.access = { one_of = ["read", "write"] }
//! stats.kvm.pf_taken = { at_least = 1000, at_most = 1e9 }
//! report.cause.text = { contains = "deadline" }
//! stats.apf = { present = false }
//! ```

use serde_json::Value;

/// How much of a value is shown that is not what was expected.
const SHOWN_CHARACTERS: usize = 200;

/// One thing that must hold for a value.
#[derive(Clone, Debug, PartialEq)]
enum Matcher {
    Equals(Value),
    AtLeast(f64),
    AtMost(f64),
    OneOf(Vec<Value>),
    Contains(String),
    Present(bool),
}

/// One thing that must hold for the value at a path.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Expectation {
    /// Names and indexes, joined by dots.
    pub(crate) path: String,
    matcher: Matcher,
}

/// A table that cannot be read as expectations.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {why}")]
pub(crate) struct ExpectError {
    path: String,
    why: String,
}

/// Reads a table of a case file.
///
/// # Errors
/// [`ExpectError`] names the path.
pub(crate) fn parse(table: &toml::Table) -> Result<Vec<Expectation>, ExpectError> {
    let mut expectations = Vec::new();
    walk("", table, &mut expectations)?;
    Ok(expectations)
}

fn walk(at: &str, table: &toml::Table, out: &mut Vec<Expectation>) -> Result<(), ExpectError> {
    for (key, value) in table {
        let path = match at {
            "" => key.clone(),
            at => format!("{at}.{key}"),
        };
        match value {
            toml::Value::Table(inner) => match matchers(&path, inner)? {
                Some(matchers) => out.extend(matchers.into_iter().map(|matcher| Expectation {
                    path: path.clone(),
                    matcher,
                })),
                None => walk(&path, inner, out)?,
            },
            plain => out.push(Expectation {
                matcher: Matcher::Equals(json(&path, plain)?),
                path,
            }),
        }
    }
    Ok(())
}

/// The matchers of a table; none when it is a level of the path.
fn matchers(path: &str, table: &toml::Table) -> Result<Option<Vec<Matcher>>, ExpectError> {
    let mut found = Vec::new();
    let error = |why: &str| ExpectError {
        path: path.to_owned(),
        why: why.to_owned(),
    };
    for (word, value) in table {
        let number = || {
            value
                .as_float()
                .or_else(|| value.as_integer().map(|n| n as f64))
                .ok_or_else(|| error("a number is wanted"))
        };
        found.push(match word.as_str() {
            "at_least" => Matcher::AtLeast(number()?),
            "at_most" => Matcher::AtMost(number()?),
            "one_of" => Matcher::OneOf(
                value
                    .as_array()
                    .ok_or_else(|| error("one_of takes a list"))?
                    .iter()
                    .map(|v| json(path, v))
                    .collect::<Result<_, _>>()?,
            ),
            "contains" => Matcher::Contains(
                value
                    .as_str()
                    .ok_or_else(|| error("contains takes a text"))?
                    .to_owned(),
            ),
            "present" => Matcher::Present(
                value
                    .as_bool()
                    .ok_or_else(|| error("present takes true or false"))?,
            ),
            _ if found.is_empty() => return Ok(None),
            _ => return Err(error("matchers and other words in one table")),
        });
    }
    if found.is_empty() {
        return Err(error("an empty table expects nothing"));
    }
    Ok(Some(found))
}

fn json(path: &str, value: &toml::Value) -> Result<Value, ExpectError> {
    serde_json::to_value(value).map_err(|error| ExpectError {
        path: path.to_owned(),
        why: error.to_string(),
    })
}

/// The value at a path.
pub(crate) fn at<'a>(root: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(root, |value, word| match value {
        Value::Array(items) => items.get(word.parse::<usize>().ok()?),
        Value::Object(fields) => fields.get(word),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    })
}

impl Expectation {
    /// What is wrong, in one line; nothing when the expectation holds.
    pub(crate) fn mismatch(&self, root: &Value) -> Option<String> {
        let found = at(root, &self.path).filter(|value| !value.is_null());
        let number = found.and_then(Value::as_f64);
        let holds = match &self.matcher {
            Matcher::Equals(wanted) => found.is_some_and(|value| equal(value, wanted)),
            Matcher::AtLeast(bound) => number.is_some_and(|n| n >= *bound),
            Matcher::AtMost(bound) => number.is_some_and(|n| n <= *bound),
            Matcher::OneOf(wanted) => {
                found.is_some_and(|value| wanted.iter().any(|w| equal(value, w)))
            }
            Matcher::Contains(part) => found
                .and_then(Value::as_str)
                .is_some_and(|text| text.contains(part.as_str())),
            Matcher::Present(wanted) => found.is_some() == *wanted,
        };
        (!holds).then(|| {
            let mut found = found.map_or_else(|| "nothing".to_owned(), Value::to_string);
            if found.chars().count() > SHOWN_CHARACTERS {
                found = found.chars().take(SHOWN_CHARACTERS).collect::<String>() + "…";
            }
            format!("{}: expected {}, got {found}", self.path, self.wanted())
        })
    }

    fn wanted(&self) -> String {
        match &self.matcher {
            Matcher::Equals(value) => value.to_string(),
            Matcher::AtLeast(bound) => format!("at least {bound}"),
            Matcher::AtMost(bound) => format!("at most {bound}"),
            Matcher::OneOf(values) => format!("one of {}", Value::from(values.clone())),
            Matcher::Contains(part) => format!("a text with {part:?}"),
            Matcher::Present(true) => "a value".to_owned(),
            Matcher::Present(false) => "no value".to_owned(),
        }
    }
}

/// Numbers are equal by value: 5 and 5.0 are.
fn equal(one: &Value, other: &Value) -> bool {
    one == other || (one.is_number() && one.as_f64() == other.as_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mismatches(toml: &str, json: &str) -> Vec<String> {
        let root = serde_json::from_str(json).unwrap();
        parse(&toml::from_str(toml).unwrap())
            .unwrap()
            .iter()
            .filter_map(|e| e.mismatch(&root))
            .collect()
    }

    #[test]
    fn values_at_paths_are_compared() {
        let json = r#"{"outcome": "reported", "report": {"gfn": 261, "list": [{"a": 1.0}]}}"#;
        let all = "outcome = \"reported\"\nreport.gfn = 261\nreport.list.0.a = 1";
        assert_eq!(mismatches(all, json), [""; 0]);
        assert_eq!(
            mismatches("report.gfn = 262", json),
            ["report.gfn: expected 262, got 261"]
        );
        assert_eq!(
            mismatches("report.list.1.a = 1", json),
            ["report.list.1.a: expected 1, got nothing"]
        );
    }

    #[test]
    fn each_matcher_accepts_and_refuses() {
        let json = r#"{"n": 10, "t": "past the deadline", "null": null}"#;
        for good in [
            "n = { at_least = 10 }",
            "n = { at_most = 10.0 }",
            "n = { at_least = 1, at_most = 11 }",
            "n = { one_of = [9, 10] }",
            "t = { contains = \"deadline\" }",
            "t = { present = true }",
            "null = { present = false }",
        ] {
            assert_eq!(mismatches(good, json), [""; 0], "{good}");
        }
        for bad in [
            "n = { at_least = 11 }",
            "n = { at_most = 9 }",
            "n = { at_least = 11, at_most = 12 }",
            "n = { one_of = [] }",
            "n = { contains = \"10\" }",
            "t = { at_least = 0 }",
            "t = { present = false }",
            "x = { at_most = 5 }",
            "null = { present = true }",
        ] {
            assert_eq!(mismatches(bad, json).len(), 1, "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for bad in [
            "a = {}",
            "a = { at_least = \"five\" }",
            "a = { one_of = 5 }",
            "a = { at_least = 1, at_mots = 5 }",
            "a.b = { contains = 5 }",
        ] {
            assert!(parse(&toml::from_str(bad).unwrap()).is_err(), "{bad}");
        }
    }
}
