//! Requests to a server of files: https only unless told otherwise, on every address that a redirect leads to.
//!
//! Redirects are followed here and not by the HTTP library, since the Hub says on the way, not at the end, what a file is, and since a
//! token is for the server that it was made for: no redirect takes it elsewhere.

use crate::error::{Error, Result};
use std::time::Duration;
use ureq::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use ureq::http::{Method, Request, Response, StatusCode, Uri};
use ureq::{Agent, Body};

/// Redirects of one request before it is given up.
const MAX_REDIRECTS: usize = 10;

pub struct Client {
    agent: Agent,
    /// Whether addresses of `http:` are taken too, which anybody on the way can read and change.
    allow_http: bool,
    token: Option<Token>,
}

/// What tells a server who asks.
struct Token {
    /// Scheme, host and port that it is for.
    origin: String,
    value: HeaderValue,
}

/// What a server says of a file without sending it.
pub struct Head {
    pub status: StatusCode,
    /// Of the last answer, and of those on the way to it what begins with `x-`.
    pub headers: HeaderMap,
}

impl Client {
    pub fn new(allow_http: bool) -> Self {
        let config = Agent::config_builder()
            .user_agent(concat!("detrim/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_per_read(Some(Duration::from_secs(60)));
        Self { agent: config.build().new_agent(), allow_http, token: None }
    }

    /// Sends `token` along with every request to the server of `address`, and to no other.
    pub fn with_token(mut self, address: &str, token: &str) -> Result<Self> {
        let failed = |problem: &str| Error::Download { url: address.into(), problem: problem.into() };
        let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| failed("the token holds characters that no token has"))?;
        value.set_sensitive(true);
        let origin = origin(address).ok_or_else(|| failed("not an address"))?;
        self.token = Some(Token { origin, value });
        Ok(self)
    }

    /// The file at `url`, wherever redirects lead. The body comes as it is stored: compressed, it would neither resume nor hash as the file.
    pub fn get(&self, url: &str, headers: &[(HeaderName, &str)]) -> Result<Response<Body>, String> {
        let mut address = url.to_string();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(Method::GET, &address, headers)?;
            match redirect(&response, &address)? {
                Some(next) => address = next,
                None => return Ok(response),
            }
        }
        Err(too_many())
    }

    /// What the server says of the file at `url`. A redirect to another server is not followed once the first has said what the file is:
    /// a content delivery network knows nothing of repositories.
    pub fn head(&self, url: &str) -> Result<Head, String> {
        let (mut address, mut headers) = (url.to_string(), HeaderMap::new());
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(Method::HEAD, &address, &[])?;
            // Of earlier answers only what they say of the repository still counts: length and tag were the redirect's own.
            headers =
                headers.into_iter().filter_map(|(name, value)| Some((name?, value))).filter(|(name, _)| name.as_str().starts_with("x-")).collect();
            for (name, value) in response.headers() {
                headers.insert(name, value.clone());
            }
            match redirect(&response, &address)? {
                Some(next) if origin(&next) == origin(&address) || !headers.contains_key("x-repo-commit") => address = next,
                _ => return Ok(Head { status: response.status(), headers }),
            }
        }
        Err(too_many())
    }

    fn send(&self, method: Method, address: &str, headers: &[(HeaderName, &str)]) -> Result<Response<Body>, String> {
        match address.split_once("://").map(|(scheme, _)| scheme) {
            Some("https") => {}
            Some("http") if self.allow_http => {}
            Some("http") => {
                return Err(format!("{} is not https: anybody on the way could change what comes (--allow-http takes it anyway)", bare(address)));
            }
            _ => return Err(format!("{} is not the address of a file (https://…)", bare(address))),
        }
        let mut request = Request::builder().method(method).uri(address).header(header::ACCEPT_ENCODING, "identity");
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        if let Some(token) = self.token.as_ref().filter(|token| origin(address).as_ref() == Some(&token.origin)) {
            request = request.header(header::AUTHORIZATION, token.value.clone());
        }
        let request = request.body(()).map_err(|error| format!("{}: {error}", bare(address)))?;
        self.agent.run(request).map_err(|error| in_words(&error))
    }
}

fn too_many() -> String {
    format!("the server redirects more than {MAX_REDIRECTS} times")
}

/// Where a response says that the file is, if it is a redirect.
fn redirect(response: &Response<Body>, from: &str) -> Result<Option<String>, String> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = response.headers().get(header::LOCATION).and_then(|location| location.to_str().ok()).unwrap_or_default();
    let next = resolve(from, location).ok_or_else(|| format!("the server redirects to \"{}\", which is not an address", bare(location)))?;
    Ok(Some(next))
}

/// A location as a redirect writes it, as a whole address.
fn resolve(from: &str, location: &str) -> Option<String> {
    let location = location.split('#').next().filter(|location| !location.is_empty())?;
    let from: Uri = from.parse().ok()?;
    let (scheme, host, path) = (from.scheme_str()?, from.authority()?, from.path());
    let next = if location.contains("://") {
        location.to_string()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{host}{location}")
    } else {
        format!("{scheme}://{host}{}/{location}", path.rsplit_once('/').map_or("", |(folder, _)| folder))
    };
    next.parse::<Uri>().is_ok().then_some(next)
}

/// Scheme, host and port.
fn origin(address: &str) -> Option<String> {
    let uri: Uri = address.parse().ok()?;
    Some(format!("{}://{}", uri.scheme_str()?, uri.authority()?.as_str().to_ascii_lowercase()))
}

/// An address for messages: without its query, which may hold a signature.
fn bare(address: &str) -> &str {
    address.split('?').next().unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_resolved_as_browsers_do() {
        for (location, expected) in [
            ("/api/x?y=1", Some("https://host:8/api/x?y=1")),
            ("other.bin#part", Some("https://host:8/a/other.bin")),
            ("//cdn.example/x", Some("https://cdn.example/x")),
            ("http://cdn.example/x", Some("http://cdn.example/x")),
            ("", None),
            ("https://two words/", None),
        ] {
            assert_eq!(resolve("https://host:8/a/file.bin?q", location).as_deref(), expected, "{location}");
        }
    }

    #[test]
    fn only_https_is_asked() {
        let client = Client::new(false);
        for (address, problem) in [
            ("http://127.0.0.1:9/file?signature=secret", "http://127.0.0.1:9/file is not https"),
            ("ftp://127.0.0.1/file", "not the address of a file"),
            ("file:///etc/passwd", "not the address of a file"),
            ("127.0.0.1/file", "not the address of a file"),
        ] {
            let error = client.get(address, &[]).unwrap_err();
            assert!(error.contains(problem) && !error.contains("secret"), "{error}");
        }
    }
}
