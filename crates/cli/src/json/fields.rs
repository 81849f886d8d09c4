//! Holds what is written against `docs/json.md`.

use std::collections::BTreeSet;

use serde_json::Value;

/// The document.
pub(crate) const DOCS: &str = include_str!("../../../../docs/json.md");

/// Every field of `value`, with its path, has a row in the chapter of this command, and no row is
/// about a field that there is not. What is behind the paths of `elsewhere` is described elsewhere.
pub(crate) fn assert_described(command: &str, value: &Value, elsewhere: &[&str]) {
    let mut written = BTreeSet::new();
    paths("", value, elsewhere, &mut written);
    let chapter = DOCS
        .split("\n## ")
        .find(|chapter| chapter.starts_with(&format!("`{command}`\n")))
        .expect("a chapter");
    let described: BTreeSet<String> = chapter
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(path, _)| path.to_owned())
        // Quoted ones are values, and the others flags.
        .filter(|path| !path.starts_with(['"', '-']))
        .collect();
    assert_eq!(written, described);
}

/// A list counts with what is in it: `steps[].name`.
fn paths(prefix: &str, value: &Value, elsewhere: &[&str], into: &mut BTreeSet<String>) {
    for (key, mut value) in value.as_object().into_iter().flatten() {
        let path = match prefix {
            "" => key.clone(),
            _ => format!("{prefix}.{key}"),
        };
        into.insert(path.clone());
        let mut inside = path;
        if let Some(list) = value.as_array() {
            value = list.first().expect("something in each list, to look into");
            inside += "[]";
        }
        if !elsewhere.contains(&inside.as_str()) {
            paths(&inside, value, elsewhere, into);
        }
    }
}
