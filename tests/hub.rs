//! `detrim fetch hf:…` from a server on this machine that answers as the Hub does: small files by way of a relative redirect, large ones by
//! one to another server.

use crate::fetch::{files, sha256};
use crate::server::{Server, response, serve_all};
use crate::tiny;
use detrim::checkpoint::{self, Guess};
use detrim::fetch::hub::{Event, Fetched, LOCK, Repository, Request};
use detrim::fetch::{Client, MAX_BYTES};
use sha1::{Digest, Sha1};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

const FIRST: &str = "1111111111111111111111111111111111111111";
const SECOND: &str = "2222222222222222222222222222222222222222";

/// A repository's files; what is large lies in Git LFS.
type Files = BTreeMap<String, Vec<u8>>;

/// What the servers know; a test changes it as it goes.
#[derive(Default)]
struct State {
    /// From the oldest on; the last is `main`.
    commits: Vec<(&'static str, Files)>,
    gated: bool,
    /// Of what the content delivery network has of each file, so many bytes come in the first answer.
    cut: Option<usize>,
    /// What the content delivery network sends in place of a large file.
    forged: Option<Vec<u8>>,
    /// Whether files have no hash, as on a plain mirror.
    plain: bool,
    down: bool,
}

struct Hub {
    hub: Server,
    cdn: Server,
    state: Arc<Mutex<State>>,
}

fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".bin")
}

fn git_blob(content: &[u8]) -> String {
    let digest = Sha1::new().chain_update(format!("blob {}\0", content.len())).chain_update(content).finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Hub {
    fn new(first: Files) -> Self {
        let state = Arc::new(Mutex::new(State { commits: vec![(FIRST, first)], ..State::default() }));
        let (of_cdn, of_hub) = (state.clone(), state.clone());
        let cdn = serve_all(move |headers| deliver(&of_cdn.lock().unwrap(), headers));
        let address = cdn.origin.clone();
        let hub = serve_all(move |headers| resolve(&of_hub.lock().unwrap(), &address, headers));
        Self { hub, cdn, state }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    fn fetch(&self, repository: &str, folder: &Path) -> Result<Fetched, String> {
        self.fetch_with(repository, folder, false, MAX_BYTES)
    }

    fn update(&self, folder: &Path) -> Result<Fetched, String> {
        self.fetch_with("hf:me/model", folder, true, MAX_BYTES)
    }

    fn fetch_with(&self, repository: &str, folder: &Path, update: bool, max_bytes: u64) -> Result<Fetched, String> {
        let (client, repository): (_, Repository) = (Client::new(true), repository.parse().unwrap());
        let request = Request { client: &client, endpoint: &self.hub.origin, repository: &repository, folder, update, max_bytes };
        request.fetch(&mut |_| {}).map_err(|error| error.to_string())
    }

    /// Requests so far, of both servers.
    fn requests(&self) -> usize {
        self.hub.requests.lock().unwrap().len() + self.cdn.requests.lock().unwrap().len()
    }
}

/// The Hub's answer.
fn resolve(state: &State, cdn: &str, headers: &str) -> Vec<u8> {
    let refuse = |status: &str, code: &str| response(status, &format!("Content-Length: 0\r\nX-Error-Code: {code}\r\n"), b"");
    let mut words = headers.split_whitespace();
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    if state.down {
        return refuse("503 Service Unavailable", "");
    }
    let (direct, path) = match path.strip_prefix("/api/resolve-cache/models") {
        Some(path) => (true, path),
        None => (false, path),
    };
    let Some(rest) = path.strip_prefix("/me/model/resolve/") else { return refuse("401 Unauthorized", "RepoNotFound") };
    if state.gated && !headers.contains("authorization: bearer secret") {
        return refuse("401 Unauthorized", "GatedRepo");
    }
    let (revision, name) = rest.split_once('/').unwrap();
    let named = state.commits.iter().find(|(commit, _)| *commit == revision);
    let found = if revision == "main" || revision == "refs%2fpr%2f1" { state.commits.last() } else { named };
    let Some((commit, files)) = found else { return refuse("404 Not Found", "RevisionNotFound") };
    let Some(content) = files.get(name) else { return refuse("404 Not Found", "EntryNotFound") };
    let told = format!("X-Repo-Commit: {commit}\r\n");
    if state.plain {
        return response("200 OK", &format!("{told}Content-Length: {}\r\n", content.len()), if method == "head" { b"" } else { content });
    }
    if is_large(name) {
        let (hash, size) = (sha256(content), content.len());
        let told = format!("{told}X-Linked-Size: {size}\r\nX-Linked-ETag: \"{hash}\"\r\nLocation: {cdn}/{hash}?signature=secret\r\n");
        return response("302 Found", &format!("{told}ETag: \"of-the-redirect\"\r\nContent-Length: 0\r\n"), b"");
    }
    if !direct {
        let location = format!("Location: /api/resolve-cache/models/me/model/resolve/{commit}/{name}\r\n");
        return response("307 Temporary Redirect", &format!("{told}{location}ETag: \"of-the-redirect\"\r\nContent-Length: 0\r\n"), b"");
    }
    let told = format!("ETag: \"{}\"\r\nContent-Length: {}\r\n", git_blob(content), content.len());
    response("200 OK", &told, if method == "head" { b"" } else { content })
}

/// The content delivery network's answer.
fn deliver(state: &State, headers: &str) -> Vec<u8> {
    assert!(headers.starts_with("get /") && !headers.contains("authorization"), "{headers}");
    let hash = headers["get /".len()..].split('?').next().unwrap().to_string();
    let content =
        state.commits.iter().flat_map(|(_, files)| files.values()).find(|content| sha256(content) == hash).expect("a file of the repository");
    let content = state.forged.as_ref().unwrap_or(content);
    let start = headers.lines().find_map(|line| line.strip_prefix("range: bytes=")).map_or(0, |range| range.trim_end_matches('-').parse().unwrap());
    let told = format!("ETag: \"cdn-{hash}\"\r\nContent-Length: {}\r\n", content.len() - start);
    if start > 0 {
        let range = format!("Content-Range: bytes {start}-{}/{}\r\n", content.len() - 1, content.len());
        return response("206 Partial Content", &format!("{told}{range}"), &content[start..]);
    }
    response("200 OK", &told, &content[..state.cut.unwrap_or(content.len()).min(content.len())])
}

/// A model as small as can be, of numbers that tell it from others.
fn model(config: &str) -> Files {
    let weights = tiny::bytes(&tiny::hugging_face());
    [("config.json", config.as_bytes().to_vec()), ("preprocessor_config.json", b"{}".to_vec()), ("model.safetensors", weights)]
        .map(|(name, content)| (name.to_string(), content))
        .into()
}

/// The same in two shards and their list.
fn sharded() -> Files {
    let all = tiny::hugging_face();
    let (mut first, mut second) = (tiny::Shapes::new(), tiny::Shapes::new());
    let mut list = BTreeMap::new();
    for (i, (name, shape)) in all.into_iter().enumerate() {
        let (shard, file) =
            if i % 2 == 0 { (&mut first, "model-00001-of-00002.safetensors") } else { (&mut second, "model-00002-of-00002.safetensors") };
        list.insert(name.clone(), file);
        shard.insert(name, shape);
    }
    let mut files = model("{}");
    files.remove("model.safetensors");
    files.insert("model-00001-of-00002.safetensors".into(), tiny::bytes(&first));
    files.insert("model-00002-of-00002.safetensors".into(), tiny::bytes(&second));
    files.insert("model.safetensors.index.json".into(), serde_json::json!({ "metadata": {}, "weight_map": list }).to_string().into());
    files
}

/// What lies in a folder is what the repository has.
fn assert_holds(folder: &Path, files_there: &Files) {
    let mut expected: Vec<&str> = files_there.keys().map(String::as_str).chain([LOCK]).collect();
    expected.sort_unstable();
    assert_eq!(files(folder), expected);
    for (name, content) in files_there {
        assert!(std::fs::read(folder.join(name)).unwrap() == *content, "{name}");
    }
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    (folder, path)
}

#[test]
fn a_model_comes_verified_and_written_down() {
    let (_folder, path) = folder();
    let there = model("{}");
    let hub = Hub::new(there.clone());
    let (client, repository): (_, Repository) = (Client::new(true), "hf:me/model".parse().unwrap());
    let request = Request { client: &client, endpoint: &hub.hub.origin, repository: &repository, folder: &path, update: false, max_bytes: MAX_BYTES };
    let (mut told, mut bytes) = (Vec::new(), 0);
    let fetched = request.fetch(&mut |event| match event {
        Event::Verified(file, how) => told.push(format!("{file}: {how}")),
        Event::Bytes(progress) => bytes = progress.done,
        Event::File(_) => {}
    });
    assert_eq!(fetched.unwrap(), Fetched { folder: path.clone(), commit: FIRST.into(), was_there: false });
    assert_holds(&path, &there);
    assert!(
        told[0].contains("config.json: its git blob id") && told[2].contains("model.safetensors: its sha256, as the server states it"),
        "{told:?}"
    );
    assert_eq!(bytes, there["model.safetensors"].len() as u64);
    let lock: serde_json::Value = serde_json::from_slice(&std::fs::read(path.join(LOCK)).unwrap()).unwrap();
    assert_eq!((&lock["source"], &lock["commit"], &lock["complete"]), (&"hf:me/model".into(), &FIRST.into(), &true.into()));
    assert_eq!(lock["files"]["model.safetensors"]["sha256"], sha256(&there["model.safetensors"]));
    checkpoint::open(&path, &Guess::default()).unwrap();
    // All was asked for at the commit, once it was known.
    for request in &hub.hub.requests.lock().unwrap()[2..] {
        assert!(request.lines().next().unwrap().contains(FIRST), "{request}");
    }

    // It is there: it is looked at, and no server is asked.
    let before = hub.requests();
    assert!(hub.fetch("hf:me/model", &path).unwrap().was_there);
    assert_eq!(hub.requests(), before);
    std::fs::write(path.join("config.json"), "[]").unwrap();
    let error = hub.fetch("hf:me/model", &path).unwrap_err();
    assert!(error.contains("config.json") && error.contains("not what was fetched"), "{error}");
}

#[test]
fn the_next_fetch_is_pinned_until_it_is_told_to_go_on() {
    let (_folder, path) = folder();
    let (old, new) = (sharded(), model(r#"{"num_queries": 3}"#));
    let hub = Hub::new(old.clone());
    hub.fetch("hf:me/model", &path).unwrap();
    assert_holds(&path, &old);
    hub.change(|state| state.commits.push((SECOND, new.clone())));
    std::fs::remove_file(path.join("model-00002-of-00002.safetensors")).unwrap();
    assert_eq!(hub.fetch("hf:me/model", &path).unwrap().commit, FIRST);
    assert_holds(&path, &old);
    // An update that breaks off goes on, and nothing of the old commit is left in the end.
    hub.change(|state| state.forged = Some(b"nonsense".to_vec()));
    assert!(hub.update(&path).is_err());
    hub.change(|state| state.forged = None);
    assert_eq!(hub.update(&path).unwrap().commit, SECOND);
    assert_holds(&path, &new);
    // A commit that is gone is not silently another one.
    hub.change(|state| state.commits = vec![("3333333333333333333333333333333333333333", old.clone())]);
    std::fs::remove_file(path.join("model.safetensors")).unwrap();
    let error = hub.fetch("hf:me/model", &path).unwrap_err();
    assert!(error.contains(SECOND) && error.contains("--update"), "{error}");
    // What somebody changed is not overwritten by an update.
    std::fs::write(path.join("config.json"), "[]").unwrap();
    let error = hub.update(&path).unwrap_err();
    assert!(error.contains("config.json") && std::fs::read(path.join("config.json")).unwrap() == b"[]", "{error}");
}

#[test]
fn a_folder_holds_one_revision_of_one_repository() {
    let (_folder, path) = folder();
    let hub = Hub::new(model("{}"));
    hub.fetch("hf:me/model@refs/pr/1", &path).unwrap();
    assert!(hub.hub.requests.lock().unwrap()[0].starts_with("head /me/model/resolve/refs%2fpr%2f1/config.json "));
    assert!(hub.fetch("hf:me/model", &path).unwrap().was_there);
    assert!(hub.fetch(&format!("hf:me/model@{FIRST}"), &path).unwrap().was_there);
    for (repository, problem) in [("hf:me/model@v2", "not v2"), ("hf:you/model", "holds hf:me/model")] {
        let error = hub.fetch(repository, &path).unwrap_err();
        assert!(error.contains(LOCK) && error.contains(problem), "{error}");
    }
}

#[test]
fn what_breaks_off_goes_on() {
    let (_folder, path) = folder();
    let there = model("{}");
    let hub = Hub::new(there.clone());
    hub.change(|state| state.cut = Some(1000));
    hub.fetch("hf:me/model", &path).unwrap();
    assert_holds(&path, &there);
    let requests = hub.cdn.requests.lock().unwrap();
    assert!(requests.len() == 2 && requests[1].contains("range: bytes=1000-"), "{requests:?}");
}

#[test]
fn another_file_than_was_stated_is_not_kept() {
    let (_folder, path) = folder();
    let there = model("{}");
    let hub = Hub::new(there.clone());
    let mut forged = there["model.safetensors"].clone();
    *forged.last_mut().unwrap() ^= 1;
    hub.change(|state| state.forged = Some(forged));
    let error = hub.fetch("hf:me/model", &path).unwrap_err();
    assert!(error.contains("model.safetensors") && error.contains(&sha256(&there["model.safetensors"])) && error.contains("deleted"), "{error}");
    assert_eq!(files(&path), ["config.json", LOCK, "preprocessor_config.json"]);
    // More than was stated, either.
    hub.change(|state| state.forged = Some(vec![0; 1_000_000]));
    let error = hub.fetch("hf:me/model", &path).unwrap_err();
    assert!(error.contains("should have"), "{error}");
    hub.change(|state| state.forged = None);
    hub.fetch("hf:me/model", &path).unwrap();
    assert_holds(&path, &there);
}

#[test]
fn refusals_say_what_to_do() {
    let (_folder, path) = folder();
    let hub = Hub::new(model("{}"));
    for (repository, problem) in [("hf:me/other", "no repository hf:me/other, or it is private"), ("hf:me/model@v9", "no revision v9")] {
        let error = hub.fetch(repository, &path).unwrap_err();
        assert!(error.contains(problem), "{error}");
    }
    hub.change(|state| state.gated = true);
    let error = hub.fetch("hf:me/model", &path).unwrap_err();
    assert!(error.contains("gated") && error.contains("https://huggingface.co/me/model") && error.contains("HF_TOKEN"), "{error}");
    hub.change(|state| (state.gated, state.down) = (false, true));
    assert!(hub.fetch("hf:me/model", &path).unwrap_err().contains("503"));
    for missing in ["config.json", "model.safetensors"] {
        hub.change(|state| {
            state.down = false;
            state.commits[0].1 = model("{}");
            state.commits[0].1.remove(missing);
        });
        let error = hub.fetch("hf:me/model", &path).unwrap_err();
        assert!(error.contains(missing) && error.contains("the repository has"), "{error}");
    }
    // No file of the Hub's at all.
    let other = serve_all(|_| response("200 OK", "Content-Length: 2\r\n", b"{}"));
    let (client, repository): (_, Repository) = (Client::new(true), "hf:me/model".parse().unwrap());
    let request = Request { client: &client, endpoint: &other.origin, repository: &repository, folder: &path, update: false, max_bytes: MAX_BYTES };
    let error = request.fetch(&mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("X-Repo-Commit"), "{error}");
}

/// A token reaches the Hub and not the server that it redirects to (which asserts so).
#[test]
fn a_token_is_for_the_hub_alone() {
    let (_folder, path) = folder();
    let hub = Hub::new(model("{}"));
    hub.change(|state| state.gated = true);
    let client = Client::new(true).with_token(&hub.hub.origin, "secret").unwrap();
    let repository: Repository = "hf:me/model".parse().unwrap();
    let request = Request { client: &client, endpoint: &hub.hub.origin, repository: &repository, folder: &path, update: false, max_bytes: MAX_BYTES };
    request.fetch(&mut |_| {}).unwrap();
    assert!(!hub.cdn.requests.lock().unwrap().is_empty());
    assert!(Client::new(true).with_token("https://hub", "two\nlines").is_err());
}

#[test]
fn too_much_is_refused_before_it_comes() {
    for there in [model("{}"), sharded()] {
        let (_folder, path) = folder();
        let hub = Hub::new(there.clone());
        let large: usize = there.iter().filter(|(name, _)| is_large(name)).map(|(_, content)| content.len()).sum();
        let error = hub.fetch_with("hf:me/model", &path, false, large as u64).unwrap_err();
        assert!(error.contains(&format!("at most {large} are taken")) && error.contains("--max-size"), "{error}");
        assert!(hub.cdn.requests.lock().unwrap().is_empty());
    }
}

#[test]
fn a_list_of_shards_leads_nowhere_else() {
    let long =
        serde_json::json!({ "weight_map": (0..2000).map(|i| (format!("t{i}"), format!("{i}.safetensors"))).collect::<BTreeMap<_, _>>() }).to_string();
    for (list, problem) in [
        (r#"{"weight_map": {"a": "../../evil.safetensors"}}"#, "evil.safetensors"),
        (r#"{"weight_map": {"a": "/etc/passwd"}}"#, "/etc/passwd"),
        (r#"{"weight_map": {"a": ".bashrc.safetensors"}}"#, "no .safetensors file beside it"),
        (r#"{"weight_map": {"a": "model.py"}}"#, "no .safetensors file beside it"),
        (r#"{"weight_map": {}}"#, "lists 0 shards"),
        (r#"{"weight_map": {"a": "absent.safetensors"}}"#, "names this file"),
        ("[]", "no list of shards"),
        (&long, "lists 2000 shards"),
    ] {
        let (_folder, path) = folder();
        let mut there = sharded();
        there.insert("model.safetensors.index.json".into(), list.into());
        let error = Hub::new(there).fetch("hf:me/model", &path).unwrap_err();
        assert!(error.contains(problem), "{error}");
        assert_eq!(files(&path), ["config.json", LOCK, "model.safetensors.index.json", "preprocessor_config.json"]);
    }
}

/// What lies there already is taken if it is the repository's, and never believed otherwise.
#[test]
fn files_that_are_there_are_verified() {
    let (_folder, path) = folder();
    let there = model("{}");
    let hub = Hub::new(there.clone());
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("model.safetensors"), &there["model.safetensors"]).unwrap();
    hub.fetch("hf:me/model", &path).unwrap();
    assert!(hub.cdn.requests.lock().unwrap().is_empty());
    std::fs::remove_file(path.join(LOCK)).unwrap();
    std::fs::write(path.join("config.json"), "{ }").unwrap();
    let error = hub.fetch("hf:me/model", &path).unwrap_err();
    assert!(error.contains("config.json") && error.contains("git blob id"), "{error}");
    assert_eq!(std::fs::read(path.join("config.json")).unwrap(), b"{ }");
}

#[cfg(unix)]
#[test]
fn no_link_is_followed() {
    let hub = Hub::new(model("{}"));
    for name in ["config.json", "model.safetensors", LOCK] {
        let (_folder, path) = folder();
        std::fs::create_dir(&path).unwrap();
        let victim = path.join("victim");
        std::fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, path.join(name)).unwrap();
        let error = hub.fetch("hf:me/model", &path).unwrap_err();
        assert!(error.contains(name) && error.contains("symbolic link"), "{error}");
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    }
    let (parent, path) = folder();
    std::os::unix::fs::symlink(parent.path(), &path).unwrap();
    let error = hub.fetch("hf:me/model", &path).unwrap_err();
    assert!(error.contains("symbolic link"), "{error}");
}

/// A mirror that keeps no hashes gives files, and no more is said of them than is known.
#[test]
fn no_more_is_claimed_than_was_verified() {
    let (_folder, path) = folder();
    let hub = Hub::new(model("{}"));
    hub.change(|state| state.plain = true);
    hub.fetch("hf:me/model", &path).unwrap();
    let lock = std::fs::read_to_string(path.join(LOCK)).unwrap();
    assert!(lock.contains("states no hash"), "{lock}");
}

fn command(arguments: &[&str], endpoint: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_detrim"));
    for variable in ["http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy", "HF_ENDPOINT", "HF_TOKEN"] {
        command.env_remove(variable);
    }
    if let Some(endpoint) = endpoint {
        command.env("HF_ENDPOINT", endpoint);
    }
    command.arg("fetch").args(arguments).output().unwrap()
}

#[test]
fn the_command_says_what_was_verified() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let hub = Hub::new(model("{}"));
    let text = |output: &Output| String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned();
    let refused = command(&["hf:me/model", "--out", out], Some(&hub.hub.origin));
    assert!(!refused.status.success() && text(&refused).contains("--allow-http"), "{}", text(&refused));
    for (arguments, endpoint, expected) in [
        (vec!["hf:me/model", "--out", out, "--allow-http"], Some(hub.hub.origin.as_str()), "is ready"),
        // The option goes before the variable; and what is there needs neither.
        (vec!["hf:me/model", "--out", out, "--allow-http", "--update", "--endpoint", &hub.hub.origin], Some("http://127.0.0.1:9"), "is ready"),
        (vec!["hf:me/model", "--out", out], None, "was there already"),
    ] {
        let output = command(&arguments, endpoint);
        let text = text(&output);
        assert!(output.status.success() && text.contains(expected) && text.contains(FIRST) && text.contains("verified by its sha256"), "{text}");
        assert!(text.contains("try: detrim detect --model"), "{text}");
    }
    // What detrim can't read is there all the same, and that is said.
    hub.change(|state| state.commits.push((SECOND, model(r#"{"model_type": "gpt2"}"#))));
    let output = command(&["hf:me/model", "--out", out, "--allow-http", "--update"], Some(&hub.hub.origin));
    assert!(output.status.success() && text(&output).contains("can't read them") && text(&output).contains("gpt2"), "{}", text(&output));
    for (arguments, problem) in [(vec!["hf:model"], "hf:OWNER/NAME"), (vec!["detr-r5"], "detr-r50"), (vec!["detr-r50", "--update"], "of the Hub")] {
        let output = command(&arguments, None);
        assert!(!output.status.success() && text(&output).contains(problem), "{}", text(&output));
    }
}
