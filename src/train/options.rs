//! What a run was started with, kept in its folder: so that going on with other options doesn't go unnoticed.

use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// Options by their names.
pub type Options = Map<String, Value>;

/// Reads options; nothing where there is no such file.
pub fn read(path: &Path) -> Result<Option<Options>> {
    if !path.exists() {
        return Ok(None);
    }
    let file = path.display().to_string();
    let text = std::fs::read(path).map_err(|source| Error::Io { file: file.clone(), source })?;
    serde_json::from_slice(&text).map(Some).map_err(|error| Error::Run { file, problem: format!("not the options of a run: {error}") })
}

pub fn write(path: &Path, options: &Options) -> Result<()> {
    let fail = |error: serde_json::Error| Error::Run { file: path.display().to_string(), problem: error.to_string() };
    let text = serde_json::to_string_pretty(options).map_err(fail)? + "\n";
    crate::output::write(path, text.as_bytes())
}

/// The options among `names` that both have and that differ, a sentence each.
pub fn differences(before: &Options, now: &Options, names: impl Fn(&str) -> bool) -> Vec<String> {
    let both = before.iter().filter_map(|(name, was)| Some((name, was, now.get(name)?)));
    let differing = both.filter(|(name, was, is)| names(name) && was != is);
    differing.map(|(name, was, is)| format!("--{} was {}, not {}", name.replace('_', "-"), plain(was), plain(is))).collect()
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_differs_is_named_and_what_only_one_has_is_not() {
        let options = |value: Value| value.as_object().cloned().unwrap();
        let before = options(json!({ "batch": 8, "d_model": 64, "rate": 0.1, "gone": 1 }));
        let now = options(json!({ "batch": 8, "d_model": 72, "rate": 0.2, "new": 1 }));
        assert_eq!(differences(&before, &now, |_| true), ["--d-model was 64, not 72", "--rate was 0.1, not 0.2"]);
        assert_eq!(differences(&before, &now, |name| name == "batch"), [""; 0]);
    }

    #[test]
    fn options_come_back_and_a_broken_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("options.json");
        assert_eq!(read(&path).unwrap(), None);
        let options = json!({ "batch": 8, "rate": 2e-4 }).as_object().cloned().unwrap();
        write(&path, &options).unwrap();
        assert_eq!(read(&path).unwrap(), Some(options));
        std::fs::write(&path, "{").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("options.json"));
    }
}
