//! A server that reads requests, throws them away and says 204: what the loader can do at most.

use anyhow::{Context, Result};
use integration::http::Http;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Bytes read at once.
const READ_BYTES: usize = 256 << 10;

/// A running sink; ends when dropped.
pub(crate) struct Sink {
    pub(crate) http: Http,
    _tasks: JoinSet<()>,
}

impl Sink {
    /// Listens on a free port of the loopback.
    pub(crate) async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let http = Http::new(&format!("http://{}", listener.local_addr()?));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(async move {
                    // A client that goes away in mid-request is the end of its connection, no more.
                    let _ = swallow(stream).await;
                });
            }
        });
        Ok(Self {
            http,
            _tasks: tasks,
        })
    }
}

/// Answers requests of one connection until it closes. Only bodies with a `Content-Length`.
async fn swallow(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; READ_BYTES];
    let mut held = 0;
    loop {
        let end = loop {
            if let Some(at) = buffer[..held]
                .windows(4)
                .position(|four| four == b"\r\n\r\n")
            {
                break at + 4;
            }
            held += match stream.read(&mut buffer[held..]).await? {
                0 => return Ok(()),
                read => read,
            };
        };
        let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"));
        let body: usize = length.context("content-length")?.trim().parse()?;
        let mut left = body.saturating_sub(held - end);
        while left > 0 {
            let room = left.min(READ_BYTES);
            left -= match stream.read(&mut buffer[..room]).await? {
                0 => return Ok(()),
                read => read,
            };
        }
        held = 0;
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await?;
    }
}
