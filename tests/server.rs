//! Servers on this machine that answer as a test says.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Says what to answer to a request's headers (in lower case); what it gives is sent and the connection closed.
pub type Reply = Box<dyn Fn(&str) -> Vec<u8> + Send>;

/// Ends with the test.
pub struct Server {
    /// Scheme, host and port.
    pub origin: String,
    /// An address on it.
    pub url: String,
    /// The headers of every request so far.
    pub requests: Arc<Mutex<Vec<String>>>,
    stopped: Arc<AtomicBool>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

/// Answers one request for each reply, and none after that.
pub fn serve(replies: Vec<Reply>) -> Server {
    start(replies.into_iter())
}

/// Answers every request.
pub fn serve_all(reply: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Server {
    let reply = Arc::new(reply);
    start(std::iter::repeat_with(move || {
        let reply = reply.clone();
        Box::new(move |headers: &str| reply(headers)) as Reply
    }))
}

fn start(replies: impl Iterator<Item = Reply> + Send + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let (requests, stopped) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
    let (log, stop) = (requests.clone(), stopped.clone());
    std::thread::spawn(move || {
        // No test leaves a server behind, even one that hangs.
        let deadline = Instant::now() + Duration::from_secs(600);
        for reply in replies {
            let stream = loop {
                match listener.accept() {
                    Ok((stream, _)) => break stream,
                    Err(_) if stop.load(Ordering::Relaxed) || Instant::now() > deadline => return,
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            };
            answer(stream, &reply, &log);
        }
    });
    Server { url: format!("{origin}/file.bin"), origin, requests, stopped }
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

pub fn response(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n").as_bytes(), body].concat()
}
