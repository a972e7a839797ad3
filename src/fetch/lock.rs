//! What was fetched, written down beside it: the next fetch asks for the same commit and the same bytes, whatever the server has by then.
//!
//! As with a package manager's lock file, who has it needs to trust the server only once.

use super::disk::{self, Content};
use crate::error::{Error, Result};
use crate::output;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const VERSION: u32 = 1;
/// No lock file of ours is larger.
const MAX_BYTES: u64 = 1 << 20;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    version: u32,
    /// What was asked for, without its revision.
    pub source: String,
    /// The branch, tag or commit that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// What that was then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Whether every file came.
    pub complete: bool,
    pub files: BTreeMap<String, Locked>,
    /// Files of an earlier commit that are still to be replaced or removed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub earlier: BTreeMap<String, Locked>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locked {
    pub size: u64,
    pub sha256: String,
    /// What the file was held against when it came.
    pub verified: String,
}

impl Lock {
    pub fn new(source: &str, revision: Option<&str>) -> Self {
        Self { version: VERSION, source: source.into(), revision: revision.map(String::from), ..Self::default() }
    }

    /// The lock at `path`, if there is one.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let fail = |problem: String| Error::Checkpoint { file: path.display().to_string(), problem };
        if !disk::is_there(path)? {
            return Ok(None);
        }
        if disk::length(path)? > MAX_BYTES {
            return Err(fail(format!("is no record of a fetch: it has more than {MAX_BYTES} bytes")));
        }
        let text = fs::read(path).map_err(|source| disk::io(path, source))?;
        let lock: Self = serde_json::from_slice(&text).map_err(|error| fail(format!("is no record of a fetch: {error}")))?;
        if lock.version != VERSION {
            return Err(fail(format!("is a record of version {}; this version of detrim reads version {VERSION}", lock.version)));
        }
        let is_hash = |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match lock.files.iter().chain(&lock.earlier).find(|(name, locked)| !is_plain_name(name) || !is_hash(&locked.sha256)) {
            Some((name, _)) => Err(fail(format!("its entry \"{}\" is no file's name with its sha256", name.escape_debug()))),
            None => Ok(Some(lock)),
        }
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        // What is there is replaced, but not if it is a link.
        disk::is_there(path)?;
        let mut text = serde_json::to_string_pretty(self).map_err(|error| disk::io(path, error.into()))?;
        text.push('\n');
        output::write(path, text.as_bytes())
    }

    pub fn enter(&mut self, name: &str, content: &Content, verified: &str) {
        self.files.insert(name.into(), Locked { size: content.size, sha256: content.sha256.clone(), verified: verified.into() });
    }
}

/// Whether a text names a file in a folder and nothing beyond it.
pub fn is_plain_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=200).contains(&name.len()) && name.bytes().all(fits) && !name.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock.json");
        assert_eq!(Lock::read(&path).unwrap(), None);
        let mut lock = Lock::new("hf:me/model", Some("main"));
        lock.commit = Some("0123".into());
        lock.enter("config.json", &Content { size: 3, sha256: "ab".repeat(32), git_blob: String::new() }, "its size");
        lock.write(&path).unwrap();
        assert_eq!(Lock::read(&path).unwrap(), Some(lock));
    }

    #[test]
    fn broken_records_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock.json");
        let entry = |name: &str, hash: &str| {
            format!(r#"{{"version": 1, "source": "x", "complete": true, "files": {{"{name}": {{"size": 1, "sha256": "{hash}", "verified": ""}}}}}}"#)
        };
        let hash = "ab".repeat(32);
        for (text, problem) in [
            ("{".into(), "no record of a fetch"),
            (entry("x", &hash).replace("\"version\": 1", "\"version\": 9"), "version 9"),
            (entry("../x", &hash), "no file's name"),
            (entry(".bashrc", &hash), "no file's name"),
            (entry("x", "short"), "no file's name with its sha256"),
        ] {
            fs::write(&path, text).unwrap();
            let error = Lock::read(&path).unwrap_err().to_string();
            assert!(error.contains("lock.json") && error.contains(problem), "{error}");
        }
    }
}
