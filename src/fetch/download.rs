//! One file over HTTP: resumable, and kept only if its hash is right.
//!
//! What has come so far lies in `NAME.part`; `NAME.part.json` beside it says of which version of which file it is a part,
//! so that the rest of another version is never appended to it.

use crate::error::{Error, Result};
use crate::hash::hexadecimal;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::http::{Response, StatusCode, header};
use ureq::{Agent, Body};

/// Connections that may break in one call before the user is asked to go on later.
const TRIES: usize = 4;
const CHUNK: usize = 1 << 16;

/// How far a download is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub done: u64,
    pub total: Option<u64>,
}

/// What `NAME.part` is a part of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Origin {
    url: String,
    etag: Option<String>,
    length: Option<u64>,
}

/// How one request ended, where that wasn't an error.
enum Step {
    Complete,
    /// The connection broke, for this reason.
    Cut(String),
    /// What was there doesn't belong to what the server has now.
    Restart,
}

/// Brings `url` to `to`, going on from what an earlier call left there. The file's sha256 must begin with `sha256` (in hex).
pub fn download(url: &str, to: &Path, sha256: &str, progress: &mut dyn FnMut(Progress)) -> Result<()> {
    if to.exists() {
        // The file may have been put there by hand.
        let found = sha256_of(to)?;
        let problem = format!("is not the published file: its sha256 is {found}, but should begin with {sha256}");
        return found.starts_with(sha256).then_some(()).ok_or(Error::Checkpoint { file: to.display().to_string(), problem });
    }
    let download = Download { url, part: with_suffix(to, ".part"), origin: with_suffix(to, ".part.json"), agent: agent() };
    let mut cut = String::from("the file on the server changes");
    for _ in 0..TRIES {
        match download.step(progress)? {
            Step::Complete => return download.finish(to, sha256),
            Step::Restart => download.forget()?,
            Step::Cut(reason) => cut = reason,
        }
    }
    Err(download.failed(format!("the connection broke ({cut}){}", download.so_far()?)))
}

struct Download<'a> {
    url: &'a str,
    part: PathBuf,
    origin: PathBuf,
    agent: Agent,
}

impl Download<'_> {
    /// One request for all that is missing.
    fn step(&self, progress: &mut dyn FnMut(Progress)) -> Result<Step> {
        let known = self.origin();
        let have = match &known {
            Some(_) => length(&self.part)?,
            None => 0,
        };
        // A compressed answer would neither resume nor hash as the file does.
        let mut request = self.agent.get(self.url).header(header::ACCEPT_ENCODING, "identity");
        if have > 0 {
            request = request.header(header::RANGE, format!("bytes={have}-"));
            if let Some(etag) = known.as_ref().and_then(|origin| origin.etag.as_ref()) {
                request = request.header(header::IF_RANGE, etag);
            }
        }
        let response = match request.call() {
            Ok(response) => response,
            Err(error) => return Err(self.failed(in_words(&error) + &self.so_far()?)),
        };
        let known = known.unwrap_or_default();
        let (start, total) = match response.status() {
            StatusCode::OK => (0, response.body().content_length()),
            StatusCode::PARTIAL_CONTENT => match content_range(&response) {
                Some((Some(start), total)) if start == have && (total.is_none() || known.length.is_none() || total == known.length) => (have, total),
                _ => return Ok(Step::Restart),
            },
            // Nothing is missing, or the file became shorter.
            StatusCode::RANGE_NOT_SATISFIABLE if have > 0 => match content_range(&response) {
                Some((None, Some(total))) if total == have => return Ok(Step::Complete),
                _ => return Ok(Step::Restart),
            },
            status => return Err(self.failed(format!("the server answered \"{status}\""))),
        };
        if start == 0 {
            let etag = response.headers().get(header::ETAG).and_then(|etag| etag.to_str().ok());
            // A weak tag doesn't promise equal bytes, and If-Range must not have one.
            let etag = etag.filter(|etag| !etag.starts_with("W/")).map(String::from);
            self.remember(&Origin { url: self.url.into(), etag, length: total })?;
        }
        self.receive(response, start, total, progress)
    }

    /// Appends what comes to the first `start` bytes of the part.
    fn receive(&self, response: Response<Body>, start: u64, total: Option<u64>, progress: &mut dyn FnMut(Progress)) -> Result<Step> {
        let unwritable = |source| io(&self.part, source);
        let mut file = OpenOptions::new().create(true).truncate(start == 0).append(start > 0).write(true).open(&self.part).map_err(unwritable)?;
        let mut reader = response.into_body().into_reader();
        let (mut chunk, mut done) = (vec![0; CHUNK], start);
        loop {
            progress(Progress { done, total });
            match reader.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => {
                    file.write_all(&chunk[..read]).map_err(unwritable)?;
                    done += read as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Ok(Step::Cut(error.to_string())),
            }
        }
        file.sync_all().map_err(unwritable)?;
        match total {
            Some(total) if done < total => Ok(Step::Cut("the server stopped sending".into())),
            Some(total) if done > total => Ok(Step::Restart),
            _ => Ok(Step::Complete),
        }
    }

    /// Gives the part its name if it is the file that was asked for.
    fn finish(&self, to: &Path, sha256: &str) -> Result<()> {
        let found = sha256_of(&self.part)?;
        if !found.starts_with(sha256) {
            self.forget()?;
            let problem = format!("what came is not the published file: its sha256 is {found}, but should begin with {sha256}; it was deleted");
            return Err(self.failed(problem));
        }
        fs::rename(&self.part, to).map_err(|source| io(to, source))?;
        remove(&self.origin)
    }

    /// The end of an error that leaves something to go on from.
    fn so_far(&self) -> Result<String> {
        Ok(match length(&self.part)? {
            0 => String::new(),
            bytes => format!("; {bytes} bytes are here, and the same command goes on from there"),
        })
    }

    /// What the part belongs to, if that is this address.
    fn origin(&self) -> Option<Origin> {
        let origin: Origin = serde_json::from_slice(&fs::read(&self.origin).ok()?).ok()?;
        (origin.url == self.url).then_some(origin)
    }

    fn remember(&self, origin: &Origin) -> Result<()> {
        let text = serde_json::to_vec(origin).map_err(|error| io(&self.origin, error.into()))?;
        fs::write(&self.origin, text).map_err(|source| io(&self.origin, source))
    }

    fn forget(&self) -> Result<()> {
        remove(&self.part)?;
        remove(&self.origin)
    }

    fn failed(&self, problem: String) -> Error {
        Error::Download { url: self.url.into(), problem }
    }
}

fn agent() -> Agent {
    let config = Agent::config_builder()
        .user_agent(concat!("detrim/", env!("CARGO_PKG_VERSION")))
        .http_status_as_error(false)
        .timeout_connect(Some(Duration::from_secs(20)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .timeout_per_read(Some(Duration::from_secs(60)));
    config.build().new_agent()
}

/// `Content-Range: bytes FIRST-LAST/TOTAL` or `bytes */TOTAL`; a total may be `*`.
fn content_range(response: &Response<Body>) -> Option<(Option<u64>, Option<u64>)> {
    let (range, total) = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?.split_once('/')?;
    let first = range.split_once('-').and_then(|(first, _)| first.parse().ok());
    Some((first, total.parse().ok()))
}

fn in_words(error: &ureq::Error) -> String {
    match error {
        ureq::Error::HostNotFound => "there is no connection (the host's name can't be looked up)".into(),
        ureq::Error::Io(error) => format!("there is no connection ({error})"),
        ureq::Error::ConnectionFailed => "there is no connection".into(),
        ureq::Error::Timeout(what) => format!("the server doesn't answer (timeout: {what})"),
        error => error.to_string(),
    }
}

/// The sha256 of a file, in hex.
pub fn sha256_of(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(|source| io(path, source))?;
    let (mut hasher, mut chunk) = (Sha256::new(), vec![0; CHUNK]);
    loop {
        match file.read(&mut chunk).map_err(|source| io(path, source))? {
            0 => break,
            read => hasher.update(&chunk[..read]),
        }
    }
    Ok(hexadecimal(hasher.finalize().as_slice()))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

fn length(path: &Path) -> Result<u64> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
        Err(source) => Err(io(path, source)),
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io(path, error)),
        _ => Ok(()),
    }
}

fn io(path: &Path, source: std::io::Error) -> Error {
    Error::Io { file: path.display().to_string(), source }
}
