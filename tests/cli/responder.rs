//! Plays a node: answers each request with bytes a test chose, however broken, and keeps what was
//! asked.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, mpsc};

use crate::process::DEADLINE;

/// A request as it arrived; header names in lower case.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) line: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

/// What is written back, byte by byte, before the connection is closed.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Bytes(Vec<u8>),
    /// Nothing until the client goes away.
    Silence,
    /// These bytes once a statement was cancelled.
    Cancelled(Vec<u8>),
}

/// A whole answer with a length.
pub(crate) fn answer(status: u16, media_type: &str, headers: &str, body: &str) -> Answer {
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: {media_type}\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n",
        body.len()
    );
    Answer::Bytes([head.as_bytes(), body.as_bytes()].concat())
}

/// A refusal as `/v1` writes it.
pub(crate) fn problem(status: u16, body: &str) -> Answer {
    answer(status, "application/problem+json", "", body)
}

/// A chunked answer; without `whole` it is cut before its last chunk.
pub(crate) fn chunked(media_type: &str, pieces: &[&str], whole: bool) -> Answer {
    let mut bytes = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {media_type}\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    for piece in pieces {
        bytes.push_str(&format!("{:x}\r\n{piece}\r\n", piece.len()));
    }
    if whole {
        bytes.push_str("0\r\n\r\n");
    }
    Answer::Bytes(bytes.into_bytes())
}

/// Requests that arrived.
#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<Request>>,
    more: Condvar,
}

/// A listening node.
pub(crate) struct Responder {
    pub(crate) url: String,
    seen: Arc<Seen>,
    arrived: Mutex<mpsc::Receiver<Request>>,
}

impl Responder {
    /// Answers each request with what `choose` says; `GET /v1/health` is answered by itself and not
    /// kept.
    pub(crate) fn start(choose: impl FnMut(&Request) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Seen::default());
        let (arrival, arrived) = mpsc::channel();
        let choose = Arc::new(Mutex::new(choose));
        let kept = seen.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (kept, choose, arrival) = (kept.clone(), choose.clone(), arrival.clone());
                std::thread::spawn(move || {
                    serve(stream.unwrap(), &kept, &arrival, &mut |request| {
                        (choose.lock().unwrap())(request)
                    })
                });
            }
        });
        Self {
            url,
            seen,
            arrived: Mutex::new(arrived),
        }
    }

    /// Answers every request alike.
    pub(crate) fn always(answer: Answer) -> Self {
        Self::start(move |_| answer.clone())
    }

    /// All requests so far, in the order they came.
    pub(crate) fn seen(&self) -> Vec<Request> {
        self.seen.requests.lock().unwrap().clone()
    }

    /// Waits for the next request that nobody waited for yet.
    pub(crate) fn next(&self) -> Request {
        self.arrived
            .lock()
            .unwrap()
            .recv_timeout(DEADLINE)
            .expect("a request arrives")
    }
}

fn serve(
    mut stream: TcpStream,
    kept: &Seen,
    arrival: &mpsc::Sender<Request>,
    choose: &mut dyn FnMut(&Request) -> Answer,
) -> Option<()> {
    let request = read(&stream)?;
    if request.line.starts_with("GET /v1/health ") {
        let Answer::Bytes(healthy) = answer(200, "application/json", "", "{}") else {
            return None;
        };
        return stream.write_all(&healthy).ok();
    }
    kept.requests.lock().unwrap().push(request.clone());
    kept.more.notify_all();
    let chosen = choose(&request);
    arrival.send(request).ok();
    match chosen {
        Answer::Bytes(bytes) => stream.write_all(&bytes).ok(),
        Answer::Cancelled(bytes) => {
            let requests = kept.requests.lock().unwrap();
            let no_cancel = |requests: &mut Vec<Request>| {
                !requests
                    .iter()
                    .any(|request| request.line.starts_with("DELETE"))
            };
            let waited = kept.more.wait_timeout_while(requests, DEADLINE, no_cancel);
            drop(waited.unwrap());
            stream.write_all(&bytes).ok()
        }
        Answer::Silence => stream.read(&mut [0]).map(drop).ok(),
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        match header.trim().split_once(": ") {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.to_owned()),
            None => break,
        };
    }
    let length = headers
        .get("content-length")
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request {
        line: line.trim().to_owned(),
        headers,
        body: String::from_utf8(body).unwrap(),
    })
}
