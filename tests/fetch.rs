//! Downloads from a server on this machine that answers as the script of each test says.

use crate::server::{Reply, response, serve};
use detrim::Config;
use detrim::Error;
use detrim::checkpoint::{self, Guess, Storage};
use detrim::config::{Activation, Backbone};
use detrim::fetch::{Client, Content, Converted, Expected, MAX_BYTES, OFFICIAL, Official, Progress, download};
use sha2::{Digest, Sha256};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

/// All of a file, or the first `sent` bytes of it and then silence.
fn whole(content: &[u8], etag: &str, sent: usize) -> Reply {
    let headers = format!("Content-Length: {}\r\nETag: \"{etag}\"\r\n", content.len());
    let bytes = response("200 OK", &headers, &content[..sent]);
    Box::new(move |_| bytes.clone())
}

/// What a range asks for, as a server that knows ranges answers.
fn rest(content: &[u8], etag: &str) -> Reply {
    let (content, etag) = (content.to_vec(), etag.to_string());
    Box::new(move |headers| {
        let range = headers.lines().find_map(|line| line.strip_prefix("range: bytes=")).expect("a range");
        let start: usize = range.trim_end_matches('-').parse().unwrap();
        let headers = format!(
            "Content-Length: {}\r\nContent-Range: bytes {start}-{}/{2}\r\nETag: \"{etag}\"\r\n",
            content.len() - start,
            content.len() - 1,
            content.len()
        );
        response("206 Partial Content", &headers, &content[start..])
    })
}

fn refuse(status: &'static str, headers: String) -> Reply {
    Box::new(move |_| response(status, &format!("Content-Length: 0\r\n{headers}"), b""))
}

fn content(seed: u8) -> Vec<u8> {
    (0..200_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8 ^ seed).collect()
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn quietly(url: &str, to: &Path, sha256: &str) -> Result<Content, Error> {
    download(&Client::new(true), url, to, &Expected::sha256(sha256), MAX_BYTES, &mut |_| {})
}

/// Names of what lies in a directory.
pub fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_whole_file_comes_with_progress() {
    let (folder, content) = (tempfile::tempdir().unwrap(), content(0));
    let to = folder.path().join("file.bin");
    let server = serve(vec![whole(&content, "a", content.len())]);
    let mut seen = Vec::new();
    let expected = Expected::sha256(&sha256(&content)[..8]);
    download(&Client::new(true), &server.url, &to, &expected, MAX_BYTES, &mut |progress| seen.push(progress)).unwrap();
    assert_eq!(std::fs::read(&to).unwrap(), content);
    assert_eq!(files(folder.path()), ["file.bin"]);
    assert_eq!(seen.last(), Some(&Progress { done: 200_000, total: Some(200_000) }));
    assert!(seen.is_sorted_by_key(|progress| progress.done) && seen.len() > 2);
    // A file that is there needs no server any more.
    quietly(&server.url, &to, &sha256(&content)).unwrap();
    assert_eq!(server.requests.lock().unwrap().len(), 1);
}

#[test]
fn a_cut_download_goes_on_at_once() {
    let (folder, content) = (tempfile::tempdir().unwrap(), content(0));
    let to = folder.path().join("file.bin");
    let server = serve(vec![whole(&content, "a", 70_000), rest(&content, "a")]);
    quietly(&server.url, &to, &sha256(&content)).unwrap();
    assert_eq!(std::fs::read(&to).unwrap(), content);
    let requests = server.requests.lock().unwrap();
    assert!(!requests[0].contains("range:"), "{}", requests[0]);
    assert!(requests[1].contains("range: bytes=70000-") && requests[1].contains("if-range: \"a\""), "{}", requests[1]);
}

#[test]
fn a_later_call_goes_on_too() {
    let (folder, content) = (tempfile::tempdir().unwrap(), content(0));
    let to = folder.path().join("file.bin");
    let server = serve(vec![whole(&content, "a", 70_000), refuse("503 Service Unavailable", String::new()), rest(&content, "a")]);
    let error = quietly(&server.url, &to, &sha256(&content)).unwrap_err().to_string();
    assert!(error.contains("503"), "{error}");
    assert_eq!(files(folder.path()), ["file.bin.part", "file.bin.part.json"]);
    quietly(&server.url, &to, &sha256(&content)).unwrap();
    assert_eq!(std::fs::read(&to).unwrap(), content);
    assert_eq!(files(folder.path()), ["file.bin"]);
}

#[test]
fn a_connection_that_breaks_ever_again_is_reported() {
    let (folder, content) = (tempfile::tempdir().unwrap(), content(0));
    let to = folder.path().join("file.bin");
    let server = serve((0..4).map(|_| whole(&content, "a", 1000)).collect());
    let error = quietly(&server.url, &to, &sha256(&content)).unwrap_err().to_string();
    assert!(error.contains("broke") && error.contains("1000 bytes are here"), "{error}");
}

/// A part of the old version must not get the rest of the new one.
#[test]
fn a_file_that_changed_meanwhile_begins_anew() {
    let (old, new) = (content(0), content(1));
    // A server that honours If-Range sends all of the new file; one that doesn't, sends another length or a range elsewhere.
    let longer = [&new[..], b"more"].concat();
    let elsewhere: Reply = Box::new(|_| response("206 Partial Content", "Content-Length: 3\r\nContent-Range: bytes 5-7/200000\r\n", b"abc"));
    for (second, third, expected) in [
        (whole(&new, "b", new.len()), None, &new),
        (rest(&longer, "b"), Some(whole(&longer, "b", longer.len())), &longer),
        (elsewhere, Some(whole(&new, "b", new.len())), &new),
        (refuse("416 Range Not Satisfiable", "Content-Range: bytes */100\r\n".into()), Some(whole(&new, "b", new.len())), &new),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("file.bin");
        let server = serve([Some(whole(&old, "a", 70_000)), Some(second), third].into_iter().flatten().collect());
        quietly(&server.url, &to, &sha256(expected)).unwrap();
        assert!(std::fs::read(&to).unwrap() == *expected);
        assert_eq!(files(folder.path()), ["file.bin"]);
    }
}

/// The last byte came, but the program was stopped before the file got its name.
#[test]
fn a_part_that_is_whole_is_taken() {
    let (folder, content) = (tempfile::tempdir().unwrap(), content(0));
    let to = folder.path().join("file.bin");
    let total = format!("Content-Range: bytes */{}\r\n", content.len());
    let server = serve(vec![whole(&content, "a", 70_000), refuse("500 Oops", String::new()), refuse("416 Range Not Satisfiable", total)]);
    quietly(&server.url, &to, &sha256(&content)).unwrap_err();
    std::fs::write(folder.path().join("file.bin.part"), &content).unwrap();
    quietly(&server.url, &to, &sha256(&content)).unwrap();
    assert_eq!(std::fs::read(&to).unwrap(), content);
}

#[test]
fn another_address_doesn_t_continue_this_one() {
    let (folder, old, new) = (tempfile::tempdir().unwrap(), content(0), content(1));
    let to = folder.path().join("file.bin");
    let first = serve(vec![whole(&old, "a", 70_000), refuse("500 Oops", String::new())]);
    quietly(&first.url, &to, &sha256(&new)).unwrap_err();
    let second = serve(vec![whole(&new, "a", new.len())]);
    quietly(&second.url, &to, &sha256(&new)).unwrap();
    assert!(!second.requests.lock().unwrap()[0].contains("range:"));
    assert_eq!(std::fs::read(&to).unwrap(), new);
}

#[test]
fn a_wrong_file_is_not_kept() {
    let (folder, content) = (tempfile::tempdir().unwrap(), content(0));
    let to = folder.path().join("file.bin");
    let server = serve(vec![whole(&content, "a", content.len())]);
    let error = quietly(&server.url, &to, "e632da11").unwrap_err().to_string();
    assert!(error.contains("e632da11") && error.contains(&sha256(&content)) && error.contains("deleted"), "{error}");
    assert!(files(folder.path()).is_empty());
    // One that was put there by hand is not ours to delete.
    std::fs::write(&to, "something").unwrap();
    let error = quietly(&server.url, &to, "e632da11").unwrap_err().to_string();
    assert!(error.contains("file.bin") && error.contains("e632da11"), "{error}");
    assert!(to.exists());
}

#[test]
fn the_command_without_a_connection_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    // A port where nobody listens any more.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let base = format!("http://{address}/detr/");
    let output = Command::new(env!("CARGO_BIN_EXE_detrim"))
        .args(["fetch", "detr-r50", "--allow-http", "--url-base", &base, "--out", folder.path().to_str().unwrap()])
        .env_remove("http_proxy")
        .env_remove("HTTP_PROXY")
        .env_remove("ALL_PROXY")
        .env_remove("all_proxy")
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains(&format!("{base}detr-r50-e632da11.pth")) && error.contains("no connection"), "{error}");
    assert!(error.contains("put the file at"), "{error}");
}

#[test]
fn official_weights_are_named_by_their_hash() {
    for official in OFFICIAL {
        assert!(official.file.contains(official.sha256) && official.file.starts_with(official.name), "{official:?}");
        let architecture = (official.architecture)().unwrap();
        architecture.check().unwrap();
        let Backbone::Resnet(net) = &architecture.backbone else { panic!("a ResNet was expected") };
        assert_eq!(net.stages[2].blocks.len(), if official.name.contains("r101") { 23 } else { 6 });
        assert_eq!(net.stages[3].blocks[1].dilation, if official.dilation { 2 } else { 1 });
    }
}

/// A tiny checkpoint of the original repository's kind instead of an official one.
fn tiny(sha256: &str) -> Official {
    let sha256 = Box::leak(sha256.to_string().into_boxed_str());
    Official { name: "tiny", file: "tiny-00.pth", sha256, dilation: true, architecture: || Some(tiny_config()) }
}

fn tiny_config() -> Config {
    let guess = Guess { heads: Some(8), dilation: Some(true), activation: Some(Activation::Relu), ..Guess::default() };
    checkpoint::open(&fixture_path(), &guess).unwrap().config
}

fn fetch(official: &Official, base: &str, folder: &Path) -> Result<Converted, String> {
    official.fetch(&Client::new(true), base, folder, MAX_BYTES, &mut |_| {}).map_err(|error| error.to_string())
}

/// The way of the command.
#[test]
fn what_is_fetched_is_converted() {
    let (folder, content) = (tempfile::tempdir().unwrap(), fixture());
    let sha256 = sha256(&content);
    let tiny = tiny(&sha256[..8]);
    let server = serve(vec![whole(&content, "a", content.len() / 2), rest(&content, "a")]);
    let out = folder.path().join("new/models");
    let Converted { file, verified } = fetch(&tiny, &server.origin, &out).unwrap();
    assert_eq!(file, out.join("tiny.safetensors"));
    assert_eq!(files(&out), ["tiny.lock.json", "tiny.safetensors"]);
    assert!(server.requests.lock().unwrap()[0].starts_with("get /tiny-00.pth "));
    // 32 bits are said to be 32 bits.
    assert!(verified.contains("first 8 hex digits") && verified.contains("name and shape") && verified.contains("tiny.lock.json"), "{verified}");

    let model = checkpoint::open(&file, &Guess::default()).unwrap();
    assert_eq!(model.config, tiny_config());
    assert_eq!((model.card.name.as_str(), model.card.licence.as_str()), ("tiny", "Apache-2.0"));
    assert!(model.card.provenance[0].contains(&sha256) && model.card.provenance[0].contains("tiny-00.pth"), "{:?}", model.card);

    // It is there: no server is asked any more, but it is looked at.
    let again = fetch(&tiny, &server.origin, &out).unwrap();
    assert!(again.file == file && again.verified.contains("its sha256"), "{again:?}");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let error = fetch(&tiny, &server.origin, &out).unwrap_err();
    assert!(error.contains("tiny.safetensors") && error.contains("not what was fetched"), "{error}");
}

/// Once the whole hash was seen, a forgery of its beginning is not taken any more.
#[test]
fn the_whole_hash_is_asked_for_the_next_time() {
    let (folder, content) = (tempfile::tempdir().unwrap(), fixture());
    let tiny = tiny("");
    let another = [&content[..], b"."].concat();
    let server = serve(vec![whole(&content, "a", content.len()), whole(&another, "b", another.len())]);
    let file = fetch(&tiny, &server.origin, folder.path()).unwrap().file;
    std::fs::remove_file(file).unwrap();
    let error = fetch(&tiny, &server.origin, folder.path()).unwrap_err();
    assert!(error.contains(&sha256(&content)) && error.contains("deleted"), "{error}");
}

/// The right hash, or the beginning of it, on another network.
#[test]
fn another_network_is_not_taken_for_the_published_one() {
    let (folder, content) = (tempfile::tempdir().unwrap(), fixture());
    let sha256 = sha256(&content);
    let r50 = Official { architecture: OFFICIAL[0].architecture, ..tiny(&sha256[..8]) };
    let server = serve(vec![whole(&content, "a", content.len())]);
    let error = fetch(&r50, &server.origin, folder.path()).unwrap_err();
    assert!(error.contains("tiny-00.pth") && error.contains("the backbone differs"), "{error}");
    assert_eq!(files(folder.path()), ["tiny-00.pth"]);
    // Nor one that lies there under the name of what would be made of it.
    let made = folder.path().join("tiny.safetensors");
    let mut checkpoint = checkpoint::open(&fixture_path(), &Guess { heads: Some(8), ..Guess::default() }).unwrap();
    checkpoint.card.name = "tiny".into();
    checkpoint::write_own(&made, &checkpoint, Storage::F16).unwrap();
    let error = fetch(&r50, &server.origin, folder.path()).unwrap_err();
    assert!(error.contains("tiny.safetensors") && error.contains("not the published tiny"), "{error}");
    // What lies there with no record but is the network, is taken and said to be no more than that.
    let same = Official {
        architecture: || checkpoint::open(&fixture_path(), &Guess { heads: Some(8), ..Guess::default() }).ok().map(|found| found.config),
        ..r50
    };
    let verified = fetch(&same, &server.origin, folder.path()).unwrap().verified;
    assert!(verified.contains("not its sha256"), "{verified}");
}

/// A file that can't be converted stays, for there was nothing wrong with the download.
#[test]
fn what_can_t_be_converted_is_kept() {
    let (folder, content) = (tempfile::tempdir().unwrap(), b"this is no checkpoint".to_vec());
    let tiny = tiny(&sha256(&content));
    let server = serve(vec![whole(&content, "a", content.len())]);
    let error = fetch(&tiny, &server.origin, folder.path()).unwrap_err();
    assert!(error.contains("tiny-00.pth"), "{error}");
    assert_eq!(files(folder.path()), ["tiny-00.pth"]);
}

#[test]
fn only_https_unless_told_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(vec![whole(b"x", "a", 1)]);
    let to = folder.path().join("file.bin");
    let error = download(&Client::new(false), &server.url, &to, &Expected::default(), MAX_BYTES, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("not https") && error.contains("--allow-http"), "{error}");
    assert!(server.requests.lock().unwrap().is_empty() && files(folder.path()).is_empty());
}

#[test]
fn more_than_is_allowed_is_not_taken() {
    let content = content(0);
    // Stated, and not.
    let unstated: Reply = {
        let content = content.clone();
        Box::new(move |_| response("200 OK", "", &content))
    };
    for reply in [whole(&content, "a", content.len()), unstated] {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("file.bin");
        let server = serve(vec![reply]);
        let error = download(&Client::new(true), &server.url, &to, &Expected::default(), 100_000, &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains("at most 100000") && error.contains("--max-size"), "{error}");
        assert!(files(folder.path()).is_empty(), "{:?}", files(folder.path()));
    }
    let folder = tempfile::tempdir().unwrap();
    let server = serve(vec![whole(&content, "a", content.len())]);
    let expected = Expected { size: Some(5), ..Expected::default() };
    let error =
        download(&Client::new(true), &server.url, &folder.path().join("file.bin"), &expected, MAX_BYTES, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("should have 5"), "{error}");
}

#[test]
fn redirects_are_followed_but_not_for_ever() {
    let (folder, content) = (tempfile::tempdir().unwrap(), content(0));
    let to = |location: &str| refuse("302 Found", format!("Location: {location}\r\n"));
    let server = serve(vec![to("/elsewhere?x=1"), whole(&content, "a", 70_000), to("elsewhere"), rest(&content, "a")]);
    quietly(&server.url, &folder.path().join("file.bin"), &sha256(&content)).unwrap();
    let requests = server.requests.lock().unwrap();
    assert!(requests[1].starts_with("get /elsewhere?x=1 ") && requests[3].contains("range: bytes=70000-"), "{requests:?}");
    for (location, problem) in [("/file.bin", "more than 10 times"), ("", "not an address"), ("ftp://127.0.0.1/x", "not the address of a file")] {
        let round = serve((0..12).map(|_| to(location)).collect());
        let error = quietly(&round.url, &folder.path().join("other.bin"), "").unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn no_link_is_followed() {
    let content = content(0);
    for name in ["file.bin", "file.bin.part", "file.bin.part.json"] {
        let folder = tempfile::tempdir().unwrap();
        let victim = folder.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, folder.path().join(name)).unwrap();
        let server = serve(vec![whole(&content, "a", content.len())]);
        let result = quietly(&server.url, &folder.path().join("file.bin"), &sha256(&content));
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious", "{name}");
        // Part files are ours to replace: what matters is that nothing goes through them.
        match name {
            "file.bin.part" => assert!(result.is_ok(), "{result:?}"),
            _ => assert!(result.unwrap_err().to_string().contains("symbolic link"), "{name}"),
        }
    }
}

fn fixture_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/original-legacy/model.pth")
}

fn fixture() -> Vec<u8> {
    std::fs::read(fixture_path()).unwrap()
}
