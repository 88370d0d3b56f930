//! Streams to the other nodes: one each, made when it is first needed, made again after it broke.
//!
//! Never here: which node leads a shard, or sending a write again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use auxo_engine::payload::{self, Batch};
use auxo_engine::{WriteError, Written};
use auxo_proto::error::{ErrorCode, Failure, Outcome};
use auxo_proto::ids::{Seq, ShardId};
use auxo_proto::pb::node::forwarded_answer::Outcome as Answered;
use auxo_proto::pb::node::forwarding_client::ForwardingClient;
use auxo_proto::pb::node::{ForwardedAnswer, ForwardedRefusal, ForwardedWrite};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Streaming;
use tonic::transport::Channel;

use super::{FORWARD_TIME, MESSAGE_BYTES_MAX};
use crate::session::doors::Dial;
use crate::write;

/// Writes to one node that are not on their way yet; the next one is refused.
const QUEUE: usize = 256;
/// Messages handed to the connection and not sent yet.
const OUTBOUND: usize = 16;
/// Time for a connection to be made.
const CONNECT_TIME: Duration = Duration::from_secs(2);
/// Time without a write after which a stream is closed.
const IDLE: Duration = Duration::from_secs(300);

/// The streams of a node. Clones share them.
#[derive(Clone)]
pub struct Peers(Arc<Inner>);

struct Inner {
    dial: Dial,
    queues: Mutex<HashMap<String, mpsc::Sender<Waiting>>>,
    forwarded: AtomicU64,
    forwarded_bytes: AtomicU64,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A write on its way, and who waits for it.
struct Waiting {
    shard: ShardId,
    payload: Bytes,
    deadline: Instant,
    reply: oneshot::Sender<Result<Written, Failure>>,
}

impl Peers {
    /// No streams yet.
    ///
    /// * dial: makes channels to internal listeners.
    /// * effects: streams are kept on `tasks` until `stop`.
    pub fn new(dial: Dial, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self(Arc::new(Inner {
            dial,
            queues: Mutex::default(),
            forwarded: AtomicU64::new(0),
            forwarded_bytes: AtomicU64::new(0),
            tasks,
            stop,
        }))
    }

    /// Has a batch applied by the node behind an address.
    ///
    /// * errors: the outcome is `Rejected` or `Unknown`, never left open.
    pub async fn write(
        &self,
        address: &str,
        shard: ShardId,
        batch: &Batch,
    ) -> Result<Written, Failure> {
        let encoded = auxo_engine::encode(batch).map_err(write::failure)?;
        let (payload, _) = payload::join([&encoded], usize::MAX);
        let (reply, answer) = oneshot::channel();
        let waiting = Waiting {
            shard,
            payload,
            deadline: Instant::now() + FORWARD_TIME,
            reply,
        };
        let bytes = waiting.payload.len() as u64;
        self.queue(address, waiting)?;
        self.0.forwarded.fetch_add(1, Ordering::Relaxed);
        self.0.forwarded_bytes.fetch_add(bytes, Ordering::Relaxed);
        match tokio::time::timeout(FORWARD_TIME, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(write::failure(WriteError::Unknown)),
        }
    }

    /// Writes that were handed to streams, and the bytes of their batches.
    pub fn forwarded(&self) -> (u64, u64) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (count(&self.0.forwarded), count(&self.0.forwarded_bytes))
    }

    /// Hands a write to the stream of that address, which is made if there is none.
    fn queue(&self, address: &str, waiting: Waiting) -> Result<(), Failure> {
        let mut queues = self.0.queues.lock();
        let waiting = match queues.get(address) {
            None => waiting,
            Some(queue) => match queue.try_send(waiting) {
                Ok(()) => return Ok(()),
                Err(mpsc::error::TrySendError::Full(_)) => {
                    return Err(refused(
                        ErrorCode::Busy,
                        format!("too many writes wait for {address}"),
                    ));
                }
                Err(mpsc::error::TrySendError::Closed(waiting)) => waiting,
            },
        };
        let Some(channel) = (self.0.dial)(address) else {
            return Err(unreachable_node(address, "is no address"));
        };
        let (queue, queued) = mpsc::channel(QUEUE);
        queue
            .try_send(waiting)
            .unwrap_or_else(|_| unreachable!("a new queue has room"));
        queues.retain(|_, queue| !queue.is_closed());
        queues.insert(address.to_owned(), queue);
        let stream = Stream {
            address: address.to_owned(),
            queued,
            next: None,
            sent: HashMap::new(),
            number: 0,
        };
        let stop = self.0.stop.clone();
        self.0.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = stream.run(channel) => {}
            }
        });
        Ok(())
    }
}

fn refused(code: ErrorCode, detail: String) -> Failure {
    Failure::new(code, detail).outcome(Outcome::Rejected)
}

fn unreachable_node(address: &str, why: &str) -> Failure {
    refused(ErrorCode::NoLeader, format!("node at {address}: {why}"))
}

/// One stream, from its first write to its end; whoever waits when it ends is told.
struct Stream {
    address: String,
    queued: mpsc::Receiver<Waiting>,
    /// The write that is sent next; nothing of it has left yet.
    next: Option<Waiting>,
    /// What was handed to the connection, by number.
    sent: HashMap<u64, oneshot::Sender<Result<Written, Failure>>>,
    number: u64,
}

impl Stream {
    async fn run(mut self, channel: Channel) {
        let (outbound, messages) = mpsc::channel(OUTBOUND);
        let mut client = ForwardingClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let opened = client.write(ReceiverStream::new(messages));
        let why = match tokio::time::timeout(CONNECT_TIME, opened).await {
            Ok(Ok(answers)) => self.pass(outbound, answers.into_inner()).await,
            Ok(Err(status)) => status.message().to_owned(),
            Err(_) => "no connection in time".to_owned(),
        };
        tracing::debug!(
            address = self.address,
            why,
            "stream of forwarded writes ended"
        );
        self.queued.close();
        let mut next = self.next.take();
        while let Some(waiting) = next.take().or_else(|| self.queued.try_recv().ok()) {
            let failure = unreachable_node(&self.address, &why);
            let _ = waiting.reply.send(Err(failure));
        }
        for (_, reply) in self.sent.drain() {
            let _ = reply.send(Err(write::failure(WriteError::Unknown)));
        }
    }

    /// Sends and answers until the stream ends; says why it did.
    async fn pass(
        &mut self,
        outbound: mpsc::Sender<ForwardedWrite>,
        mut answers: Streaming<ForwardedAnswer>,
    ) -> String {
        loop {
            tokio::select! {
                answer = answers.message() => match answer {
                    Ok(Some(answer)) => self.settle(answer),
                    Ok(None) => return "the node ended the stream".to_owned(),
                    Err(status) => return status.message().to_owned(),
                },
                place = outbound.reserve(), if self.next.is_some() => {
                    let Ok(place) = place else {
                        return "the connection is gone".to_owned();
                    };
                    if let Some(message) = self.take() {
                        place.send(message);
                    }
                }
                waiting = self.queued.recv(), if self.next.is_none() => match waiting {
                    Some(waiting) => self.next = Some(waiting),
                    None => return "nobody writes any more".to_owned(),
                },
                () = tokio::time::sleep(IDLE), if self.sent.is_empty() => {
                    return "nothing to send".to_owned();
                }
            }
        }
    }

    /// Takes note of a write that is about to be sent; one that came too late is told so.
    fn take(&mut self) -> Option<ForwardedWrite> {
        let waiting = self.next.take()?;
        let left = waiting.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || waiting.reply.is_closed() {
            let failure = unreachable_node(&self.address, "did not take the write in time");
            let _ = waiting.reply.send(Err(failure));
            return None;
        }
        self.number += 1;
        self.sent.insert(self.number, waiting.reply);
        Some(ForwardedWrite {
            number: self.number,
            shard: waiting.shard.0,
            payload: waiting.payload,
            deadline_ms: left.as_millis().max(1) as u64,
        })
    }

    fn settle(&mut self, answer: ForwardedAnswer) {
        let Some(reply) = self.sent.remove(&answer.number) else {
            return;
        };
        let answered = match answer.outcome {
            Some(Answered::Done(done)) => Ok(Written {
                seq: Seq(done.seq),
                replayed: done.replayed,
            }),
            Some(Answered::Refused(refusal)) => Err(failure(refusal)),
            None => Err(write::failure(WriteError::Unknown)),
        };
        let _ = reply.send(answered);
    }
}

fn failure(refusal: ForwardedRefusal) -> Failure {
    let outcome = match refusal.unknown {
        true => Outcome::Unknown,
        false => Outcome::Rejected,
    };
    let code = ErrorCode::of_number(refusal.code);
    let failure = Failure::new(code.unwrap_or(ErrorCode::Internal), refusal.detail);
    let retry_after_ms = (refusal.retry_after_ms > 0).then_some(refusal.retry_after_ms);
    Failure {
        retry_after_ms,
        ..failure.outcome(outcome)
    }
}
