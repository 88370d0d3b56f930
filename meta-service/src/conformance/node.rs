//! A node that does what it is told and remembers it; it can be made to refuse.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use auxo_proto::ids::{NodeId, ShardId};
use auxo_proto::pb::meta::answer::Outcome;
use auxo_proto::pb::meta::order::Verb;
use auxo_proto::pb::meta::sessions_client::SessionsClient;
use auxo_proto::pb::meta::{
    Answer, Done, Down, Failed, Hello, Order, Report, Role, ShardPhase, ShardState, Up, down, up,
};
use auxo_proto::topology::{ShardRoute, Topology};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::PATIENCE;

/// What it has and was told.
#[derive(Default)]
pub(super) struct State {
    pub(super) shards: BTreeMap<u64, ShardState>,
    pub(super) tablets: BTreeSet<u64>,
    /// Orders it was sent, each as often as it came.
    pub(super) orders: Vec<String>,
    /// Verbs it refuses for ever.
    pub(super) refuses: BTreeSet<&'static str>,
    /// How its last session ended, if meta said so.
    pub(super) told: String,
}

/// A node under a name.
pub(super) struct Node {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) topology: watch::Receiver<Topology>,
    /// Ends with its handle.
    _session: JoinSet<()>,
}

impl Node {
    pub(super) fn start(name: &str, channel: Channel) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        Self::start_with(name, channel, state)
    }

    pub(super) fn start_with(name: &str, channel: Channel, state: Arc<Mutex<State>>) -> Self {
        let (publish, topology) = watch::channel(Topology::default());
        let (name, kept) = (name.to_owned(), Arc::clone(&state));
        let mut sessions = JoinSet::new();
        sessions.spawn(async move {
            loop {
                // However it ended, it comes again.
                let _ = session(&name, channel.clone(), &kept, &publish).await;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        Self {
            state,
            topology,
            _session: sessions,
        }
    }

    /// Waits until it is as wanted.
    pub(super) async fn until(&self, wanted: impl Fn(&State) -> bool) {
        let looked = async {
            while !wanted(&self.state.lock()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, looked).await.unwrap();
    }

    /// Waits for a topology of at least that number.
    pub(super) async fn topology(&self, number: u64) -> Topology {
        let mut topology = self.topology.clone();
        let newer = topology.wait_for(|topology| topology.number >= number);
        let newer = tokio::time::timeout(PATIENCE, newer).await.unwrap();
        newer.unwrap().clone()
    }

    /// Waits until it thinks that the shard is led there.
    pub(super) async fn routes(&self, shard: ShardId, leader: NodeId) {
        let mut topology = self.topology.clone();
        let led = |one: &ShardRoute| one.id == shard && one.leader == Some(leader);
        let routed = topology.wait_for(|topology| topology.shards.iter().any(led));
        let routed = tokio::time::timeout(PATIENCE, routed).await;
        assert!(
            routed.is_ok(),
            "shard {shard} is not thought to be led by node {leader}"
        );
    }
}

async fn session(
    name: &str,
    channel: Channel,
    state: &Mutex<State>,
    publish: &watch::Sender<Topology>,
) -> Result<(), tonic::Status> {
    let (up, queue) = mpsc::channel(1_024);
    let hello = Hello {
        name: name.to_owned(),
        boot: format!("boot of {name}"),
        public_address: format!("{name}:1"),
        protocol_least: 1,
        protocol_most: 1,
        shards: state.lock().shards.values().cloned().collect(),
        topology: publish.borrow().number,
        ..Hello::default()
    };
    let say = |content| Up {
        content: Some(content),
    };
    up.try_send(say(up::Content::Hello(hello))).unwrap();
    let mut client = SessionsClient::new(channel);
    let mut down = client
        .session(ReceiverStream::new(queue))
        .await?
        .into_inner();
    let mut beat = tokio::time::interval(Duration::from_millis(200));
    loop {
        let content = tokio::select! {
            message = down.message() => match message? {
                Some(Down { content: Some(content) }) => content,
                _ => return Ok(()),
            },
            _ = beat.tick() => {
                let report = Report {
                    shards: state.lock().shards.values().cloned().collect(),
                    ..Report::default()
                };
                let _ = up.send(say(up::Content::Report(report))).await;
                continue;
            }
        };
        match content {
            down::Content::Order(order) => {
                let answer = Answer {
                    order: order.id.clone(),
                    outcome: Some(carry_out(&mut state.lock(), &order)),
                };
                let _ = up.send(say(up::Content::Answer(answer))).await;
            }
            down::Content::Topology(push) => {
                let newest = match push.base {
                    0 => serde_json::from_slice(&push.json).unwrap(),
                    _ => {
                        let change = serde_json::from_slice(&push.json).unwrap();
                        publish.borrow().with(change).unwrap()
                    }
                };
                publish.send_replace(newest);
            }
            down::Content::Redirect(redirect) => {
                state.lock().told = format!("ask {}", redirect.api)
            }
            down::Content::Bye(bye) => state.lock().told = bye.why,
            _ => {}
        }
    }
}

fn carry_out(state: &mut State, order: &Order) -> Outcome {
    state.orders.push(order.id.clone());
    let verb = match &order.verb {
        Some(Verb::Open(_)) => "open",
        Some(Verb::Close(_)) => "close",
        Some(Verb::Flush(_)) => "flush",
        Some(Verb::CreateTablets(_)) => "create",
        Some(Verb::DropTablets(_)) => "drop",
        other => panic!("{other:?}"),
    };
    if state.refuses.contains(verb) {
        return Outcome::Failed(Failed {
            code: "STORE_UNAVAILABLE".to_owned(),
            detail: format!("cannot {verb}"),
            permanent: true,
            ..Failed::default()
        });
    }
    match order.verb.as_ref().unwrap() {
        Verb::Open(_) => {
            let shard = ShardState {
                shard: order.shard,
                role: Role::Leader.into(),
                epoch: order.epoch,
                phase: ShardPhase::Serving.into(),
                ..ShardState::default()
            };
            state.shards.insert(order.shard, shard);
        }
        Verb::Close(_) => {
            state.shards.remove(&order.shard);
        }
        Verb::Flush(_) => {}
        Verb::CreateTablets(create) => {
            assert!(state.shards.contains_key(&order.shard), "{}", order.id);
            state
                .tablets
                .extend(create.tablets.iter().map(|tablet| tablet.id));
        }
        Verb::DropTablets(drop) => {
            for tablet in &drop.tablets {
                state.tablets.remove(&tablet.id);
            }
        }
        other => panic!("{other:?}"),
    }
    Outcome::Done(Done {
        shard: state.shards.get(&order.shard).cloned(),
    })
}
