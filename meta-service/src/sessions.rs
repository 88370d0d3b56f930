//! The nodes' streams under one reign: who is connected, what is sent, and what was answered.
//!
//! Rooms: [`stream`] (one node's stream, from Hello to its end), [`join`] (what a Hello changes in
//! the model).
//!
//! An order is sent until it is answered or its time is over: again when the node connects again,
//! and when it has neither taken nor furthered it for a while. The id stays the same, so the node
//! does it once.
//!
//! Never here: what orders are given, or a report written anywhere but in the view.

pub mod join;
pub mod stream;

use std::collections::HashMap;
use std::time::Duration;

use auxo_proto::ids::{NodeId, ShardId};
use auxo_proto::pb::meta::answer::Outcome;
use auxo_proto::pb::meta::{self, Down, Hello, Order, down};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::cluster::View;
use crate::cluster::detector::Stream;

/// Messages to one node that are not on their way yet.
const DOWN_QUEUE: usize = 256;
/// Answers to one order that are not read yet.
const ANSWERS: usize = 16;
/// Time in which an order is taken or furthered, before it is sent again.
const PATIENCE: Duration = Duration::from_secs(6);
/// How many deadlines an order gets in all, as long as it makes progress.
const STRETCH: u32 = 20;
/// Time in which a sent order is taken.
const TAKEN_WITHIN: Duration = Duration::from_secs(2);

/// Why an order was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct OrderFailure {
    /// Name of the failure.
    pub code: String,
    /// For people.
    pub detail: String,
    /// Whether the same order would fail again.
    pub permanent: bool,
    /// How long to wait before it is sent again.
    pub retry_after: Option<Duration>,
}

impl OrderFailure {
    fn passing(code: &str, detail: String) -> Self {
        Self {
            code: code.to_owned(),
            detail,
            permanent: false,
            retry_after: None,
        }
    }
}

/// The streams of one reign.
pub struct Sessions {
    start: Instant,
    /// Never locked over an await.
    view: Mutex<View>,
    /// Never locked over an await; before `view`, if both are.
    links: Mutex<HashMap<NodeId, Link>>,
    /// Never locked over an await.
    waiting: Mutex<HashMap<String, mpsc::Sender<Outcome>>>,
    /// Counts the Hellos; raised with `links` locked.
    hellos: watch::Sender<u64>,
}

/// The stream of one node.
struct Link {
    hello: u64,
    down: mpsc::Sender<Down>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            view: Mutex::default(),
            links: Mutex::default(),
            waiting: Mutex::default(),
            hellos: watch::Sender::new(0),
        }
    }
}

impl Sessions {
    /// Looks at what nodes say, with the time in which the view counts.
    pub fn view<R>(&self, look: impl FnOnce(&mut View, Duration) -> R) -> R {
        let now = self.start.elapsed();
        look(&mut self.view.lock(), now)
    }

    /// Wakes at every Hello.
    pub fn hellos(&self) -> watch::Receiver<u64> {
        self.hellos.subscribe()
    }

    /// Makes this the node's stream, in place of an older one, whose queue then ends.
    fn connect(&self, node: NodeId, hello: &Hello) -> (u64, mpsc::Receiver<Down>) {
        let (down, queue) = mpsc::channel(DOWN_QUEUE);
        let mut links = self.links.lock();
        let number = *self.hellos.borrow() + 1;
        self.view(|view, now| {
            view.observe_hello(node, &hello.boot, hello.shards.clone(), now);
        });
        links.insert(
            node,
            Link {
                hello: number,
                down,
            },
        );
        self.hellos.send_replace(number);
        (number, queue)
    }

    /// Takes note that a stream broke or leaves, unless the node has a newer one.
    fn stream_is(&self, node: NodeId, number: u64, stream: Stream) {
        let mut links = self.links.lock();
        if links.get(&node).is_none_or(|link| link.hello != number) {
            return;
        }
        if stream == Stream::Broken {
            links.remove(&node);
        }
        self.view(|view, _| view.observe_stream(node, stream));
    }

    fn link(&self, node: NodeId) -> Option<(u64, mpsc::Sender<Down>)> {
        let links = self.links.lock();
        let link = links.get(&node)?;
        Some((link.hello, link.down.clone()))
    }

    /// Hands an answer to whoever gave the order; one that nobody waits for is dropped.
    fn answered(&self, order: &str, outcome: Outcome) {
        let waiting = self.waiting.lock().get(order).cloned();
        if let Some(waiting) = waiting
            && waiting.try_send(outcome).is_err()
        {
            // Progress may be lost; an outcome is sent again when the order is.
            tracing::debug!(order, "answer not taken");
        }
    }

    /// Has a node do something, however often it has to be sent.
    ///
    /// * returns: the shard as it is afterwards, if the node still has it.
    /// * `deadline`: longest time without progress; a node that goes on saying that it is at it gets
    ///   twenty times as long in all.
    /// * errors: what the node answered, or that it did not in time (not permanent).
    /// * effects: dropping the future leaves it open whether the node does it.
    pub async fn order(
        &self,
        node: NodeId,
        order: Order,
        deadline: Duration,
    ) -> Result<Option<meta::ShardState>, OrderFailure> {
        let id = order.id.clone();
        let shard = ShardId(order.shard);
        let (answers, mut inbox) = mpsc::channel(ANSWERS);
        self.waiting.lock().insert(id.clone(), answers);
        let outcome = self
            .send_until_answered(node, &order, &mut inbox, deadline)
            .await;
        self.waiting.lock().remove(&id);
        match outcome {
            Some(Outcome::Done(done)) => {
                let state = done.shard;
                self.view(|view, _| view.observe_shard(node, shard, state.clone()));
                Ok(state)
            }
            Some(Outcome::Failed(failed)) => Err(OrderFailure {
                code: failed.code,
                detail: failed.detail,
                permanent: failed.permanent,
                retry_after: (failed.retry_after_ms > 0)
                    .then(|| Duration::from_millis(failed.retry_after_ms)),
            }),
            Some(Outcome::Accepted(_) | Outcome::Progress(_)) | None => {
                let connected = self.link(node).is_some();
                let detail = match connected {
                    true => format!("node {node} did not do it in time"),
                    false => format!("node {node} is not connected"),
                };
                Err(OrderFailure::passing("META_UNAVAILABLE", detail))
            }
        }
    }

    /// The answer that ends the order; `None` if its time is over.
    async fn send_until_answered(
        &self,
        node: NodeId,
        order: &Order,
        inbox: &mut mpsc::Receiver<Outcome>,
        deadline: Duration,
    ) -> Option<Outcome> {
        let mut hellos = self.hellos();
        let mut give_up = Instant::now() + deadline;
        let never_after = Instant::now() + deadline * STRETCH;
        loop {
            hellos.borrow_and_update();
            let link = self.link(node);
            let sent_on = link.as_ref().map(|(hello, _)| *hello);
            if let Some((_, down)) = link {
                let left = give_up.saturating_duration_since(Instant::now());
                let order = Order {
                    deadline_ms: left.as_millis() as u64,
                    ..order.clone()
                };
                let content = Some(down::Content::Order(order));
                let sent = down.send(Down { content });
                // A stream that ends while the queue is full is noticed below.
                let _ = tokio::time::timeout_at(give_up, sent).await.ok()?;
            }
            let mut patience = Instant::now() + TAKEN_WITHIN;
            loop {
                tokio::select! {
                    outcome = inbox.recv() => match outcome? {
                        Outcome::Accepted(_) | Outcome::Progress(_) => {
                            patience = Instant::now() + PATIENCE;
                            give_up = never_after.min(Instant::now() + deadline);
                        }
                        outcome => return Some(outcome),
                    },
                    _ = hellos.changed() => {
                        let now_on = self.link(node).map(|(hello, _)| hello);
                        if now_on.is_some() && now_on != sent_on {
                            break;
                        }
                    }
                    () = tokio::time::sleep_until(give_up) => return None,
                    () = tokio::time::sleep_until(patience) => break,
                }
            }
        }
    }
}
