//! Where a statement reads each of its tablets: here if this node leads its shard, else by a hold on
//! the node that does.
//!
//! A tablet whose leader is not found, or turns out to be another one, is looked for again in newer
//! topologies for a little while; nothing has been read by then, so nothing is read twice.
//!
//! Never here: a retry after rows were read.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use auxo_engine::Engine;
use auxo_engine::read::ReadError;
use auxo_proto::error::{ErrorCode, Failure};
use auxo_proto::ids::{NodeId, ShardId, TabletId};
use auxo_proto::topology::Catalog;
use auxo_query::fragment::Peer;
use auxo_query::source::{Found, Place, Snapshot, Snapshots, Stack};
use auxo_sst::SstError;
use futures::future::{self, FutureExt};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::hold::Hold;
use crate::channels::Channels;
use crate::write::{LEADER_PATIENCE, LEADER_PAUSE};

/// How fresh a statement's rows have to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Freshness {
    /// Whatever was acked before the statement is in them; the log is asked.
    #[default]
    Strong,
    /// They are what the leader knows: what another one acked a moment ago may be missing. The log is
    /// not asked, so a log that is away is no reason to fail.
    Eventual,
}

/// What a node needs to find the tablets of its statements.
#[derive(Clone)]
pub struct Places {
    /// The shards of this node.
    pub engine: Engine,
    /// The newest catalog.
    pub catalog: watch::Receiver<Arc<Catalog>>,
    /// This node's id, once meta has given it one.
    pub node: watch::Receiver<Option<NodeId>>,
    /// Ways to the other nodes.
    pub channels: Channels,
}

/// One statement's places.
struct Statement {
    places: Places,
    topology: u64,
    deadline: Instant,
    freshness: Freshness,
    holds: Mutex<HashMap<NodeId, Arc<Hold>>>,
}

/// What became of the search for one tablet.
type Sought = Result<Place, Failure>;

impl Places {
    /// Snapshots for a statement that was planned by a catalog.
    pub fn snapshots(
        &self,
        planned: &Catalog,
        deadline: Instant,
        freshness: Freshness,
    ) -> Snapshots {
        let statement = Arc::new(Statement {
            places: self.clone(),
            topology: planned.topology().number,
            deadline,
            freshness,
            holds: Mutex::default(),
        });
        Snapshots::from_fn(move |tablets| {
            let statement = Arc::clone(&statement);
            async move { statement.take(tablets).await }.boxed()
        })
    }
}

/// Snapshots of tablets that this node leads, and no others.
pub(crate) fn local(
    engine: Engine,
    catalog: watch::Receiver<Arc<Catalog>>,
    freshness: Freshness,
) -> Snapshots {
    Snapshots::from_fn(move |tablets| {
        let engine = engine.clone();
        let catalog = Arc::clone(&catalog.borrow());
        async move {
            let mut by_shard: BTreeMap<ShardId, Vec<TabletId>> = BTreeMap::new();
            for tablet in &tablets {
                let route = catalog.tablet(*tablet).ok_or_else(|| unknown(*tablet))?;
                by_shard.entry(route.shard).or_default().push(*tablet);
            }
            let snapshots = by_shard.iter().map(|(shard, tablets)| {
                let engine = &engine;
                async move { here(engine, *shard, tablets, freshness).await }
            });
            let mut taken = HashMap::new();
            for snapshots in future::try_join_all(snapshots).await? {
                taken.extend(snapshots);
            }
            let place =
                |tablet: &TabletId| taken.get(tablet).cloned().ok_or_else(|| unknown(*tablet));
            tablets.iter().map(place).collect()
        }
        .boxed()
    })
}

fn unknown(tablet: TabletId) -> Failure {
    Failure::new(
        ErrorCode::NoLeader,
        format!("tablet {tablet} is not known here"),
    )
}

/// Snapshots of tablets of one shard of this node; strong ones are behind everything that was acked
/// before.
async fn here(
    engine: &Engine,
    shard: ShardId,
    tablets: &[TabletId],
    freshness: Freshness,
) -> Result<Vec<(TabletId, Place)>, Failure> {
    let led = engine.shard(shard).filter(|led| !led.is_fenced());
    let led = led.ok_or_else(|| match engine.parked(shard) {
        Some(why) => {
            let detail = format!("shard {shard} is parked: {why}");
            Failure::new(ErrorCode::ShardParked, detail)
        }
        None => {
            let detail = format!("shard {shard} is not led here");
            Failure::new(ErrorCode::NoLeader, detail)
        }
    })?;
    if freshness == Freshness::Strong {
        led.barrier().await.map_err(|error| read_failure(&error))?;
    }
    let mut taken = Vec::with_capacity(tablets.len());
    for &tablet in tablets {
        let snapshot = led.tablet(tablet).map_err(|error| read_failure(&error))?;
        let snapshot = Snapshot::from_fn(move |spec| Found {
            files_considered: snapshot.sources().0 as u64,
            stacks: snapshot.stacks(spec).into_iter().map(stack).collect(),
        });
        taken.push((tablet, Place::Here(snapshot)));
    }
    Ok(taken)
}

impl Statement {
    /// A place for each tablet.
    async fn take(&self, tablets: Vec<TabletId>) -> Result<Vec<Place>, Failure> {
        let patience = (Instant::now() + LEADER_PATIENCE).min(self.deadline);
        let mut catalog = self.places.catalog.clone();
        let mut found: HashMap<TabletId, Place> = HashMap::new();
        loop {
            let newest = Arc::clone(&catalog.borrow_and_update());
            let mut missing = tablets.clone();
            missing.retain(|tablet| !found.contains_key(tablet));
            let mut refused = None;
            for (tablet, sought) in self.seek(&newest, missing).await {
                match sought {
                    Ok(place) => {
                        found.insert(tablet, place);
                    }
                    Err(failure) if elsewhere(&failure) => refused = Some(failure),
                    Err(failure) => return Err(failure),
                }
            }
            match refused {
                None => break,
                Some(failure) if Instant::now() >= patience => return Err(failure),
                // Elapsed or not, the tablet is looked for again.
                Some(_) => {
                    let news = tokio::time::timeout(LEADER_PAUSE, catalog.changed()).await;
                    if let Ok(Err(_)) = news {
                        let detail = "the node is shutting down";
                        return Err(Failure::new(ErrorCode::Draining, detail));
                    }
                }
            }
        }
        let place = |tablet: &TabletId| found.get(tablet).cloned().ok_or_else(|| unknown(*tablet));
        tablets.iter().map(place).collect()
    }

    /// Looks for each tablet where the catalog says it is, on all nodes at once.
    async fn seek(&self, catalog: &Catalog, tablets: Vec<TabletId>) -> Vec<(TabletId, Sought)> {
        let me = *self.places.node.borrow();
        let mut by_shard: BTreeMap<ShardId, Vec<TabletId>> = BTreeMap::new();
        let mut by_node: BTreeMap<NodeId, Vec<TabletId>> = BTreeMap::new();
        let mut sought = Vec::with_capacity(tablets.len());
        for tablet in tablets {
            let Some(route) = catalog.tablet(tablet) else {
                sought.push((tablet, Err(unknown(tablet))));
                continue;
            };
            match catalog.leader(route.shard) {
                Some(leader) if Some(leader) != me && self.reaches(catalog, leader) => {
                    by_node.entry(leader).or_default().push(tablet);
                }
                _ => by_shard.entry(route.shard).or_default().push(tablet),
            }
        }
        let local = by_shard.into_iter().map(|(shard, tablets)| async move {
            match here(&self.places.engine, shard, &tablets, self.freshness).await {
                Ok(taken) => taken
                    .into_iter()
                    .map(|(tablet, place)| (tablet, Ok(place)))
                    .collect(),
                Err(failure) => all(tablets, &Err(failure)),
            }
        });
        let remote = by_node.into_iter().map(|(node, tablets)| async move {
            let place = self.there(catalog, node, &tablets).await;
            all(tablets, &place)
        });
        let (local, remote) = future::join(future::join_all(local), future::join_all(remote)).await;
        let both: Vec<Vec<(TabletId, Sought)>> = local.into_iter().chain(remote).collect();
        sought.extend(both.into_iter().flatten());
        sought
    }

    fn reaches(&self, catalog: &Catalog, node: NodeId) -> bool {
        catalog
            .node(node)
            .is_some_and(|route| !route.internal.is_empty())
    }

    /// Has tablets held by another node.
    async fn there(&self, catalog: &Catalog, node: NodeId, tablets: &[TabletId]) -> Sought {
        let known = self.holds.lock().get(&node).cloned();
        let hold = match known {
            Some(hold) => hold,
            None => {
                let hold = Arc::new(self.open(catalog, node).await?);
                self.holds.lock().insert(node, Arc::clone(&hold));
                hold
            }
        };
        let pinned = hold.pin(tablets).await;
        if pinned.is_err() && hold.broken().await {
            // What it held for scans that are planned already is lost with it; they will say so.
            self.holds.lock().remove(&node);
        }
        pinned.map(|()| Place::There(hold as Arc<dyn Peer>))
    }

    async fn open(&self, catalog: &Catalog, node: NodeId) -> Result<Hold, Failure> {
        let gone = || {
            Failure::new(
                ErrorCode::NoLeader,
                format!("node {node} is not known here"),
            )
        };
        let route = catalog.node(node).ok_or_else(gone)?;
        let channel = self.places.channels.to(&route.internal).ok_or_else(gone)?;
        let topology = self.topology.max(catalog.topology().number);
        let name = route.name.clone();
        Hold::open(name, channel, topology, self.deadline, self.freshness).await
    }
}

/// The same answer for several tablets.
fn all(tablets: Vec<TabletId>, sought: &Sought) -> Vec<(TabletId, Sought)> {
    let each = tablets.into_iter();
    each.map(|tablet| (tablet, sought.clone())).collect()
}

/// Whether a tablet may be found elsewhere, or here a moment later.
fn elsewhere(failure: &Failure) -> bool {
    matches!(failure.code, ErrorCode::NoLeader | ErrorCode::Draining)
}

fn stack(stack: auxo_engine::read::Stack) -> Stack {
    Stack {
        merged: stack.merged(),
        rows_at_most: stack.rows_at_most(),
        files: stack.files() as u64,
        t_min: stack.t_min(),
        t_max: stack.t_max(),
        open: Arc::new(move |spec| {
            let rows =
                futures::TryStreamExt::map_err(stack.open(&spec), |error| file_failure(&error));
            futures::StreamExt::boxed(rows)
        }),
    }
}

fn read_failure(error: &ReadError) -> Failure {
    match error {
        ReadError::StaleRoute(_) | ReadError::NotLeader(_) => {
            Failure::new(ErrorCode::NoLeader, error.to_string())
        }
        ReadError::File(error) => file_failure(error),
        ReadError::Unavailable(_) => Failure::new(ErrorCode::WalUnavailable, error.to_string()),
    }
}

fn file_failure(error: &SstError) -> Failure {
    let code = match error {
        SstError::Corrupt { .. } | SstError::TooNew { .. } => ErrorCode::Corrupt,
        SstError::Store { .. } => ErrorCode::StoreUnavailable,
        _ => ErrorCode::Internal,
    };
    tracing::error!(%error, "read failed");
    Failure::new(code, error.to_string())
}
