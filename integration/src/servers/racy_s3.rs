//! A server that speaks enough S3 to be refused: every put is told that it created its object, whatever
//! is there already.
//!
//! Never here: objects that are kept.

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::proxy::http;

/// The server; ends when dropped.
pub struct RacyS3 {
    endpoint: String,
    _tasks: JoinSet<()>,
}

impl RacyS3 {
    /// Starts it on a free port.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                // Who breaks off is not answered.
                connections.spawn(async move { serve(client).await.unwrap_or(()) });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self {
            endpoint,
            _tasks: tasks,
        })
    }

    /// Where clients find it.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

async fn serve(client: TcpStream) -> Result<()> {
    let mut client = BufReader::new(client);
    while let Some(head) = http::head(&mut client).await? {
        let mut body = vec![0; http::body_bytes(&head)?];
        client.read_exact(&mut body).await?;
        let answer = match head.split(|byte| *byte == b' ').next() {
            Some(b"PUT") => "200 OK\r\netag: \"0\"",
            Some(b"DELETE") => "204 No Content",
            _ => "404 Not Found",
        };
        let answer = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n");
        client.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}
