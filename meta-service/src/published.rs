//! The newest topology as nodes are sent it: whole to one that has another, its routes to one that has
//! its number, and as the difference to one that has been sent an earlier one.
//!
//! Each form is encoded once, whatever the number of nodes.
//!
//! Never here: which node has what.

use std::sync::{Arc, OnceLock};

use auxo_proto::pb::meta::TopologyPush;
use auxo_proto::topology::{Topology, TopologyChange};
use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;

use crate::model::Model;
use crate::reign::Reign;

/// Differences of one topology that are kept; nodes that lag further are sent them all the same.
const DIFFERENCES: usize = 16;

/// One topology, ready to be sent.
#[derive(Debug)]
pub struct Published {
    /// The topology.
    pub topology: Topology,
    whole: OnceLock<Bytes>,
    routes: OnceLock<Bytes>,
    /// Encoded differences to earlier ones, by their numbers. Never locked over an await.
    since: Mutex<Vec<(u64, Bytes)>>,
}

impl Published {
    /// The newest topology of the model.
    pub(crate) fn newest(reign: &Reign) -> Arc<Self> {
        Arc::new(Self {
            topology: reign.mirror.read(Model::topology),
            whole: OnceLock::new(),
            routes: OnceLock::new(),
            since: Mutex::default(),
        })
    }

    /// What a node is sent that has been sent `held` on the same stream, or nothing.
    pub(crate) fn push(&self, held: Option<&Self>) -> TopologyPush {
        TopologyPush {
            number: self.topology.number,
            base: held.map_or(0, |held| held.topology.number),
            json: match held {
                None => self.whole.get_or_init(|| encode(&self.topology)).clone(),
                Some(held) => self.difference(&held.topology),
            },
        }
    }

    /// What a node is sent that has this topology by its number: all shards and nodes. It may have it
    /// from an earlier leader, under whom a shard had not begun to change hands yet, which raises the
    /// number only at its end.
    pub(crate) fn routes(&self) -> TopologyPush {
        let Topology { number, .. } = self.topology;
        let encoded = || {
            encode(&TopologyChange {
                base: number,
                number,
                tables: Vec::new(),
                gone: Vec::new(),
                databases: None,
                shards: Some(self.topology.shards.clone()),
                nodes: Some(self.topology.nodes.clone()),
            })
        };
        TopologyPush {
            number,
            base: number,
            json: self.routes.get_or_init(encoded).clone(),
        }
    }

    fn difference(&self, older: &Topology) -> Bytes {
        let mut since = self.since.lock();
        if let Some((_, json)) = since.iter().find(|(base, _)| *base == older.number) {
            return json.clone();
        }
        let json = encode(&self.topology.since(older));
        if since.len() < DIFFERENCES {
            since.push((older.number, json.clone()));
        }
        json
    }
}

fn encode(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value)
        .unwrap_or_else(|error| unreachable!("a topology is plain data: {error}"))
        .into()
}

/// Publishes each newer topology until the reign is over; those that follow fast are one.
pub(crate) async fn run(reign: Arc<Reign>, publish: watch::Sender<Arc<Published>>) {
    let mut changes = reign.mirror.changes();
    loop {
        let held = publish.borrow().topology.number;
        changes.borrow_and_update();
        if reign.mirror.read(Model::topology_number) != held {
            publish.send_replace(Published::newest(&reign));
        }
        tokio::select! {
            _ = changes.changed() => {}
            () = reign.over.cancelled() => return,
        }
    }
}
