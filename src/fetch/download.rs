//! One file over HTTP: resumable, capped, and kept only if it is what it should be.
//!
//! What has come so far lies in `NAME.part`; `NAME.part.json` beside it says of which version of which file it is a part,
//! so that the rest of another version is never appended to it.

use super::client::Client;
use super::disk::{self, Content};
use crate::error::{Error, Result};
use crate::output;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use ureq::Body;
use ureq::http::{Response, StatusCode, header};

/// Connections that may break in one call before the user is asked to go on later.
const MAX_TRIES: usize = 4;
const CHUNK: usize = 1 << 16;

/// How far a download is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub done: u64,
    pub total: Option<u64>,
}

/// What is known of a file before it comes. What isn't known isn't checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    pub size: Option<u64>,
    /// In hex; the whole of it or how it begins.
    pub sha256: Option<String>,
    /// In hex: git's name for the content.
    pub git_blob: Option<String>,
}

impl Expected {
    pub fn sha256(sha256: &str) -> Self {
        Self { sha256: Some(sha256.into()), ..Self::default() }
    }

    /// What is wrong with a file, if it is another one.
    pub fn problem(&self, found: &Content) -> Option<String> {
        let differs = |expected: &Option<String>, found: &str| expected.as_ref().filter(|expected| !found.starts_with(expected.as_str())).cloned();
        if let Some(expected) = differs(&self.sha256, &found.sha256) {
            let how = if expected.len() < found.sha256.len() { "should begin with" } else { "should be" };
            return Some(format!("its sha256 is {}, but {how} {expected}", found.sha256));
        }
        if let Some(expected) = differs(&self.git_blob, &found.git_blob) {
            return Some(format!("its git blob id is {}, but should be {expected}", found.git_blob));
        }
        let size = self.size.filter(|size| *size != found.size)?;
        Some(format!("it has {} bytes, but should have {size}", found.size))
    }
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

/// Brings `url` to `to`, going on from what an earlier call left there, if it has at most `max_bytes`. A file that is there already is taken
/// if it is what is expected.
pub fn download(client: &Client, url: &str, to: &Path, expected: &Expected, max_bytes: u64, progress: &mut dyn FnMut(Progress)) -> Result<Content> {
    if disk::is_there(to)? {
        // It may have been put there by hand.
        let found = disk::content(to)?;
        return match expected.problem(&found) {
            None => Ok(found),
            Some(problem) => Err(Error::Checkpoint { file: to.display().to_string(), problem: format!("is not the published file: {problem}") }),
        };
    }
    let (part, origin) = (disk::with_suffix(to, ".part"), disk::with_suffix(to, ".part.json"));
    let download = Download { client, url, part, origin, size: expected.size, max_bytes };
    let mut cut = String::from("the file on the server changes");
    for _ in 0..MAX_TRIES {
        match download.step(progress)? {
            Step::Complete => return download.finish(to, expected),
            Step::Restart => download.forget()?,
            Step::Cut(reason) => cut = reason,
        }
    }
    Err(download.failed(format!("the connection broke ({cut}){}", download.so_far()?)))
}

struct Download<'a> {
    client: &'a Client,
    url: &'a str,
    part: PathBuf,
    origin: PathBuf,
    /// What the file should have.
    size: Option<u64>,
    max_bytes: u64,
}

impl Download<'_> {
    /// One request for all that is missing.
    fn step(&self, progress: &mut dyn FnMut(Progress)) -> Result<Step> {
        let known = self.origin()?;
        let have = match &known {
            Some(_) => disk::length(&self.part)?,
            None => 0,
        };
        let range = format!("bytes={have}-");
        let mut headers = Vec::new();
        if have > 0 {
            headers.push((header::RANGE, range.as_str()));
            if let Some(etag) = known.as_ref().and_then(|origin| origin.etag.as_deref()) {
                headers.push((header::IF_RANGE, etag));
            }
        }
        let response = match self.client.get(self.url, &headers) {
            Ok(response) => response,
            Err(problem) => return Err(self.failed(problem + &self.so_far()?)),
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
        if let Some(problem) = total.and_then(|total| self.too_large(total)) {
            return Err(self.failed(problem));
        }
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
        let unwritable = |source| disk::io(&self.part, source);
        let mut file = if start == 0 { disk::create(&self.part)? } else { disk::append(&self.part)? };
        let mut reader = response.into_body().into_reader();
        let (mut chunk, mut done) = (vec![0; CHUNK], start);
        loop {
            progress(Progress { done, total });
            match reader.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => {
                    done += read as u64;
                    // Not every server says how much will come.
                    if let Some(problem) = self.too_large(done) {
                        self.forget()?;
                        return Err(self.failed(problem));
                    }
                    file.write_all(&chunk[..read]).map_err(unwritable)?;
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
    fn finish(&self, to: &Path, expected: &Expected) -> Result<Content> {
        if !disk::is_there(&self.part)? {
            return Err(self.failed("nothing came".into()));
        }
        let found = disk::content(&self.part)?;
        if let Some(problem) = expected.problem(&found) {
            self.forget()?;
            return Err(self.failed(format!("what came is not the published file: {problem}; it was deleted")));
        }
        fs::rename(&self.part, to).map_err(|source| disk::io(to, source))?;
        disk::remove(&self.origin)?;
        Ok(found)
    }

    /// What is wrong with so many bytes, if they are too many.
    fn too_large(&self, bytes: u64) -> Option<String> {
        if let Some(size) = self.size.filter(|size| bytes > *size) {
            return Some(format!("the server sends {bytes} bytes or more of a file that should have {size}"));
        }
        (bytes > self.max_bytes)
            .then(|| format!("the server sends {bytes} bytes or more, and at most {} are taken (--max-size takes more)", self.max_bytes))
    }

    /// The end of an error that leaves something to go on from.
    fn so_far(&self) -> Result<String> {
        Ok(match disk::length(&self.part)? {
            0 => String::new(),
            bytes => format!("; {bytes} bytes are here, and the same command goes on from there"),
        })
    }

    /// What the part belongs to, if that is this address.
    fn origin(&self) -> Result<Option<Origin>> {
        if !disk::is_there(&self.origin)? {
            return Ok(None);
        }
        let origin: Option<Origin> = fs::read(&self.origin).ok().and_then(|text| serde_json::from_slice(&text).ok());
        Ok(origin.filter(|origin| origin.url == self.url))
    }

    fn remember(&self, origin: &Origin) -> Result<()> {
        let text = serde_json::to_vec(origin).map_err(|error| disk::io(&self.origin, error.into()))?;
        output::write(&self.origin, &text)
    }

    fn forget(&self) -> Result<()> {
        disk::remove(&self.part)?;
        disk::remove(&self.origin)
    }

    fn failed(&self, problem: String) -> Error {
        Error::Download { url: self.url.into(), problem }
    }
}

/// `Content-Range: bytes FIRST-LAST/TOTAL` or `bytes */TOTAL`; a total may be `*`.
fn content_range(response: &Response<Body>) -> Option<(Option<u64>, Option<u64>)> {
    let (range, total) = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?.split_once('/')?;
    let first = range.split_once('-').and_then(|(first, _)| first.parse().ok());
    Some((first, total.parse().ok()))
}
