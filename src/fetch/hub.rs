//! A detector from the Hugging Face Hub, or from a server that answers as it does.
//!
//! A file lies at `ENDPOINT/OWNER/NAME/resolve/REVISION/FILE`. Asked by HEAD, the Hub says which commit the revision is (`X-Repo-Commit`)
//! and what the file is: for one in Git LFS its size and sha256 (`X-Linked-Size`, `X-Linked-Etag`), for any other its git blob id (`ETag`).
//! Everything is then fetched at that commit, held against what was said, and written down in `detrim.lock.json`.

use super::client::{Client, Head};
use super::disk;
use super::download::{Expected, Progress, download};
use super::lock::{Lock, is_plain_name};
use crate::error::{Error, Result};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where the Hub is.
pub const ENDPOINT: &str = "https://huggingface.co";
/// What is written down beside the files.
pub const LOCK: &str = "detrim.lock.json";

const CONFIG: &str = "config.json";
const PREPROCESSOR: &str = "preprocessor_config.json";
const INDEX: &str = "model.safetensors.index.json";
/// No list of shards is larger.
const MAX_INDEX: u64 = 16 << 20;
const MAX_SHARDS: usize = 1000;

/// `hf:OWNER/NAME` or `hf:OWNER/NAME@REVISION`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    pub owner: String,
    pub name: String,
    /// A branch, a tag or a commit.
    pub revision: Option<String>,
}

impl FromStr for Repository {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{}\" is no repository on the Hub: hf:OWNER/NAME or hf:OWNER/NAME@REVISION was expected", text.escape_debug());
        let rest = text.strip_prefix("hf:").ok_or_else(wrong)?;
        let (path, revision) = rest.split_once('@').map_or((rest, None), |(path, revision)| (path, Some(revision)));
        let (owner, name) = path.split_once('/').ok_or_else(wrong)?;
        let is_revision =
            |revision: &str| (1..=250).contains(&revision.len()) && revision.bytes().all(|byte| byte.is_ascii_graphic()) && !revision.contains("..");
        if !is_plain_name(owner) || !is_plain_name(name) || !revision.is_none_or(is_revision) {
            return Err(wrong());
        }
        Ok(Self { owner: owner.into(), name: name.into(), revision: revision.map(String::from) })
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "hf:{}/{}", self.owner, self.name)
    }
}

/// What a fetch tells while it works.
pub enum Event<'a> {
    /// A file begins to come.
    File(&'a str),
    Bytes(Progress),
    /// A file is there, and was held against this.
    Verified(&'a str, &'a str),
}

/// What was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    pub folder: PathBuf,
    pub commit: String,
    /// Whether everything was there already, so that no server was asked.
    pub was_there: bool,
}

pub struct Request<'a> {
    pub client: &'a Client,
    pub endpoint: &'a str,
    pub repository: &'a Repository,
    /// Where the files go; a folder of their own.
    pub folder: &'a Path,
    /// Whether to take what the revision is now, whatever was written down.
    pub update: bool,
    /// The most bytes of all files together.
    pub max_bytes: u64,
}

/// What the Hub says of a file.
struct Stated {
    commit: Option<String>,
    expected: Expected,
}

impl Request<'_> {
    pub fn fetch(&self, tell: &mut dyn FnMut(Event)) -> Result<Fetched> {
        disk::make_folder(self.folder)?;
        let record = self.folder.join(LOCK);
        let before = self.written_down(&record)?;
        if let (Some(lock), false) = (&before, self.update)
            && let Some(commit) = lock.commit.clone().filter(|_| lock.complete)
            && self.is_whole(lock, tell)?
        {
            return Ok(Fetched { folder: self.folder.into(), commit, was_there: true });
        }
        let pinned = before.clone().filter(|_| !self.update);
        let asked = pinned.as_ref().and_then(|lock| lock.commit.as_deref()).or(self.repository.revision.as_deref()).unwrap_or("main");
        let config = self
            .stated(CONFIG, asked)?
            .ok_or_else(|| self.failed(CONFIG, asked, "the repository has no such file: it holds no model as transformers saves it"))?;
        let commit = config
            .commit
            .clone()
            .ok_or_else(|| self.failed(CONFIG, asked, "the server doesn't say which commit this is (X-Repo-Commit), as the Hub does"))?;

        let revision = self.repository.revision.as_deref().or(pinned.as_ref().and_then(|lock| lock.revision.as_deref()));
        let mut lock = Lock::new(&self.repository.to_string(), revision);
        lock.commit = Some(commit.clone());
        match (pinned, before) {
            // What came before an interruption stays pinned.
            (Some(pinned), _) => (lock.files, lock.earlier) = (pinned.files, pinned.earlier),
            (None, Some(before)) => lock.earlier = before.earlier.into_iter().chain(before.files).collect(),
            (None, None) => {}
        }
        let mut work = Work { request: self, commit: &commit, record: &record, lock, spent: 0, names: BTreeSet::new() };
        work.take(CONFIG, &config, tell)?;
        if let Some(preprocessor) = self.stated(PREPROCESSOR, &commit)? {
            work.take(PREPROCESSOR, &preprocessor, tell)?;
        }
        for (name, stated) in work.weights(tell)? {
            work.take(&name, &stated, tell)?;
        }
        work.finish()?;
        Ok(Fetched { folder: self.folder.into(), commit, was_there: false })
    }

    /// What an earlier fetch wrote down, if it was one of the same.
    fn written_down(&self, record: &Path) -> Result<Option<Lock>> {
        let Some(lock) = Lock::read(record)? else { return Ok(None) };
        let refuse = |problem: String| Err(Error::Checkpoint { file: record.display().to_string(), problem });
        let source = self.repository.to_string();
        if lock.source != source {
            return refuse(format!("the folder holds {}: give {source} another (--out)", lock.source));
        }
        let same = |revision: &String| lock.revision.as_ref() == Some(revision) || lock.commit.as_ref() == Some(revision);
        match &self.repository.revision {
            Some(revision) if !self.update && !same(revision) => {
                let (was, commit) = (lock.revision.as_deref().unwrap_or("main"), lock.commit.as_deref().unwrap_or("no commit"));
                refuse(format!(
                    "the folder holds revision {was} ({commit}), not {revision}: give another folder (--out), or go over to it by --update"
                ))
            }
            _ => Ok(Some(lock)),
        }
    }

    /// Whether every file is there, and as it was written down.
    fn is_whole(&self, lock: &Lock, tell: &mut dyn FnMut(Event)) -> Result<bool> {
        for (name, locked) in &lock.files {
            let path = self.folder.join(name);
            if !disk::is_there(&path)? {
                return Ok(false);
            }
            let expected = Expected { size: Some(locked.size), ..Expected::sha256(&locked.sha256) };
            if let Some(problem) = expected.problem(&disk::content(&path)?) {
                let problem = format!("is not what was fetched: {problem}, as {LOCK} has it (remove it to fetch it again)");
                return Err(Error::Checkpoint { file: path.display().to_string(), problem });
            }
            tell(Event::Verified(name, &format!("its sha256, as written down in {LOCK}")));
        }
        Ok(!lock.files.is_empty())
    }

    fn address(&self, file: &str, revision: &str) -> String {
        let quoted: String = revision
            .bytes()
            .map(|byte| if byte.is_ascii_alphanumeric() || b"._-~".contains(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
            .collect();
        format!("{}/{}/{}/resolve/{quoted}/{file}", self.endpoint.trim_end_matches('/'), self.repository.owner, self.repository.name)
    }

    fn failed(&self, file: &str, revision: &str, problem: &str) -> Error {
        Error::Download { url: self.address(file, revision), problem: problem.into() }
    }

    /// What the server says of a file; nothing if the repository doesn't have it.
    fn stated(&self, file: &str, revision: &str) -> Result<Option<Stated>> {
        let Head { status, headers } = self.client.head(&self.address(file, revision)).map_err(|problem| self.failed(file, revision, &problem))?;
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        if !status.is_success() && !status.is_redirection() {
            return match refusal(self.repository, revision, status.as_u16(), text("x-error-code").unwrap_or_default()) {
                Some(problem) => Err(self.failed(file, revision, &problem)),
                None => Ok(None),
            };
        }
        let commit = text("x-repo-commit").filter(|commit| commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let tag = text("x-linked-etag").or(text("etag")).unwrap_or_default();
        let tag = tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"').to_ascii_lowercase();
        let hash = |digits: usize| Some(tag.clone()).filter(|tag| tag.len() == digits && tag.bytes().all(|byte| byte.is_ascii_hexdigit()));
        // The length of a redirect says nothing of the file.
        let length = text("content-length").filter(|_| status.is_success());
        let size = text("x-linked-size").or(length).and_then(|size| size.parse().ok());
        Ok(Some(Stated { commit: commit.map(String::from), expected: Expected { size, sha256: hash(64), git_blob: hash(40) } }))
    }
}

/// Why the Hub doesn't give a file, unless it is that there is no such file.
fn refusal(repository: &Repository, revision: &str, status: u16, code: &str) -> Option<String> {
    let page = format!("{ENDPOINT}/{}/{}", repository.owner, repository.name);
    Some(match (status, code) {
        (404, "EntryNotFound" | "") => return None,
        (_, "RevisionNotFound") => format!(
            "{repository} has no revision {revision}: name a branch, tag or commit as hf:OWNER/NAME@REVISION, or leave a commit that is gone by --update"
        ),
        (401 | 403, "GatedRepo") => {
            format!("{repository} is gated: accept its terms at {page} and put an access token of yours into the environment variable HF_TOKEN")
        }
        (401 | 404, _) => {
            format!("there is no repository {repository}, or it is private (then put an access token into the environment variable HF_TOKEN)")
        }
        (403, _) => format!("{repository} may not be read with this access token (HF_TOKEN)"),
        (429, _) => "the server asks to come back later: too many requests (status 429)".into(),
        _ => format!("the server answered with status {status} {code}").trim_end().into(),
    })
}

/// A fetch under way.
struct Work<'a> {
    request: &'a Request<'a>,
    commit: &'a str,
    record: &'a Path,
    lock: Lock,
    /// Bytes of the files so far.
    spent: u64,
    /// The files so far.
    names: BTreeSet<String>,
}

impl Work<'_> {
    /// The files of the weights: one, or several shards.
    fn weights(&mut self, tell: &mut dyn FnMut(Event)) -> Result<BTreeMap<String, Stated>> {
        let request = self.request;
        for name in ["model.safetensors", INDEX, "pytorch_model.bin"] {
            let Some(stated) = request.stated(name, self.commit)? else { continue };
            if name != INDEX {
                return self.affordable([(name.to_string(), stated)].into());
            }
            self.take(INDEX, &stated, tell)?;
            let mut shards = BTreeMap::new();
            for shard in shards_of(&request.folder.join(INDEX))? {
                let stated = request.stated(&shard, self.commit)?;
                let stated = stated
                    .ok_or_else(|| request.failed(&shard, self.commit, &format!("{INDEX} names this file, but the repository doesn't have it")))?;
                shards.insert(shard, stated);
            }
            return self.affordable(shards);
        }
        Err(request.failed("model.safetensors", self.commit, &format!("the repository has neither this file nor {INDEX} or pytorch_model.bin")))
    }

    /// Refuses what is too large before any of it comes.
    fn affordable(&self, weights: BTreeMap<String, Stated>) -> Result<BTreeMap<String, Stated>> {
        let request = self.request;
        let all = weights.values().filter_map(|stated| stated.expected.size).fold(self.spent, u64::saturating_add);
        if all > request.max_bytes {
            let problem = format!("its files have {all} bytes, and at most {} are taken (--max-size takes more)", request.max_bytes);
            return Err(Error::Download { url: request.repository.to_string(), problem });
        }
        Ok(weights)
    }

    /// Brings a file, and writes down what it is.
    fn take(&mut self, name: &str, stated: &Stated, tell: &mut dyn FnMut(Event)) -> Result<()> {
        let request = self.request;
        let (path, url) = (request.folder.join(name), request.address(name, self.commit));
        let expected = self.expected(name, stated)?;
        // An update replaces what an earlier fetch brought, and nothing else.
        if let Some(earlier) = self.lock.earlier.get(name).filter(|_| disk::is_there(&path).unwrap_or(false)) {
            let found = disk::content(&path)?;
            if found.sha256 == earlier.sha256 && expected.problem(&found).is_some() {
                disk::remove(&path)?;
            }
        }
        tell(Event::File(name));
        let left = request.max_bytes.saturating_sub(self.spent);
        let content = download(request.client, &url, &path, &expected, left, &mut |progress| tell(Event::Bytes(progress)))?;
        self.spent += content.size;
        let verified = match (&stated.expected.sha256, &stated.expected.git_blob, self.lock.files.get(name)) {
            (_, _, Some(_)) => format!("its sha256, as written down in {LOCK}"),
            (Some(_), ..) => "its sha256, as the server states it".into(),
            (None, Some(_), _) => "its git blob id (SHA-1), as the server states it".into(),
            (None, None, _) => "nothing but its length: the server states no hash".to_string(),
        };
        self.lock.enter(name, &content, &verified);
        self.lock.earlier.remove(name);
        self.names.insert(name.into());
        self.lock.write(self.record)?;
        tell(Event::Verified(name, &verified));
        Ok(())
    }

    /// What is stated of a file, and what was written down of it before.
    fn expected(&self, name: &str, stated: &Stated) -> Result<Expected> {
        let Some(locked) = self.lock.files.get(name) else { return Ok(stated.expected.clone()) };
        match &stated.expected.sha256 {
            Some(sha256) if *sha256 != locked.sha256 => {
                let problem =
                    format!("the server states the sha256 {sha256} for the same commit that had {} before, as {LOCK} has it", locked.sha256);
                Err(self.request.failed(name, self.commit, &problem))
            }
            _ => Ok(Expected { size: Some(locked.size), sha256: Some(locked.sha256.clone()), git_blob: stated.expected.git_blob.clone() }),
        }
    }

    /// Writes down that everything came, and removes what an earlier commit had and this one hasn't.
    fn finish(mut self) -> Result<()> {
        self.lock.files.retain(|name, _| self.names.contains(name));
        for (name, earlier) in std::mem::take(&mut self.lock.earlier) {
            let path = self.request.folder.join(name);
            if disk::is_there(&path)? && disk::content(&path)?.sha256 == earlier.sha256 {
                disk::remove(&path)?;
            }
        }
        self.lock.complete = true;
        self.lock.write(self.record)
    }
}

/// The names of the files that a list of shards leads to.
fn shards_of(index: &Path) -> Result<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let fail = |problem: String| Error::Checkpoint { file: index.display().to_string(), problem };
    if disk::length(index)? > MAX_INDEX {
        return Err(fail(format!("has more than {MAX_INDEX} bytes, which no list of shards has")));
    }
    let text = std::fs::read(index).map_err(|source| disk::io(index, source))?;
    let Index { weight_map } = serde_json::from_slice(&text).map_err(|error| fail(format!("is no list of shards: {error}")))?;
    let shards: BTreeSet<String> = weight_map.into_values().collect();
    if shards.is_empty() || shards.len() > MAX_SHARDS {
        return Err(fail(format!("lists {} shards; 1 to {MAX_SHARDS} were expected", shards.len())));
    }
    match shards.iter().find(|name| !is_plain_name(name) || !name.ends_with(".safetensors")) {
        Some(name) => Err(fail(format!("its weight_map names \"{}\", which is no .safetensors file beside it", name.escape_debug()))),
        None => Ok(shards),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_named_as_on_the_hub() {
        let repository: Repository = "hf:PekingU/rtdetr_v2_r18vd@refs/pr/3".parse().unwrap();
        assert_eq!((repository.owner.as_str(), repository.name.as_str()), ("PekingU", "rtdetr_v2_r18vd"));
        assert_eq!(repository.revision.as_deref(), Some("refs/pr/3"));
        for wrong in [
            "hf:model",
            "me/model",
            "hf:me/model@",
            "hf:../model",
            "hf:me/..",
            "hf:me/a/b",
            "hf:me/mo del",
            "hf:me/model@a b",
            "hf:me/model@../x",
            "hf:/x",
        ] {
            assert!(wrong.parse::<Repository>().unwrap_err().contains("hf:OWNER/NAME"), "{wrong}");
        }
    }

    #[test]
    fn a_revision_is_one_part_of_the_address() {
        let repository: Repository = "hf:me/model".parse().unwrap();
        let client = Client::new(false);
        let request =
            Request { client: &client, endpoint: "https://hub/", repository: &repository, folder: Path::new("."), update: false, max_bytes: 1 };
        assert_eq!(request.address("config.json", "refs/pr/3"), "https://hub/me/model/resolve/refs%2Fpr%2F3/config.json");
    }
}
