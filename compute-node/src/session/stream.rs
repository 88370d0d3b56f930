//! One connection to meta, from Hello to its end.
//!
//! Never here: which meta node it goes to, or the pause before the next one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use auxo_proto::ids::NodeId;
use auxo_proto::pb::meta::sessions_client::SessionsClient;
use auxo_proto::pb::meta::{
    Down, Hello, Leaving, Notice, Report, ShardPhase, ShardState, TopologyPush, Up, Welcome, down,
    notice, up,
};
use auxo_proto::topology::{Catalog, Topology};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::Session;
use super::orders::{Became, Keep, number};

/// Oldest and newest session protocol.
const PROTOCOL: u32 = 1;
/// Time until meta has answered the Hello.
const WELCOME_WITHIN: Duration = Duration::from_secs(3);
/// Time without a word of meta after which the connection is given up.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// How often the node reports.
const BEAT: Duration = Duration::from_secs(1);
/// Every so many reports tell of all shards, changed or not.
const WHOLE_EVERY: u64 = 10;
/// Messages up that tonic has not sent yet.
const UP_QUEUE: usize = 64;
/// Answers that are not sent yet.
const ANSWERS: usize = 1_024;
/// Time that the node asks for when it leaves.
const GRACE: Duration = Duration::from_secs(30);
/// Largest message of meta.
const MESSAGE_BYTES_MAX: usize = 1 << 30;

/// How a connection ended.
pub(super) enum End {
    /// It broke, or nobody answered.
    Broke {
        /// Whether meta had taken the node.
        welcomed: bool,
        /// For people.
        why: String,
    },
    /// Another meta node leads.
    Redirect(String),
    /// No meta node leads; ask again after this.
    Retry(Duration),
    /// Meta does not take the node.
    Bye(String),
}

/// Holds one connection until it ends; says goodbye if the session stops.
pub(super) async fn run(session: &Session, channel: Channel) -> End {
    let (up, queue) = mpsc::channel(UP_QUEUE);
    let hello = up::Content::Hello(hello(session));
    // The queue is new and has room.
    let _ = up.try_send(message(hello));
    let mut client = SessionsClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let greeted = tokio::time::timeout(WELCOME_WITHIN, async {
        let answer = client.session(ReceiverStream::new(queue)).await?;
        let mut down = answer.into_inner();
        let first = down.message().await?;
        Ok::<_, tonic::Status>((down, first))
    });
    let (down, first) = match greeted.await {
        Ok(Ok((
            down,
            Some(Down {
                content: Some(content),
            }),
        ))) => (down, content),
        Ok(Ok(_)) => return broke(false, "meta ended the stream"),
        Ok(Err(status)) => return broke(false, status.message()),
        Err(_) => return broke(false, "meta does not answer"),
    };
    match first {
        down::Content::Welcome(welcome) => converse(session, welcome, up, down).await,
        down::Content::Redirect(redirect) => End::Redirect(redirect.api),
        down::Content::Retry(retry) => End::Retry(Duration::from_millis(retry.after_ms)),
        down::Content::Bye(bye) => End::Bye(bye.why),
        _ => broke(false, "the first answer was no Welcome"),
    }
}

async fn converse(
    session: &Session,
    welcome: Welcome,
    up: mpsc::Sender<Up>,
    mut down: Streaming<Down>,
) -> End {
    let inner = &session.0;
    let reign = welcome.reign.map_or((0, 0), number);
    if reign < inner.kept.lock().reign {
        return broke(false, "this meta node's reign is over");
    }
    let kept = session.keep(|kept| {
        kept.node = welcome.node;
        kept.cluster = welcome.cluster.clone();
        kept.reign = reign;
        kept.meta = welcome.meta.clone();
    });
    if let Err(error) = kept.await {
        return broke(false, &error.to_string());
    }
    inner.doors.learn(&welcome.meta);
    let (answers, mut answered) = mpsc::channel(ANSWERS);
    inner.orders.connect(reign, answers);
    inner.node.send_replace(Some(NodeId(welcome.node)));
    inner.connected.send_replace(true);
    tracing::info!(node = welcome.node, ?reign, "meta has taken this node");
    let keep = keep(session);
    let began = Instant::now();
    let mut beats = Beats::default();
    let mut beat = tokio::time::interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut silent_at = Instant::now() + SILENCE_MAX;
    let mut left = false;
    loop {
        let say = tokio::select! {
            message = down.message() => {
                silent_at = Instant::now() + SILENCE_MAX;
                let content = match message {
                    Ok(Some(Down { content: Some(content) })) => content,
                    Ok(Some(_)) => continue,
                    Ok(None) => return broke(true, "meta ended the stream"),
                    Err(status) => return broke(true, status.message()),
                };
                match content {
                    down::Content::Order(order) => {
                        inner.orders.take(order, Arc::clone(&keep));
                        continue;
                    }
                    down::Content::Topology(push) => {
                        if let Err(why) = take_topology(session, &push) {
                            return broke(true, &why);
                        }
                        continue;
                    }
                    down::Content::Redirect(redirect) => return End::Redirect(redirect.api),
                    down::Content::Retry(retry) => {
                        return End::Retry(Duration::from_millis(retry.after_ms));
                    }
                    down::Content::Bye(bye) => return End::Bye(bye.why),
                    down::Content::Echo(_) | down::Content::Welcome(_) => continue,
                }
            }
            // Who has left is not missed, and is told nothing but topologies.
            _ = beat.tick(), if !left => up::Content::Report(beats.next(session, began)),
            Some(answer) = answered.recv() => up::Content::Answer(answer),
            () = tokio::time::sleep_until(silent_at), if !left => {
                return broke(true, "meta is silent");
            }
            () = inner.leaving.cancelled(), if !left => {
                left = true;
                leaving()
            }
            () = inner.stop.cancelled() => {
                if !left {
                    // Best effort: meta notices the end of the stream anyway.
                    let _ = up.try_send(message(leaving()));
                }
                return broke(true, "this node stops");
            }
        };
        let sent = tokio::time::timeout(SILENCE_MAX, up.send(message(say))).await;
        if !matches!(sent, Ok(Ok(()))) {
            return broke(true, "meta does not read");
        }
    }
}

/// What meta is told of a node that is about to stop.
fn leaving() -> up::Content {
    let grace_ms = GRACE.as_millis() as u64;
    let leaving = notice::Content::Leaving(Leaving { grace_ms });
    up::Content::Notice(Notice {
        content: Some(leaving),
    })
}

fn hello(session: &Session) -> Hello {
    let inner = &session.0;
    let kept = inner.kept.lock().clone();
    let mut shards = inner.verbs.shards();
    for open in &kept.opens {
        if shards.iter().all(|held| held.shard != open.shard.0) {
            shards.push(ShardState {
                shard: open.shard.0,
                epoch: open.epoch,
                phase: ShardPhase::Closed.into(),
                ..ShardState::default()
            });
        }
    }
    let config = &inner.config;
    Hello {
        name: config.name.clone(),
        node: kept.node,
        boot: inner.boot.clone(),
        cluster: kept.cluster,
        public_address: config.public.clone(),
        internal_address: config.internal.clone(),
        zone: config.zone.clone(),
        labels: config.labels.clone().into_iter().collect(),
        build: config.build.clone(),
        protocol_least: PROTOCOL,
        protocol_most: PROTOCOL,
        shards,
        unfinished: inner.orders.unfinished(),
        topology: inner.catalog.borrow().topology().number,
    }
}

/// The reports of one connection.
#[derive(Default)]
struct Beats {
    sequence: u64,
    told: HashMap<u64, ShardState>,
}

impl Beats {
    fn next(&mut self, session: &Session, began: Instant) -> Report {
        self.sequence += 1;
        let whole = self.sequence % WHOLE_EVERY == 1;
        let all = session.0.verbs.shards();
        let shards = all
            .iter()
            .filter(|state| whole || self.told.get(&state.shard) != Some(state))
            .cloned()
            .collect();
        self.told = all.into_iter().map(|state| (state.shard, state)).collect();
        Report {
            sequence: self.sequence,
            sent_ms: began.elapsed().as_millis() as u64,
            load: Some(session.0.verbs.load()),
            shards,
            extra: HashMap::new(),
        }
    }
}

/// Takes a topology, whole or as the difference to the one at hand.
fn take_topology(session: &Session, push: &TopologyPush) -> Result<(), String> {
    let unreadable =
        |error: serde_json::Error| format!("topology {} cannot be read: {error}", push.number);
    let newest: Option<Topology> = match push.base {
        0 => Some(serde_json::from_slice(&push.json).map_err(unreadable)?),
        _ => {
            let change = serde_json::from_slice(&push.json).map_err(unreadable)?;
            session.0.catalog.borrow().topology().with(change)
        }
    };
    let newest = newest.filter(|newest| newest.number == push.number);
    let newest = newest.ok_or_else(|| format!("topology {} does not follow", push.number))?;
    session
        .0
        .catalog
        .send_replace(Arc::new(Catalog::new(newest)));
    Ok(())
}

/// Keeps on disk which shards the node leads.
fn keep(session: &Session) -> Keep {
    let session = session.clone();
    Arc::new(move |became| {
        let session = session.clone();
        Box::pin(async move {
            let kept = session.keep(|kept| match became {
                Became::Led(open) => {
                    kept.opens.retain(|other| other.shard != open.shard);
                    kept.opens.push(open);
                }
                Became::NotLed(shard) => kept.opens.retain(|other| other.shard != shard),
            });
            if let Err(error) = kept.await {
                // Only a start without meta needs it.
                tracing::error!(%error, "what this node leads is not kept on disk");
            }
        })
    })
}

fn message(content: up::Content) -> Up {
    Up {
        content: Some(content),
    }
}

fn broke(welcomed: bool, why: &str) -> End {
    End::Broke {
        welcomed,
        why: why.to_owned(),
    }
}
