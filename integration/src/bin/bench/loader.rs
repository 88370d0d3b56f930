//! Sends batches with some writers, each waiting for its ack, or at a rate, whatever became of those
//! before; the same code for every server.
//!
//! It shares the processors with the server it loads, so it does nothing by line: batches are cut
//! before, connections are kept, and what it can do at most is measured against a sink.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use bytes::Bytes;
use integration::http::Http;
use integration::process;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::data::Data;
use crate::sink::Sink;

/// Batches in flight at once.
pub(crate) const WRITERS: usize = 2;

/// Batches in flight at once at most where they are sent at a rate.
const IN_FLIGHT_MAX: usize = 64;

/// Rows a second that the loader must pass, or a run says nothing about the servers.
pub(crate) const LOADER_ROWS_PER_S_MIN: f64 = 1e6;

/// Where batches are posted.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) http: Http,
    pub(crate) path: String,
}

/// What a load took.
#[derive(Debug)]
pub(crate) struct Load {
    /// From the first byte sent to the last ack.
    pub(crate) wall: Duration,
    /// Time of each batch until its ack, ascending.
    pub(crate) acks: Vec<Duration>,
    /// Times that the server asked to try again later.
    pub(crate) refused: usize,
    /// Processor seconds of this process.
    pub(crate) cpu_seconds: f64,
}

impl Load {
    /// Time within which a share of the batches was acknowledged, in milliseconds.
    pub(crate) fn ack_ms(&self, share: f64) -> f64 {
        let last = self.acks.len().saturating_sub(1);
        let at = (last as f64 * share) as usize;
        self.acks.get(at).map_or(0.0, Duration::as_secs_f64) * 1e3
    }
}

impl Target {
    /// Sends one batch until it is acknowledged; returns how often it was refused for now.
    ///
    /// * errors: any other answer.
    pub(crate) async fn post(&self, batch: &Bytes) -> Result<usize> {
        let mut refused = 0;
        loop {
            let post = self.http.request(reqwest::Method::POST, &self.path);
            let answer = self.http.send(post.body(batch.clone())).await?;
            match (answer.status, answer.retry_after_s) {
                (200 | 204, _) => return Ok(refused),
                (_, Some(seconds)) => tokio::time::sleep(Duration::from_secs(seconds)).await,
                (status, None) => bail!("{}: {status} {}", self.path, answer.body),
            }
            refused += 1;
        }
    }
}

/// Sends all batches, to the targets in turn.
pub(crate) async fn load(targets: &[Target], batches: &[Bytes], writers: usize) -> Result<Load> {
    let next = AtomicUsize::new(0);
    let refused = AtomicUsize::new(0);
    let acks = Mutex::new(Vec::with_capacity(batches.len()));
    let cpu = process::cpu_seconds(std::process::id())?;
    let began = Instant::now();
    let writers = (0..writers).map(|_| async {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(batch) = batches.get(at) else {
                return anyhow::Ok(());
            };
            let sent = Instant::now();
            let again = targets[at % targets.len()].post(batch).await?;
            acks.lock().push(sent.elapsed());
            refused.fetch_add(again, Ordering::Relaxed);
        }
    });
    futures::future::try_join_all(writers).await?;
    let wall = began.elapsed();
    let mut acks = acks.into_inner();
    acks.sort();
    Ok(Load {
        wall,
        acks,
        refused: refused.into_inner(),
        cpu_seconds: process::cpu_seconds(std::process::id())? - cpu,
    })
}

/// Sends a batch every so often, to the targets in turn, whether or not those before it are acknowledged.
/// The time of an ack counts from when its batch was due, so a server that stands still is not asked less.
pub(crate) async fn paced(targets: &[Target], batches: &[Bytes], every: Duration) -> Result<Load> {
    let cpu = process::cpu_seconds(std::process::id())?;
    let (mut acks, mut refused) = (Vec::with_capacity(batches.len()), 0);
    let mut sent = JoinSet::new();
    let began = Instant::now();
    let mut batches = batches.iter().zip(targets.iter().cycle()).zip(0..);
    loop {
        let next = match sent.len() {
            IN_FLIGHT_MAX => None,
            _ => batches.next(),
        };
        let Some(((batch, target), at)) = next else {
            let Some(acked) = sent.join_next().await else {
                break;
            };
            let (took, again) = acked??;
            acks.push(took);
            refused += again;
            continue;
        };
        let due = began + every * at;
        tokio::time::sleep_until(due).await;
        let (target, batch) = (target.clone(), batch.clone());
        sent.spawn(async move {
            let again = target.post(&batch).await?;
            anyhow::Ok((due.elapsed(), again))
        });
    }
    let wall = began.elapsed();
    acks.sort();
    Ok(Load {
        wall,
        acks,
        refused,
        cpu_seconds: process::cpu_seconds(std::process::id())? - cpu,
    })
}

/// Rows a second that the loader passes to a server that does nothing, over at least a second.
pub(crate) async fn rows_per_s_max(data: &Data) -> Result<f64> {
    let sink = Sink::start().await?;
    let target = Target {
        http: sink.http.clone(),
        path: "/write".to_owned(),
    };
    let began = Instant::now();
    let mut rows = 0;
    while began.elapsed() < Duration::from_secs(1) {
        load(std::slice::from_ref(&target), &data.batches, WRITERS).await?;
        rows += data.rows;
    }
    Ok(rows as f64 / began.elapsed().as_secs_f64())
}
