//! The one task of a shard that appends: group commit, contiguous acks, re-claim, fence.
//!
//! 1. Requests come encoded. The task joins those that wait into one frame of at most 1 MiB: at
//!    once when nothing is in flight, else after at most 2 ms. At most five frames are in flight.
//! 2. Deliveries are taken in the order of `n` (`delivery.rs`). At the expected offset the frame
//!    goes through VALID and its waiters are told `Ok`: the hot path is one comparison. At a higher
//!    offset the gap is read back first; other writers' frames are judged, never assumed.
//! 3. After an unknown outcome nothing is sent until a new claim counts (`reclaim.rs`): what was
//!    seen below it is `Ok`, the rest can never count and is `Rejected`.
//! 4. When a claim of a higher term counts, this shard is fenced and the task ends: frames below it
//!    are settled by then, the rest is `Rejected`. Whoever learns of a successor elsewhere reads up
//!    to its claim first (`settle.rs`).
//! 5. A log that does not answer is asked again for as long as it takes. Callers are not kept: after
//!    [`SILENCE`] what was not sent yet is refused, what was is of unknown outcome, and settled all
//!    the same. Meanwhile commands are taken, so that a close, a stop or news of a successor ends
//!    the waiting. Only what [`WalError::parks`] names, or a log that breaks its contract, parks.
//!
//! Invariants: W3 (an ack needs the frame valid and everything below accounted), W4 (rows are sent
//! only after the own claim counted), K1 (no clock allows an ack).
//!
//! Never here: files, the content of manifests, who should lead.
//!
//! [`WalError::parks`]: auxo_wal_adapters::WalError::parks

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use auxo_proto::ids::{BatchId, TenantId, Term};
use auxo_wal_adapters::{AppendError, Frame, FrameKind, Placed};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::batches::Known;
use crate::budget::RequestPermit;
use crate::claim::Identity;
use crate::outcome::{WriteError, Written};
use crate::payload::{self, Batch, EncodedBatch};
use crate::shard::Parts;
use crate::state::State;

mod delivery;
mod reclaim;
mod settle;

/// Bytes of requests joined into one frame.
const FRAME_BYTES: usize = 1 << 20;
/// Frames in flight at once.
const IN_FLIGHT_MAX: usize = 5;
/// Longest wait for more requests while something is in flight.
const LINGER: Duration = Duration::from_millis(2);
/// How often an idle leader looks for a successor.
const LOOK: Duration = Duration::from_secs(1);
/// How long a log may fail to answer until those who wait for it are told: short, for they may try
/// elsewhere or later, and longer than a log that is only busy takes.
const SILENCE: Duration = Duration::from_millis(250);
/// Bytes asked for at once when reading back.
pub(crate) const READ_BYTES: usize = 4 << 20;

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
    /// Freeze the memtables at `next`; the cut is among those to flush when this is answered.
    Cut(oneshot::Sender<()>),
    /// Answer once everything acked before now is applied.
    Barrier(oneshot::Sender<Result<(), WriteError>>),
    /// Tell readers of the log that a manifest is committed.
    Mark(u64),
    /// Another leader committed a manifest: stop.
    Deposed(Term),
    /// Settle what is in flight, take nothing more, cut once more, end.
    Close(oneshot::Sender<()>),
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

/// A frame whose fate is not known yet, and who waits for it.
struct Sent {
    frame: Frame,
    batches: Vec<Batch>,
    replies: Vec<Reply>,
    _permits: Vec<RequestPermit>,
}

/// A close that waits for frames in flight, no longer than its deadline.
struct Closing {
    reply: oneshot::Sender<()>,
    deadline: Instant,
}

/// A strong read, and the last number sent before it was asked for.
struct Barrier {
    asked_at: u64,
    reply: oneshot::Sender<Result<(), WriteError>>,
}

type Delivered = (u64, Result<Placed, AppendError>);

pub(crate) struct Leader {
    id: Identity,
    parts: Arc<Parts>,
    state: State,
    /// The claim under which frames are sent.
    term: Term,
    writer: u64,
    /// Writer of the claim that was sent again and does not count yet.
    claiming: Option<u64>,
    commands: mpsc::Receiver<Command>,
    n: u64,
    waiting: Vec<Submitted>,
    waiting_bytes: usize,
    linger_until: Option<Instant>,
    sent: BTreeMap<u64, Sent>,
    deliveries: FuturesOrdered<BoxFuture<'static, Delivered>>,
    joined: HashMap<(TenantId, BatchId), (u64, Vec<Reply>)>,
    barriers: Vec<Barrier>,
    /// No mark before then: the log has just refused a frame.
    marks_from: Option<Instant>,
    /// When the log first failed to answer since it last did.
    silent_since: Option<Instant>,
    closing: Option<Closing>,
    /// Whoever closes flushes the rest, and stops the shard's other tasks then.
    handed_over: bool,
    look_at: Instant,
}

impl Leader {
    /// A leader whose claim counted; `state` stands right behind it.
    pub(crate) fn new(
        id: Identity,
        parts: Arc<Parts>,
        state: State,
        (term, writer): (Term, u64),
        commands: mpsc::Receiver<Command>,
    ) -> Self {
        Self {
            id,
            parts,
            state,
            term,
            writer,
            claiming: None,
            commands,
            n: 0,
            waiting: Vec::new(),
            waiting_bytes: 0,
            linger_until: None,
            sent: BTreeMap::new(),
            deliveries: FuturesOrdered::new(),
            joined: HashMap::new(),
            barriers: Vec::new(),
            marks_from: None,
            silent_since: None,
            closing: None,
            handed_over: false,
            look_at: Instant::now() + LOOK,
        }
    }

    /// Runs until the shard is closed, fenced or parked. Then everybody who waits is answered, and
    /// nothing is flushed, compacted or deleted any more, except by a close that has to flush.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Ended {
        let ended = tokio::select! {
            biased;
            () = stop.cancelled() => Ended::Closed,
            ended = self.lead() => ended,
        };
        if let Ended::Fenced(_) = ended {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = self.read_to_the_claim() => {}
            }
        }
        self.settle_rest(&ended);
        if !self.handed_over {
            self.parts.stop.cancel();
        }
        ended
    }

    async fn lead(&mut self) -> Ended {
        loop {
            if let Err(ended) = self.turn().await {
                return ended;
            }
        }
    }

    async fn turn(&mut self) -> Result<(), Ended> {
        if self.sent.is_empty()
            && self.waiting.is_empty()
            && let Some(closing) = self.closing.take()
        {
            self.cut();
            self.handed_over = closing.reply.send(()).is_ok();
            return Err(Ended::Closed);
        }
        let linger = at(self.linger_until.filter(|_| self.has_room()));
        let marks = at(self.marks_from);
        let given_up = at(self.closing.as_ref().map(|closing| closing.deadline));
        tokio::select! {
            biased;
            Some(delivered) = self.deliveries.next() => self.deliver(delivered).await?,
            () = given_up => return Err(Ended::Closed),
            Some(command) = self.commands.recv(), if self.takes_commands() => self.take(command)?,
            () = linger => {}
            () = marks => self.marks_from = None,
            () = tokio::time::sleep_until(self.look_at) => self.look().await?,
        }
        while self.takes_commands() {
            match self.commands.try_recv() {
                Ok(command) => self.take(command)?,
                Err(_) => break,
            }
        }
        self.send_if_due();
        Ok(())
    }

    /// Waits for the log while commands are taken; what they make due is sent afterwards.
    ///
    /// * errors: how leadership ends, when a command or the deadline of a close says so.
    async fn meanwhile<T>(&mut self, log: impl Future<Output = T>) -> Result<T, Ended> {
        tokio::pin!(log);
        loop {
            let given_up = at(self.closing.as_ref().map(|closing| closing.deadline));
            tokio::select! {
                biased;
                answer = &mut log => return Ok(answer),
                () = given_up => return Err(Ended::Closed),
                Some(command) = self.commands.recv(), if self.takes_commands() => {
                    self.take(command)?;
                }
            }
        }
    }

    fn takes_commands(&self) -> bool {
        self.waiting_bytes < FRAME_BYTES && self.closing.is_none()
    }

    fn has_room(&self) -> bool {
        self.sent.len() < IN_FLIGHT_MAX
    }

    fn take(&mut self, command: Command) -> Result<(), Ended> {
        match command {
            Command::Write(submitted) => self.admit(*submitted),
            Command::Cut(reply) => {
                self.cut();
                let _ = reply.send(());
            }
            Command::Barrier(reply) => self.barriers.push(Barrier {
                asked_at: self.n,
                reply,
            }),
            // Only a hint: readers of the log look for manifests by themselves, too.
            Command::Mark(number) => {
                if self.has_room() && self.claiming.is_none() {
                    let payload = Bytes::copy_from_slice(&number.to_le_bytes());
                    self.send(FrameKind::Mark, payload, Vec::new());
                }
            }
            Command::Deposed(term) => return Err(Ended::Fenced(term)),
            Command::Close(reply) => {
                let deadline = Instant::now() + self.parts.settings.patience();
                self.closing = Some(Closing { reply, deadline });
            }
        }
        Ok(())
    }

    /// A cut is in the queue of the flusher before anybody hears of it: one that got lost would be
    /// missing from every file.
    fn cut(&mut self) {
        let cut = self.state.cut().map(Arc::new);
        self.parts.cuts.lock().extend(cut);
    }

    /// Joins, answers or refuses a batch that is known; the others wait for the next frame.
    fn admit(&mut self, submitted: Submitted) {
        let Submitted { batch, reply, .. } = &submitted;
        if let Some(id) = batch.id {
            let key = (batch.tenant, id);
            let known = match self.joined.get_mut(&key) {
                Some((hash, _)) if *hash != batch.hash => Known::Conflict,
                Some((_, replies)) => return replies.push(submitted.reply),
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
            self.joined.insert(key, (batch.hash, Vec::new()));
        } else if reply.is_closed() {
            return;
        }
        self.waiting_bytes += submitted.encoded.encoded_bytes();
        self.waiting.push(submitted);
    }

    fn send_if_due(&mut self) {
        if self.waiting.is_empty() {
            return self.send_mark_for_barriers();
        }
        if !self.has_room() {
            return;
        }
        let now = Instant::now();
        let full = self.waiting_bytes >= FRAME_BYTES;
        let lingered = self.linger_until.is_some_and(|until| until <= now);
        if full || lingered || self.sent.is_empty() || self.closing.is_some() {
            self.linger_until = None;
            self.send_rows();
        } else {
            self.linger_until.get_or_insert(now + LINGER);
        }
    }

    /// A barrier needs a frame in flight that was sent after it was asked for. If there is none,
    /// or the log refused it, a mark goes out; barriers whose callers have left need nothing.
    fn send_mark_for_barriers(&mut self) {
        self.barriers.retain(|barrier| !barrier.reply.is_closed());
        let newest = self.sent.last_key_value().map_or(0, |(n, _)| *n);
        let unserved = |barrier: &Barrier| barrier.asked_at >= newest;
        if self.has_room() && self.marks_from.is_none() && self.barriers.iter().any(unserved) {
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
        let n = self.n;
        self.sent.insert(n, sent);
        let appending = self.parts.region.append(frame);
        self.deliveries
            .push_back(Box::pin(async move { (n, appending.await) }));
    }
}

/// Ends at the given time, or never.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
