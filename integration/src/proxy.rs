//! A proxy on a TCP connection that does to what passes whatever it is ordered to, while it runs:
//! refuse, hold, delay, cut; and, where it understands what is said, lose single messages.
//!
//! 1. Each connection is one task. Per direction a reader takes what its side sent into a queue of
//!    [`PIECES`], and a writer hands it on in order, each piece once it is due and its way is open. A
//!    full queue is not read for: the sender waits, as before a network that is full.
//! 2. What is held is not lost. When the hold ends the connection goes on where it stood, as over a
//!    network that was away; a connection made meanwhile is accepted and goes on then.
//! 3. A cut ends every connection of that moment and none that comes later.
//! 4. The end of one direction is passed on as such; a side that is gone does not stop what it sent.
//!
//! Rooms: `flow` (one direction, as bytes), [`appends`] (requests of Kafka's protocol, and those that
//! append), `http` (requests that are answered in the server's place).
//!
//! Never here: a changed byte, a task that outlives its proxy.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use auxo_proto::random::Random;
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::servers::ports;

pub mod appends;
mod flow;
pub(crate) mod http;

#[cfg(test)]
mod tests;

use appends::Appends;

/// Pieces of one direction of a connection that wait at most: chunks of 16 KiB, or
/// whole requests where those are understood.
pub const PIECES: usize = 64;

/// Pause before a listener is bound again that could not be.
const BIND_PAUSE: Duration = Duration::from_millis(20);

/// What happens to connections and what they carry, until the next order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// All passes.
    #[default]
    Pass,
    /// New connections are refused. Those that are open go on.
    Refuse,
    /// What goes that way waits; new connections are accepted, and hear nothing where that is so.
    Hold(Way),
    /// Whatever is read from now on is handed on that much later, in each direction.
    Delay(Duration),
    /// That share of the requests, out of 100, is answered with 500 or 503 and goes no further; for
    /// [`Speech::Http`] alone.
    Fail(u64),
    /// For [`Speech::Kafka`] alone.
    Appends(Appends),
}

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// What clients say.
    ToServer,
    /// What servers say.
    ToClient,
    /// All.
    Both,
}

impl Order {
    /// Whether what goes that way waits.
    fn holds(&self, way: Way) -> bool {
        matches!(self, Self::Hold(held) if *held == Way::Both || *held == way)
    }

    fn delay(&self) -> Duration {
        match self {
            Self::Delay(delay) => *delay,
            _ => Duration::ZERO,
        }
    }
}

/// How connections are ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Both sides are told by a reset, as by a host that has forgotten them.
    Reset,
    /// Both sides are told that nothing more comes.
    Close,
}

/// What is understood of what passes.
#[derive(Clone, Debug)]
pub enum Speech {
    /// Nothing.
    Bytes,
    /// Requests and answers of Kafka's protocol.
    Kafka,
    /// Requests of HTTP/1.1 whose bodies have a length; the dice say which of them fail.
    Http(Random),
}

/// A proxy; ends with its connections when dropped.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    speech: Speech,
    /// Where the server listens.
    target: Mutex<Option<String>>,
    order: watch::Sender<Order>,
    /// How connections were last ended that were open then.
    cut: watch::Sender<Option<Cut>>,
    /// Who sent the first request under [`Appends::HoldSender`].
    sender: Mutex<Option<Vec<u8>>>,
}

impl Proxy {
    /// Listens on a free port of the loopback; connections fail until there is a target.
    pub async fn bind(speech: Speech) -> Result<Self> {
        let [port] = ports::free()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let shared = Arc::new(Shared {
            speech,
            target: Mutex::new(None),
            order: watch::Sender::new(Order::Pass),
            cut: watch::Sender::new(None),
            sender: Mutex::new(None),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&shared).serve(listener, port));
        Ok(Self {
            port,
            shared,
            _tasks: tasks,
        })
    }

    /// The same, with a target.
    pub async fn before(target: &str, speech: Speech) -> Result<Self> {
        let proxy = Self::bind(speech).await?;
        proxy.target(target);
        Ok(proxy)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// From now on new connections go to the server at that address.
    pub fn target(&self, address: &str) {
        *self.shared.target.lock() = Some(address.to_owned());
    }

    /// Gives an order, which holds for what is read from now on.
    pub fn order(&self, order: Order) {
        *self.shared.sender.lock() = None;
        self.shared.order.send_replace(order);
    }

    /// The last order.
    pub fn ordered(&self) -> Order {
        self.shared.order.borrow().clone()
    }

    /// Ends every connection that is open.
    pub fn cut(&self, how: Cut) {
        self.shared.cut.send_replace(Some(how));
    }
}

/// How a connection ended.
enum Ended {
    /// Both sides have said all.
    Said,
    Cut,
    /// A request is to be answered with that status in the server's place.
    Failed(u16),
}

impl Shared {
    async fn serve(self: Arc<Self>, listener: TcpListener, port: u16) {
        let mut orders = self.order.subscribe();
        let mut connections = JoinSet::new();
        let mut listener = Some(listener);
        loop {
            let refuses = *orders.borrow_and_update() == Order::Refuse;
            if refuses {
                listener = None;
            } else if listener.is_none() {
                listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.ok();
            }
            tokio::select! {
                changed = orders.changed() => if changed.is_err() { return },
                accepted = accept(listener.as_ref(), refuses) => if let Some(client) = accepted {
                    let shared = Arc::clone(&self);
                    // A connection that fails is closed, which its two ends see.
                    connections.spawn(async move { shared.connection(client).await.unwrap_or(()) });
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }

    async fn connection(&self, mut client: TcpStream) -> Result<()> {
        let mut cuts = self.cut.subscribe();
        let mut server = tokio::select! {
            biased;
            _ = cuts.changed() => return end(&[&client], &cuts),
            server = self.reach() => server?,
        };
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let ended = {
            let (requests, to_client) = client.split();
            let (answers, to_server) = server.split();
            let unanswered = appends::Unanswered::default();
            tokio::select! {
                biased;
                _ = cuts.changed() => Ended::Cut,
                ended = async {
                    let (ended, ()) = tokio::try_join!(
                        self.requests(requests, to_server, &unanswered),
                        self.answers(answers, to_client, &unanswered),
                    )?;
                    anyhow::Ok(ended)
                } => match ended {
                    Ok(()) => Ended::Said,
                    Err(error) => match error.downcast_ref::<http::Failed>() {
                        Some(failed) => Ended::Failed(failed.0),
                        None => return Err(error),
                    },
                },
            }
        };
        match ended {
            Ended::Said => Ok(()),
            Ended::Cut => end(&[&client, &server], &cuts),
            Ended::Failed(status) => Ok(client.write_all(&http::answer(status)).await?),
        }
    }

    /// A connection to the server, made once clients may speak to it.
    async fn reach(&self) -> Result<TcpStream> {
        flow::open(&mut self.order.subscribe(), Way::ToServer).await;
        let target = self.target.lock().clone().context("no server yet")?;
        Ok(TcpStream::connect(target).await?)
    }
}

/// The next connection; nothing where there is no listener and one is due.
async fn accept(listener: Option<&TcpListener>, refuses: bool) -> Option<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.ok().map(|(client, _)| client),
        None if refuses => std::future::pending().await,
        None => {
            tokio::time::sleep(BIND_PAUSE).await;
            None
        }
    }
}

/// Ends connections as they are to be cut.
fn end(connections: &[&TcpStream], cuts: &watch::Receiver<Option<Cut>>) -> Result<()> {
    if *cuts.borrow() == Some(Cut::Reset) {
        for connection in connections {
            connection.set_zero_linger()?;
        }
    }
    Ok(())
}
