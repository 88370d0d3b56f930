//! The one task of a shard that appends: group commit, contiguous acks, re-claim, fence.
//!
//! 1. Requests come encoded. The task joins those that wait into one frame of at most 1 MiB: at
//!    once when nothing is in flight, else after at most 2 ms. At most five frames are in flight.
//! 2. Deliveries are taken in the order of `n`. At the expected offset the frame goes through VALID
//!    and its waiters are told `Ok`: the hot path is one comparison.
//! 3. At a higher offset the gap is read back first; other writers' frames are judged, never
//!    assumed.
//! 4. After an unknown outcome nothing is sent until a new claim counts (`claim.rs`): what was seen
//!    below it is `Ok`, the rest can never count and is `Rejected`.
//! 5. When a claim of a higher term counts, this shard is fenced: what is not settled is
//!    `Rejected`, the task ends.
//!
//! Invariants: W3 (an ack needs the frame valid and everything below accounted), W4 (rows are sent
//! only after the own claim counted), K1 (no clock allows an ack).
//!
//! Never here: files, manifests, who should lead.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use auxo_proto::ids::{BatchId, Seq, ShardId, TenantId, Term};
use auxo_wal_adapters::{AppendError, Frame, FrameKind, Offset, Placed, Region, WalError};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::batches::Known;
use crate::budget::RequestPermit;
use crate::claim::{self, Identity};
use crate::payload::{self, Batch, EncodedBatch};
use crate::state::{Cut, Fed, FeedError, State};

/// Bytes of requests joined into one frame.
const FRAME_BYTES: usize = 1 << 20;
/// Frames in flight at once.
const IN_FLIGHT_MAX: usize = 5;
/// Longest wait for more requests while something is in flight.
const LINGER: Duration = Duration::from_millis(2);
/// How often an idle leader looks for a successor.
const LOOK: Duration = Duration::from_secs(1);
/// Bytes asked for at once when reading back.
pub(crate) const READ_BYTES: usize = 4 << 20;

/// Answer to a write that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Sequence of the record that holds it.
    pub seq: Seq,
    /// Whether the batch had been applied before.
    pub replayed: bool,
}

/// Why a write was not acked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// This node does not lead the shard (any more). Certain: the write is in no state.
    #[error("shard {0} is not led here")]
    NotLeader(ShardId),
    /// The shard is closing or was closed. Certain.
    #[error("shard {0} is closed")]
    Closed(ShardId),
    /// A tablet of the write is not in this shard. Certain.
    #[error("tablet {0} is not in this shard")]
    StaleRoute(auxo_proto::ids::TabletId),
    /// A queue is full, or memory or the unflushed cap is reached. Certain; try again.
    #[error("{0}")]
    Busy(Busy),
    /// The log refused the record. Certain; try again.
    #[error("write-ahead log: {0}")]
    Refused(String),
    /// The batch is above what one record holds. Certain; split it.
    #[error("{0}")]
    TooLarge(String),
    /// The batch id was used with another body. Certain.
    #[error("batch {0} was applied with another body")]
    BatchConflict(BatchId),
    /// The batch id is older than what the shard remembers. Certain.
    #[error("batch {0} is older than the window of batch ids")]
    BatchExpired(BatchId),
    /// Perhaps in the log: send again with the same batch id.
    #[error("the outcome of the write is not known")]
    Unknown,
    /// The shard stopped itself. Certain for this write.
    #[error("shard is parked: {0}")]
    Parked(String),
}

/// What has no room for a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    /// Requests in flight or memtables of the node.
    #[error("node is short of memory for writes")]
    Memory,
    /// Unflushed bytes of the shard.
    #[error("shard has reached its cap of unflushed bytes")]
    Unflushed,
    /// The shard's queue of requests.
    #[error("queue of the shard is full")]
    Queue,
}

pub(crate) type Reply = oneshot::Sender<Result<Written, WriteError>>;

/// A request on its way into a frame.
pub(crate) struct Submitted {
    pub(crate) batch: Batch,
    pub(crate) encoded: EncodedBatch,
    pub(crate) reply: Reply,
    pub(crate) permit: Option<RequestPermit>,
}

/// What the shard's other tasks ask of the appending task.
pub(crate) enum Command {
    /// Rows, deletes or tablets.
    Write(Box<Submitted>),
    /// Freeze the memtables at `next`.
    Cut(oneshot::Sender<Option<Cut>>),
    /// Answer once everything acked before now is applied.
    Barrier(oneshot::Sender<Result<(), WriteError>>),
    /// Tell readers of the log that a manifest is committed.
    Mark(u64),
    /// Another leader committed a manifest: stop.
    Deposed(Term),
    /// Settle what is in flight, take nothing more, end.
    Close(oneshot::Sender<Option<Cut>>),
}

/// How the appending task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Asked to.
    Closed,
    /// A higher term leads.
    Fenced(Term),
    /// The log cannot be followed.
    Parked(String),
}

struct Sent {
    frame: Frame,
    batches: Vec<Batch>,
    replies: Vec<Reply>,
    _permits: Vec<RequestPermit>,
}

type Delivered = (u64, u64, Result<Placed, AppendError>);

pub(crate) struct Leader {
    pub(crate) id: Identity,
    pub(crate) region: Arc<dyn Region>,
    pub(crate) state: State,
    /// The claim under which frames are sent.
    pub(crate) term: Term,
    pub(crate) writer: u64,
    pub(crate) commands: mpsc::Receiver<Command>,
    /// Told of each apply, so that runs are made and flushes begin.
    pub(crate) applied: Box<dyn Fn() + Send + Sync>,
    /// Told of a new claim before anything is sent under it.
    pub(crate) claimed: Box<dyn Fn(Term, u64, Offset) + Send + Sync>,
    n: u64,
    waiting: Vec<Submitted>,
    waiting_bytes: usize,
    linger_until: Option<Instant>,
    sent: BTreeMap<u64, Sent>,
    deliveries: FuturesOrdered<BoxFuture<'static, Delivered>>,
    joined: HashMap<(TenantId, BatchId), (u64, Vec<Reply>)>,
    barriers: Vec<(u64, oneshot::Sender<Result<(), WriteError>>)>,
    closing: Option<oneshot::Sender<Option<Cut>>>,
    last_end: Offset,
}

impl Leader {
    pub(crate) fn new(
        id: Identity,
        region: Arc<dyn Region>,
        state: State,
        claim: (Term, u64),
        commands: mpsc::Receiver<Command>,
        applied: Box<dyn Fn() + Send + Sync>,
        claimed: Box<dyn Fn(Term, u64, Offset) + Send + Sync>,
    ) -> Self {
        Self {
            id,
            region,
            state,
            term: claim.0,
            writer: claim.1,
            commands,
            applied,
            claimed,
            n: 0,
            waiting: Vec::new(),
            waiting_bytes: 0,
            linger_until: None,
            sent: BTreeMap::new(),
            deliveries: FuturesOrdered::new(),
            joined: HashMap::new(),
            barriers: Vec::new(),
            closing: None,
            last_end: 0,
        }
    }

    /// Runs until the shard is closed, fenced or parked.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Ended {
        let ended = loop {
            let turned = tokio::select! {
                biased;
                () = stop.cancelled() => break Ended::Closed,
                turned = self.turn() => turned,
            };
            match turned {
                Ok(None) => {}
                Ok(Some(ended)) | Err(ended) => break ended,
            }
        };
        self.settle_rest(&ended);
        ended
    }

    async fn turn(&mut self) -> Result<Option<Ended>, Ended> {
        if self.closing.is_some() && self.sent.is_empty() && self.waiting.is_empty() {
            let cut = self.state.cut();
            if let Some(reply) = self.closing.take() {
                let _ = reply.send(cut);
            }
            return Ok(Some(Ended::Closed));
        }
        let linger = async {
            match self.linger_until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let room = self.waiting_bytes < FRAME_BYTES && self.closing.is_none();
        tokio::select! {
            biased;
            Some(delivered) = self.deliveries.next() => self.deliver(delivered).await?,
            command = self.commands.recv(), if room => match command {
                Some(command) => self.take(command)?,
                None => return Ok(Some(Ended::Closed)),
            },
            () = linger => self.linger_until = None,
            () = tokio::time::sleep(LOOK) => self.look().await?,
        }
        while self.waiting_bytes < FRAME_BYTES && self.closing.is_none() {
            match self.commands.try_recv() {
                Ok(command) => self.take(command)?,
                Err(_) => break,
            }
        }
        self.send_if_due();
        Ok(None)
    }

    fn take(&mut self, command: Command) -> Result<(), Ended> {
        match command {
            Command::Write(submitted) => self.admit(*submitted),
            Command::Cut(reply) => {
                let _ = reply.send(self.state.cut());
            }
            Command::Barrier(reply) => self.barriers.push((self.n, reply)),
            Command::Mark(number) => {
                let payload = Bytes::copy_from_slice(&number.to_le_bytes());
                self.send(FrameKind::Mark, payload, Vec::new());
            }
            Command::Deposed(term) => return Err(Ended::Fenced(term)),
            Command::Close(reply) => self.closing = Some(reply),
        }
        Ok(())
    }

    /// Joins, answers or refuses a batch that is known; the others wait for the next frame.
    fn admit(&mut self, submitted: Submitted) {
        let Submitted { batch, reply, .. } = &submitted;
        if let Some(id) = batch.id {
            let known = match self.joined.get(&(batch.tenant, id)) {
                Some((hash, _)) if *hash != batch.hash => Known::Conflict,
                Some(_) => {
                    let key = (batch.tenant, id);
                    if let Some((_, replies)) = self.joined.get_mut(&key) {
                        replies.push(submitted.reply);
                    }
                    return;
                }
                None => self.state.batches.look_up(batch.tenant, id, batch.hash),
            };
            let answer = match known {
                Known::New => None,
                Known::Applied(seq) => Some(Ok(Written {
                    seq,
                    replayed: true,
                })),
                Known::Conflict => Some(Err(WriteError::BatchConflict(id))),
                Known::Expired => Some(Err(WriteError::BatchExpired(id))),
            };
            if let Some(answer) = answer {
                let _ = submitted.reply.send(answer);
                return;
            }
            self.joined
                .insert((batch.tenant, id), (batch.hash, Vec::new()));
        } else if reply.is_closed() {
            return;
        }
        self.waiting_bytes += submitted.encoded.encoded_bytes();
        self.waiting.push(submitted);
    }

    fn send_if_due(&mut self) {
        if self.waiting.is_empty() {
            self.send_mark_for_barriers();
            return;
        }
        let idle = self.sent.is_empty();
        let full = self.waiting_bytes >= FRAME_BYTES;
        let room = self.sent.len() < IN_FLIGHT_MAX;
        let lingered = match self.linger_until {
            _ if idle || full || self.closing.is_some() => true,
            Some(until) => until <= Instant::now(),
            None => false,
        };
        if lingered && room {
            self.linger_until = None;
            self.send_rows();
        } else if self.linger_until.is_none() && room {
            self.linger_until = Some(Instant::now() + LINGER);
        }
    }

    /// A barrier needs a frame of its own sent after it was asked for, if none is due.
    fn send_mark_for_barriers(&mut self) {
        let newest_sent = self.n;
        if self.sent.len() < IN_FLIGHT_MAX
            && self
                .barriers
                .iter()
                .any(|(asked_at, _)| *asked_at == newest_sent)
        {
            self.send(FrameKind::Mark, Bytes::new(), Vec::new());
        }
    }

    /// Sends what waits, up to one frame's worth.
    fn send_rows(&mut self) {
        let encoded = self.waiting.iter().map(|waiting| &waiting.encoded);
        let (payload, count) = payload::join(encoded, FRAME_BYTES);
        let chosen: Vec<Submitted> = self.waiting.drain(..count).collect();
        let bytes = self
            .waiting
            .iter()
            .map(|waiting| waiting.encoded.encoded_bytes());
        self.waiting_bytes = bytes.sum();
        self.send(FrameKind::Rows, payload, chosen);
    }

    fn send(&mut self, kind: FrameKind, payload: Bytes, chosen: Vec<Submitted>) {
        self.n += 1;
        let frame = Frame {
            kind,
            incarnation: self.id.region.incarnation,
            term: self.term,
            writer: self.writer,
            n: self.n,
            prev: self.state.next(),
            prev_n: self.state.acceptance.cur().n,
            payload,
        };
        let mut sent = Sent {
            frame: frame.clone(),
            batches: Vec::with_capacity(chosen.len()),
            replies: Vec::with_capacity(chosen.len()),
            _permits: Vec::new(),
        };
        for submitted in chosen {
            sent.batches.push(submitted.batch);
            sent.replies.push(submitted.reply);
            sent._permits.extend(submitted.permit);
        }
        self.sent.insert(self.n, sent);
        let (writer, n) = (self.writer, self.n);
        let appending = self.region.append(frame);
        self.deliveries
            .push_back(Box::pin(async move { (writer, n, appending.await) }));
    }

    async fn deliver(&mut self, (writer, n, result): Delivered) -> Result<(), Ended> {
        if writer != self.writer {
            return Ok(());
        }
        match result {
            Ok(Placed::At(offset)) => self.delivered_at(n, offset).await,
            Ok(Placed::Somewhere) => self.find(n).await,
            Err(AppendError::Refused(error)) => self.refused(n, error),
            Err(AppendError::Unknown(error)) => {
                tracing::warn!(shard = %self.id.shard, term = %self.term, %error, "append of unknown outcome");
                self.reclaim().await
            }
        }
    }

    async fn delivered_at(&mut self, n: u64, offset: Offset) -> Result<(), Ended> {
        let next = self.state.next();
        if offset < next {
            return match self.sent.contains_key(&n) {
                false => Ok(()),
                true => Err(Ended::Parked(format!(
                    "frame {n} was placed at {offset}, below {next}, where it was not found"
                ))),
            };
        }
        if offset > next {
            self.read_back(offset).await?;
        }
        let Some(frame) = self.sent.get(&n).map(|sent| sent.frame.clone()) else {
            return Ok(());
        };
        self.account(offset, &frame)
    }

    /// Reads and accounts [next, until).
    async fn read_back(&mut self, until: Offset) -> Result<(), Ended> {
        while self.state.next() < until {
            let from = self.state.next();
            let chunk = match self.region.read(from, READ_BYTES, Duration::ZERO).await {
                Ok(chunk) => chunk,
                Err(error) => return Err(Ended::Parked(format!("read back from {from}: {error}"))),
            };
            for (offset, frame) in chunk.frames {
                if offset >= until {
                    break;
                }
                self.account(offset, &frame)?;
            }
            if chunk.next <= from {
                return Err(Ended::Parked(format!(
                    "offset {from} is below {until} but not there"
                )));
            }
            self.state.skip_to(chunk.next.min(until));
        }
        Ok(())
    }

    /// A delivery that names no place: believed only once the frame is read back.
    async fn find(&mut self, n: u64) -> Result<(), Ended> {
        let end = match self.region.end().await {
            Ok(end) => end.offset,
            Err(_) => return self.reclaim().await,
        };
        self.read_back(end).await?;
        match self.sent.contains_key(&n) {
            true => self.reclaim().await,
            false => Ok(()),
        }
    }

    fn refused(&mut self, n: u64, error: WalError) -> Result<(), Ended> {
        let parks = error.parks();
        if let Some(sent) = self.sent.remove(&n) {
            self.answer(sent, Err(WriteError::Refused(error.to_string())));
        }
        match parks {
            true => Err(Ended::Parked(error.to_string())),
            false => Ok(()),
        }
    }

    /// Judges one frame of the log in its place and tells whoever waits for it.
    fn account(&mut self, offset: Offset, frame: &Frame) -> Result<(), Ended> {
        let own = frame.writer == self.writer && frame.kind != FrameKind::Claim;
        let mut sent = if own {
            self.sent.remove(&frame.n)
        } else {
            None
        };
        let batches = sent.as_mut().map(|sent| std::mem::take(&mut sent.batches));
        let ids: Vec<_> = batches
            .iter()
            .flatten()
            .filter_map(|batch| batch.id.map(|id| (batch.tenant, id)))
            .collect();
        let fed = self.state.feed(offset, frame, batches).map_err(parked)?;
        match fed {
            Fed::Claimed if frame.writer != self.writer => return Err(Ended::Fenced(frame.term)),
            Fed::Claimed => {}
            Fed::Applied => {
                let seq = self.state.current.get().seq(offset);
                if let Some(sent) = sent {
                    self.answer_ids(
                        &ids,
                        Ok(Written {
                            seq,
                            replayed: true,
                        }),
                    );
                    self.answer(
                        sent,
                        Ok(Written {
                            seq,
                            replayed: false,
                        }),
                    );
                    self.pass_barriers(frame.n);
                }
                (self.applied)();
            }
            Fed::Skipped => {
                if let Some(sent) = sent {
                    self.answer_ids(&ids, Err(WriteError::NotLeader(self.id.shard)));
                    self.answer(sent, Err(WriteError::NotLeader(self.id.shard)));
                }
            }
        }
        Ok(())
    }

    fn pass_barriers(&mut self, n: u64) {
        let barriers = std::mem::take(&mut self.barriers);
        for (asked_at, reply) in barriers {
            if asked_at < n {
                let _ = reply.send(Ok(()));
            } else {
                self.barriers.push((asked_at, reply));
            }
        }
    }

    fn answer(&mut self, sent: Sent, answer: Result<Written, WriteError>) {
        let ids: Vec<_> = sent
            .batches
            .iter()
            .filter_map(|batch| batch.id.map(|id| (batch.tenant, id)))
            .collect();
        self.answer_ids(&ids, answer.clone());
        for reply in sent.replies {
            let _ = reply.send(answer.clone());
        }
    }

    /// Tells those who asked for the same batches while they were in flight.
    fn answer_ids(&mut self, ids: &[(TenantId, BatchId)], answer: Result<Written, WriteError>) {
        for key in ids {
            if let Some((_, replies)) = self.joined.remove(key) {
                for reply in replies {
                    let _ = reply.send(answer.clone());
                }
            }
        }
    }

    /// Claims again under the same epoch, which decides every frame of the old writer.
    async fn reclaim(&mut self) -> Result<(), Ended> {
        let old_writer = self.writer;
        let term = self
            .id
            .next_inc(self.term)
            .map_err(|error| Ended::Parked(error.to_string()))?;
        let writer = self.id.random.next_u64();
        tracing::info!(shard = %self.id.shard, %term, "claiming again");
        let claim_frame = claim::frame(&self.id, term, writer, self.state.next());
        let mut last = self.region.append(claim_frame.clone()).await;
        while let Err(error) = &last {
            tracing::warn!(shard = %self.id.shard, %error, "claim not placed, sending it again");
            tokio::time::sleep(claim::PAUSE).await;
            last = self.region.append(claim_frame.clone()).await;
        }
        let claim = loop {
            let from = self.state.next();
            let chunk = match self.region.read(from, READ_BYTES, claim::PAUSE).await {
                Ok(chunk) => chunk,
                Err(WalError::Unavailable | WalError::Busy) => {
                    tokio::time::sleep(claim::PAUSE).await;
                    continue;
                }
                Err(error) => return Err(Ended::Parked(error.to_string())),
            };
            let mut counted = None;
            for (offset, frame) in chunk.frames {
                if frame.kind == FrameKind::Claim && frame.writer == writer {
                    match self.state.feed(offset, &frame, None).map_err(parked)? {
                        Fed::Claimed => counted = Some(offset),
                        _ => return Err(Ended::Fenced(self.state.acceptance.cur().term)),
                    }
                    break;
                }
                self.account(offset, &frame)?;
            }
            if let Some(offset) = counted {
                break offset;
            }
            self.state.skip_to(chunk.next);
        };
        debug_assert_eq!(self.writer, old_writer);
        (self.term, self.writer, self.n) = (term, writer, 0);
        for (_, sent) in std::mem::take(&mut self.sent) {
            let rejected = WriteError::Refused("the log did not take the record".into());
            self.answer(sent, Err(rejected));
        }
        for (asked_at, _) in &mut self.barriers {
            *asked_at = 0;
        }
        self.deliveries = FuturesOrdered::new();
        (self.claimed)(term, writer, claim);
        Ok(())
    }

    /// Looks whether the log went on without this leader.
    async fn look(&mut self) -> Result<(), Ended> {
        if !self.sent.is_empty() {
            return Ok(());
        }
        let Ok(end) = self.region.end().await else {
            return Ok(());
        };
        self.last_end = self.last_end.max(end.offset);
        match self.last_end > self.state.next() {
            true => self.read_back(self.last_end).await,
            false => Ok(()),
        }
    }

    /// Answers everyone who still waits when the task ends.
    fn settle_rest(&mut self, ended: &Ended) {
        let shard = self.id.shard;
        let rejected = match ended {
            Ended::Closed => WriteError::Closed(shard),
            Ended::Fenced(_) => WriteError::NotLeader(shard),
            Ended::Parked(why) => WriteError::Parked(why.clone()),
        };
        let in_flight = match ended {
            Ended::Fenced(_) => rejected.clone(),
            _ => WriteError::Unknown,
        };
        for (_, sent) in std::mem::take(&mut self.sent) {
            self.answer(sent, Err(in_flight.clone()));
        }
        for submitted in std::mem::take(&mut self.waiting) {
            let ids: Vec<_> = submitted
                .batch
                .id
                .map(|id| (submitted.batch.tenant, id))
                .into_iter()
                .collect();
            self.answer_ids(&ids, Err(rejected.clone()));
            let _ = submitted.reply.send(Err(rejected.clone()));
        }
        for (_, reply) in self.barriers.drain(..) {
            let _ = reply.send(Err(rejected.clone()));
        }
    }
}

fn parked(error: FeedError) -> Ended {
    Ended::Parked(error.to_string())
}
