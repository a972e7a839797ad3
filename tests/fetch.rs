//! Downloads from a server on this machine that answers as the script of each test says.

use detrim::Error;
use detrim::checkpoint::{self, Guess};
use detrim::config::Backbone;
use detrim::fetch::{OFFICIAL, Official, Progress, download};
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Says what to answer to a request's headers; what it gives is sent and the connection closed.
type Reply = Box<dyn Fn(&str) -> Vec<u8> + Send>;

struct Server {
    url: String,
    /// The headers of every request so far.
    requests: Arc<Mutex<Vec<String>>>,
}

/// Answers one request for each reply, and none after a while, so that no test leaves a server behind.
fn serve(replies: Vec<Reply>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}/file.bin", listener.local_addr().unwrap());
    let requests = Arc::new(Mutex::new(Vec::new()));
    let log = requests.clone();
    std::thread::spawn(move || {
        let deadline = Instant::now() + Duration::from_secs(60);
        for reply in replies {
            let stream = loop {
                match listener.accept() {
                    Ok((stream, _)) => break stream,
                    Err(_) if Instant::now() > deadline => return,
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            };
            answer(stream, &reply, &log);
        }
    });
    Server { url, requests }
}

fn answer(stream: TcpStream, reply: &Reply, log: &Mutex<Vec<String>>) {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let lines = BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let headers = lines.collect::<Vec<_>>().join("\n").to_ascii_lowercase();
    let bytes = reply(&headers);
    log.lock().unwrap().push(headers);
    // The client may have hung up already.
    let _ = (&stream).write_all(&bytes);
}

fn response(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n").as_bytes(), body].concat()
}

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

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn quietly(url: &str, to: &Path, sha256: &str) -> Result<(), Error> {
    download(url, to, sha256, &mut |_| {})
}

/// Names of what lies in a directory.
fn files(folder: &Path) -> Vec<String> {
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
    download(&server.url, &to, &sha256(&content)[..8], &mut |progress| seen.push(progress)).unwrap();
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
        .args(["fetch", "detr-r50", "--url-base", &base, "--out", folder.path().to_str().unwrap()])
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
    }
}

/// The way of the command, with a tiny checkpoint of the original repository's kind instead of an official one.
#[test]
fn what_is_fetched_is_converted() {
    let (folder, content) = (tempfile::tempdir().unwrap(), fixture());
    let sha256 = sha256(&content);
    let tiny = Official { name: "tiny", file: "tiny-00.pth", sha256: Box::leak(sha256.clone().into_boxed_str()), dilation: true };
    let server = serve(vec![whole(&content, "a", content.len() / 2), rest(&content, "a")]);
    let base = server.url.trim_end_matches("file.bin");
    let out = folder.path().join("new/models");
    let file = tiny.fetch(base, &out, &mut |_| {}).unwrap();
    assert_eq!(file, out.join("tiny.safetensors"));
    assert_eq!(files(&out), ["tiny.safetensors"]);
    assert!(server.requests.lock().unwrap()[0].starts_with("get /tiny-00.pth "));

    let model = checkpoint::open(&file, &Guess::default()).unwrap();
    let Backbone::Resnet(net) = &model.config.backbone else { panic!("a ResNet was expected") };
    assert_eq!(net.stages[3].blocks.last().map(|block| block.dilation), Some(2));
    assert_eq!(model.config.encoder[0].self_attention.heads, 8);
    assert_eq!((model.card.name.as_str(), model.card.licence.as_str()), ("tiny", "Apache-2.0"));
    assert!(model.card.provenance[0].contains(&sha256) && model.card.provenance[0].contains("tiny-00.pth"), "{:?}", model.card);
    // It is there: no server is asked any more.
    assert_eq!(tiny.fetch(base, &out, &mut |_| {}).unwrap(), file);
}

/// A file that can't be converted stays, for there was nothing wrong with the download.
#[test]
fn what_can_t_be_converted_is_kept() {
    let (folder, content) = (tempfile::tempdir().unwrap(), b"this is no checkpoint".to_vec());
    let sha256 = sha256(&content);
    let tiny = Official { name: "tiny", file: "tiny-00.pth", sha256: Box::leak(sha256.into_boxed_str()), dilation: false };
    let server = serve(vec![whole(&content, "a", content.len())]);
    let error = tiny.fetch(server.url.trim_end_matches("/file.bin"), folder.path(), &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("tiny-00.pth"), "{error}");
    assert_eq!(files(folder.path()), ["tiny-00.pth"]);
}

fn fixture() -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/original-legacy/model.pth")).unwrap()
}
