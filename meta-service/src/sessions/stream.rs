//! One node's stream: Hello within 2 s, then beats and answers up, orders and topology down, until
//! the stream, the reign or the server ends, or the node comes again on another stream.
//!
//! Never here: a decision about the node; what is heard goes to the view.

use std::sync::Arc;
use std::time::Duration;

use auxo_proto::ids::{NodeId, ShardId};
use auxo_proto::pb::meta::{
    Bye, Down, Echo, Hello, Reign, Retry, ShardPhase, Up, Welcome, down, notice, up,
};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::join::{PROTOCOL, join};
use crate::cluster::detector::Stream;
use crate::lead::Lead;
use crate::reign::WriteError;

/// Time for the first message.
const HELLO_WITHIN: Duration = Duration::from_secs(2);
/// How often a node reports.
const BEAT: Duration = Duration::from_secs(1);
/// Time for the node to take a message.
const SEND_WITHIN: Duration = Duration::from_secs(5);

/// Where messages to the node go.
pub(crate) type Sink = mpsc::Sender<Result<Down, Status>>;

/// Why a stream ends.
enum End {
    /// The node is told this first.
    Tell(down::Content),
    /// Nobody is there to be told.
    Gone,
}

/// Serves one node's stream until it ends.
pub(crate) async fn serve(lead: Arc<Lead>, mut up: Streaming<Up>, sink: Sink) {
    let ended = match greet(&lead, &mut up).await {
        Ok((hello, node)) => converse(&lead, &hello, node, &mut up, &sink).await,
        Err(end) => end,
    };
    if let End::Tell(content) = ended {
        // The node may be gone; then nobody needs to hear it.
        let _ = send(&sink, content).await;
    }
}

async fn greet(lead: &Lead, up: &mut Streaming<Up>) -> Result<(Hello, NodeId), End> {
    let first = tokio::time::timeout(HELLO_WITHIN, up.message()).await;
    let Ok(Ok(Some(Up {
        content: Some(up::Content::Hello(hello)),
    }))) = first
    else {
        return Err(bye("the first message must be a Hello within 2 s"));
    };
    let now_ms = lead.reign.clock.now_ms();
    let joined = lead.reign.write(|model| join(&hello, model, now_ms)).await;
    match joined {
        Ok(node) => Ok((hello, node)),
        Err(WriteError::Refused(why)) => {
            tracing::warn!(node = hello.name, why, "node turned away");
            Err(bye(&why))
        }
        Err(error) => {
            tracing::warn!(node = hello.name, %error, "node cannot join now");
            Err(retry())
        }
    }
}

async fn converse(
    lead: &Lead,
    hello: &Hello,
    node: NodeId,
    up: &mut Streaming<Up>,
    sink: &Sink,
) -> End {
    let sessions = &lead.sessions;
    let mut topology = lead.topology.clone();
    let welcome = lead.reign.mirror.read(|model| {
        let members = model.metas.values().map(|member| member.api.clone());
        Welcome {
            node: node.0,
            cluster: model
                .identity
                .as_ref()
                .map(|identity| identity.cluster_uuid.clone())
                .unwrap_or_default(),
            reign: Some(Reign {
                restored: lead.reign.number.restored.into(),
                revision: lead.reign.number.revision as u64,
            }),
            protocol: PROTOCOL,
            beat_ms: BEAT.as_millis() as u64,
            meta: members.filter(|api| !api.is_empty()).collect(),
        }
    });
    if send(sink, down::Content::Welcome(welcome)).await.is_err() {
        return End::Gone;
    }
    // A topology from before this stream is not known here any more: another one is sent whole, and of
    // this one what may have changed under its number.
    let newest = Arc::clone(&topology.borrow_and_update());
    let mut held = (newest.topology.number == hello.topology).then_some(newest);
    if let Some(held) = &held {
        let routes = down::Content::Topology(held.routes());
        if send(sink, routes).await.is_err() {
            return End::Gone;
        }
    }
    let (number, mut orders) = sessions.connect(node, hello);
    tracing::info!(%node, name = hello.name, boot = hello.boot, "node connected");
    let ended = loop {
        let newest = Arc::clone(&topology.borrow_and_update());
        let has = held.as_ref().map(|held| held.topology.number);
        if has != Some(newest.topology.number) {
            let push = newest.push(held.as_deref());
            held = Some(newest);
            if send(sink, down::Content::Topology(push)).await.is_err() {
                break End::Gone;
            }
        }
        let say = tokio::select! {
            message = up.message() => match message {
                Ok(Some(Up { content: Some(content) })) => heard(lead, node, number, content),
                Ok(Some(_)) => None,
                Ok(None) => break End::Gone,
                Err(error) => {
                    tracing::debug!(%node, %error, "stream broke");
                    break End::Gone;
                }
            },
            order = orders.recv() => match order {
                Some(Down { content }) => content,
                None => break bye("the node connected again"),
            },
            changed = topology.changed() => match changed {
                Ok(()) => None,
                Err(_) => break retry(),
            },
            () = lead.reign.over.cancelled() => break retry(),
        };
        if let Some(content) = say
            && send(sink, content).await.is_err()
        {
            break End::Gone;
        }
    };
    sessions.stream_is(node, number, Stream::Broken);
    tracing::info!(%node, name = hello.name, "node disconnected");
    ended
}

/// Takes a message of the node to the view, and says what it is answered.
fn heard(lead: &Lead, node: NodeId, number: u64, content: up::Content) -> Option<down::Content> {
    let sessions = &lead.sessions;
    match content {
        up::Content::Report(report) => {
            sessions.view(|view, now| {
                view.observe_report(node, report.load, report.shards, now);
            });
            let sequence = report.sequence;
            Some(down::Content::Echo(Echo { sequence }))
        }
        up::Content::Answer(answer) => {
            if let Some(outcome) = answer.outcome {
                sessions.answered(&answer.order, outcome);
            }
            None
        }
        up::Content::Notice(notice) => {
            tracing::warn!(%node, ?notice, "notice of a node");
            match notice.content {
                Some(notice::Content::Leaving(_)) => {
                    sessions.stream_is(node, number, Stream::Left);
                }
                Some(notice::Content::Parked(parked)) => sessions.view(|view, _| {
                    let shard = ShardId(parked.shard);
                    let known = view.node(node).and_then(|seen| seen.shards.get(&shard));
                    let mut state = known.cloned().unwrap_or_default();
                    state.shard = parked.shard;
                    state.phase = ShardPhase::Parked.into();
                    state.why = parked.why;
                    view.observe_shard(node, shard, Some(state));
                }),
                _ => {}
            }
            None
        }
        up::Content::Hello(_) => None,
    }
}

async fn send(sink: &Sink, content: down::Content) -> Result<(), ()> {
    let down = Down {
        content: Some(content),
    };
    match tokio::time::timeout(SEND_WITHIN, sink.send(Ok(down))).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(()),
    }
}

fn bye(why: &str) -> End {
    let why = why.to_owned();
    End::Tell(down::Content::Bye(Bye { why }))
}

fn retry() -> End {
    End::Tell(down::Content::Retry(Retry { after_ms: 100 }))
}
