//! A relay between clients and one broker that holds or loses what it is told to.
//!
//! The broker advertises the relay's port, so every connection of every client goes through here.
//! Requests are passed on one by one; of them only Produce requests are looked into, as far as their
//! sender and their topic. Never here: a changed byte.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use integration::servers::ports;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Longest request or answer that is passed on, in bytes.
const BYTES_MAX: usize = 128 << 20;

/// Bytes of a Produce request in which its sender and its topic are found.
const HEAD_BYTES: usize = 512;

/// What happens to Produce requests until the next order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Order {
    /// They pass.
    #[default]
    Pass,
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

/// A relay; ends with its connections when dropped.
pub(super) struct Relay {
    pub(super) port: u16,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    /// Where the broker listens.
    target: Mutex<Option<String>>,
    order: watch::Sender<Order>,
    /// Who sent the first request under `HoldSender`.
    sender: Mutex<Option<Vec<u8>>>,
}

impl Relay {
    pub(super) async fn bind() -> Result<Self> {
        let [port] = ports::free()?;
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let shared = Arc::new(Shared {
            target: Mutex::new(None),
            order: watch::Sender::new(Order::Pass),
            sender: Mutex::new(None),
        });
        let mut tasks = JoinSet::new();
        let relay = shared.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let relay = relay.clone();
                // A connection that fails is closed, which its two ends see.
                connections.spawn(async move { relay.connection(client).await.unwrap_or(()) });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self {
            port,
            shared,
            _tasks: tasks,
        })
    }

    pub(super) fn target(&self, address: &str) {
        *self.shared.target.lock() = Some(address.to_owned());
    }

    pub(super) fn order(&self, order: Order) {
        *self.shared.sender.lock() = None;
        self.shared.order.send_replace(order);
    }

    pub(super) fn ordered(&self) -> Order {
        self.shared.order.borrow().clone()
    }
}

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
    async fn connection(&self, client: TcpStream) -> Result<()> {
        let target = self.target.lock().clone().context("no broker yet")?;
        let broker = TcpStream::connect(target).await?;
        client.set_nodelay(true)?;
        broker.set_nodelay(true)?;
        let ((requests, answers), (from_broker, to_broker)) =
            (client.into_split(), broker.into_split());
        let unanswered = Mutex::new(BTreeSet::new());
        tokio::select! {
            // Requests that are held are passed on also when the client is gone by then.
            ended = self.requests(requests, to_broker, &unanswered) => ended,
            ended = self.answers(from_broker, answers, &unanswered) => ended,
        }
    }

    async fn requests(
        &self,
        mut client: OwnedReadHalf,
        mut broker: OwnedWriteHalf,
        unanswered: &Mutex<BTreeSet<[u8; 4]>>,
    ) -> Result<()> {
        let mut orders = self.order.subscribe();
        loop {
            let request = message(&mut client).await?;
            loop {
                let order = orders.borrow_and_update().clone();
                match self.fate(&order, &request[4..]) {
                    Fate::Passed => break broker.write_all(&request).await?,
                    Fate::Lost => break,
                    Fate::AnswerLost(correlation) => {
                        unanswered.lock().insert(correlation);
                        break broker.write_all(&request).await?;
                    }
                    Fate::Held => orders.changed().await?,
                }
            }
        }
    }

    async fn answers(
        &self,
        mut broker: OwnedReadHalf,
        mut client: OwnedWriteHalf,
        unanswered: &Mutex<BTreeSet<[u8; 4]>>,
    ) -> Result<()> {
        loop {
            let answer = message(&mut broker).await?;
            let correlation = answer.get(4..8).and_then(|bytes| bytes.try_into().ok());
            let correlation: [u8; 4] = correlation.context("a short answer")?;
            if !unanswered.lock().remove(&correlation) {
                // A client that has given up is no reason to give up what it sent.
                let _ = client.write_all(&answer).await;
            }
        }
    }

    fn fate(&self, order: &Order, request: &[u8]) -> Fate {
        let Some(produce) = Produce::new(request) else {
            return Fate::Passed;
        };
        match order {
            Order::Hold => Fate::Held,
            Order::HoldTopic(topic) if produce.is_for(topic) => Fate::Held,
            Order::HoldSender(topic) if produce.is_for(topic) => {
                let mut sender = self.sender.lock();
                let first = sender.get_or_insert_with(|| produce.sender.to_owned());
                match first == produce.sender {
                    true => Fate::Held,
                    false => Fate::Passed,
                }
            }
            Order::LoseRequests(topic) if produce.is_for(topic) => Fate::Lost,
            Order::LoseAnswers(topic) if produce.is_for(topic) => {
                Fate::AnswerLost(produce.correlation)
            }
            _ => Fate::Passed,
        }
    }
}

/// One request or answer, with its length before it.
async fn message(from: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>> {
    let length = from.read_i32().await?;
    let bytes = usize::try_from(length)?;
    if bytes > BYTES_MAX {
        bail!("a message of {bytes} bytes");
    }
    let mut message = length.to_be_bytes().to_vec();
    message.resize(4 + bytes, 0);
    from.read_exact(&mut message[4..]).await?;
    Ok(message)
}
