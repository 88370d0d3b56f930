//! Requests and answers of Kafka's protocol, passed on one by one; Produce requests are looked into, as
//! far as their sender and their topic.
//!
//! A request that is held is passed on also when its client is gone by then, and a client that has
//! given up is no reason to give up what it sent.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::flow::Queue;
use super::{Order, Shared};

/// Longest request or answer that is passed on, in bytes.
const BYTES_MAX: usize = 128 << 20;

/// Bytes of a Produce request in which its sender and its topic are found.
const HEAD_BYTES: usize = 512;

/// What happens to Produce requests; all others pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appends {
    /// They wait, with what follows them on their connection.
    Hold,
    /// Those for that topic wait.
    HoldTopic(String),
    /// Those for that topic wait that come from whoever sends the first of them.
    HoldSender(String),
    /// Those for that topic are passed on, but not the answers.
    LoseAnswers(String),
    /// Those for that topic are lost.
    LoseRequests(String),
}

/// Correlation ids of the requests of one connection whose answers are lost.
pub(super) type Unanswered = Mutex<BTreeSet<[u8; 4]>>;

/// A Produce request, as far as it is looked into.
struct Produce<'a> {
    correlation: [u8; 4],
    sender: &'a [u8],
    head: &'a [u8],
}

impl<'a> Produce<'a> {
    fn new(request: &'a [u8]) -> Option<Self> {
        let head = &request[..request.len().min(HEAD_BYTES)];
        let (key, rest) = head.split_first_chunk::<2>()?;
        let correlation = rest.get(2..6)?.try_into().ok()?;
        let length = i16::from_be_bytes(rest.get(6..8)?.try_into().ok()?);
        let sender = rest.get(8..8 + usize::try_from(length).ok()?)?;
        (*key == [0, 0]).then_some(Self {
            correlation,
            sender,
            head,
        })
    }

    fn is_for(&self, topic: &str) -> bool {
        let topic = topic.as_bytes();
        self.head.windows(topic.len()).any(|part| part == topic)
    }
}

/// What becomes of one request.
enum Fate {
    Passed,
    Held,
    Lost,
    AnswerLost([u8; 4]),
}

impl Shared {
    pub(super) async fn kafka_requests(
        &self,
        mut client: impl AsyncRead + Unpin,
        queue: &Queue,
        unanswered: &Unanswered,
    ) -> Result<()> {
        let mut orders = self.order.subscribe();
        while let Some(request) = message(&mut client).await? {
            loop {
                let order = orders.borrow_and_update().clone();
                match self.fate(&order, &request[4..]) {
                    Fate::Passed => break queue.put(request).await?,
                    Fate::Lost => break,
                    Fate::AnswerLost(correlation) => {
                        unanswered.lock().insert(correlation);
                        break queue.put(request).await?;
                    }
                    Fate::Held => orders.changed().await?,
                }
            }
        }
        Ok(())
    }

    pub(super) async fn kafka_answers(
        &self,
        mut broker: impl AsyncRead + Unpin,
        queue: &Queue,
        unanswered: &Unanswered,
    ) -> Result<()> {
        while let Some(answer) = message(&mut broker).await? {
            let correlation = answer.get(4..8).and_then(|bytes| bytes.try_into().ok());
            let correlation: [u8; 4] = correlation.context("a short answer")?;
            let lost = unanswered.lock().remove(&correlation);
            if !lost {
                queue.put(answer).await?;
            }
        }
        Ok(())
    }

    fn fate(&self, order: &Order, request: &[u8]) -> Fate {
        let (Order::Appends(appends), Some(produce)) = (order, Produce::new(request)) else {
            return Fate::Passed;
        };
        match appends {
            Appends::Hold => Fate::Held,
            Appends::HoldTopic(topic) if produce.is_for(topic) => Fate::Held,
            Appends::HoldSender(topic) if produce.is_for(topic) => {
                let mut sender = self.sender.lock();
                let first = sender.get_or_insert_with(|| produce.sender.to_owned());
                match first == produce.sender {
                    true => Fate::Held,
                    false => Fate::Passed,
                }
            }
            Appends::LoseRequests(topic) if produce.is_for(topic) => Fate::Lost,
            Appends::LoseAnswers(topic) if produce.is_for(topic) => {
                Fate::AnswerLost(produce.correlation)
            }
            _ => Fate::Passed,
        }
    }
}

/// One request or answer, with its length before it; `None` once the side has said all, or broke off.
///
/// * errors: a length that nobody has.
async fn message(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<Bytes>> {
    let Ok(length) = from.read_i32().await else {
        return Ok(None);
    };
    let bytes = usize::try_from(length)?;
    if bytes > BYTES_MAX {
        bail!("a message of {bytes} bytes");
    }
    let mut message = length.to_be_bytes().to_vec();
    message.resize(4 + bytes, 0);
    let read = from.read_exact(&mut message[4..]).await;
    Ok(read.is_ok().then(|| message.into()))
}
