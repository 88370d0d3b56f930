//! Requests of HTTP/1.1, some of which are answered with an error in the server's place.
//!
//! A request that fails is read to its end and goes nowhere; its connection ends with the answer, as
//! the answer says.

use std::fmt;

use anyhow::{Context, Result, bail};
use auxo_proto::random::Random;
use bytes::Bytes;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

use super::flow::{CHUNK, Queue};
use super::{Order, Shared};

/// Most bytes of a request's line and headers.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// A request is to be answered with this status; ends the connection's exchange.
#[derive(Debug)]
pub(super) struct Failed(pub(super) u16);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a request is to fail with {}", self.0)
    }
}

impl std::error::Error for Failed {}

/// The answer to a request that is to fail.
pub(super) fn answer(status: u16) -> Vec<u8> {
    format!("HTTP/1.1 {status} Ordered\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        .into_bytes()
}

impl Shared {
    /// * errors: [`Failed`]; a request of unknown length.
    pub(super) async fn http_requests(
        &self,
        mut client: impl AsyncBufRead + Unpin,
        queue: &Queue,
        dice: &Random,
    ) -> Result<()> {
        while let Some(head) = head(&mut client).await? {
            let share = match *self.order.borrow() {
                Order::Fail(share) => share,
                _ => 0,
            };
            let fails = dice.below(100) < share;
            let mut left = body_bytes(&head)?;
            if !fails {
                queue.put(head).await?;
            }
            while left > 0 {
                let mut chunk = vec![0; left.min(CHUNK)];
                let read = client.read(&mut chunk).await.unwrap_or(0);
                if read == 0 {
                    return Ok(());
                }
                left -= read;
                chunk.truncate(read);
                if !fails {
                    queue.put(chunk.into()).await?;
                }
            }
            if fails {
                let status = [500, 503][dice.below(2) as usize];
                return Err(Failed(status).into());
            }
        }
        Ok(())
    }
}

/// A request up to its body; `None` once the client has said all, or broke off.
pub(crate) async fn head(client: &mut (impl AsyncBufRead + Unpin)) -> Result<Option<Bytes>> {
    let mut head = Vec::new();
    loop {
        let before = head.len();
        let mut line = (&mut *client).take((HEAD_BYTES_MAX - before) as u64);
        match line.read_until(b'\n', &mut head).await {
            Ok(0) | Err(_) if before + 1 < HEAD_BYTES_MAX => return Ok(None),
            Ok(0) | Err(_) => bail!("a request's head has more than {HEAD_BYTES_MAX} bytes"),
            Ok(_) if head[before..] == *b"\r\n" => return Ok(Some(head.into())),
            Ok(_) => {}
        }
    }
}

/// Bytes of the body behind that head.
pub(crate) fn body_bytes(head: &[u8]) -> Result<usize> {
    let head = str::from_utf8(head).context("a request's head")?;
    let mut bytes = 0;
    for line in head.lines().skip(1) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        match name.to_ascii_lowercase().as_str() {
            "content-length" => bytes = value.trim().parse().context("content-length")?,
            "transfer-encoding" => bail!("a request of unknown length"),
            _ => {}
        }
    }
    Ok(bytes)
}
