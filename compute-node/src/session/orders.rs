//! Does each order once, and answers it as often as it is sent.
//!
//! The last 1,024 orders are remembered: one that is done or will never be is answered from memory,
//! one that is running with its progress. One that failed for now is forgotten, so that sending it
//! again tries again. Never dropped: an order that is running.
//!
//! Never here: the stream that answers go to.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use auxo_proto::ids::{ShardId, TableId, TabletId};
use auxo_proto::pb::meta::answer::Outcome;
use auxo_proto::pb::meta::order::Verb;
use auxo_proto::pb::meta::{
    self, Accepted, Answer, CreateTablets, Done, Failed, Order, Progress, Reign, ShardState,
};
use auxo_proto::schema::{HashRange, TableInfo, TabletSpec};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::verbs::{OpenShard, ShardRole, VerbError, Verbs};

/// Orders that are remembered.
const REMEMBERED: usize = 1_024;
/// How often a running order says that it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(4);

/// What a shard became by an order, to be kept on disk before the order is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Became {
    /// The node leads it.
    Led(OpenShard),
    /// The node does not.
    NotLed(ShardId),
}

/// Called with what a shard became, before the order is answered.
pub type Keep = Arc<dyn Fn(Became) -> futures::future::BoxFuture<'static, ()> + Send + Sync>;

/// The orders of a node.
pub struct Orders {
    verbs: Arc<dyn Verbs>,
    tasks: TaskTracker,
    /// Never locked over an await.
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Highest reign seen.
    reign: (u64, u64),
    /// `None` while it is running.
    outcomes: HashMap<String, Option<Outcome>>,
    /// Those that are not running, oldest first.
    ended: VecDeque<String>,
    /// Where answers go: the newest stream.
    answers: Option<mpsc::Sender<Answer>>,
}

impl Orders {
    /// No orders yet; verbs are done on `tasks`.
    pub fn new(verbs: Arc<dyn Verbs>, tasks: TaskTracker) -> Self {
        Self {
            verbs,
            tasks,
            state: Arc::default(),
        }
    }

    /// From now on answers go here, and orders of lower reigns are refused.
    pub fn connect(&self, reign: (u64, u64), answers: mpsc::Sender<Answer>) {
        let mut state = self.state.lock();
        state.reign = state.reign.max(reign);
        state.answers = Some(answers);
    }

    /// Ids of the orders that are running.
    pub fn unfinished(&self) -> Vec<String> {
        let state = self.state.lock();
        let running = state
            .outcomes
            .iter()
            .filter(|(_, outcome)| outcome.is_none());
        running.map(|(id, _)| id.clone()).collect()
    }

    /// Takes an order: answers it from memory, or begins it.
    pub fn take(&self, order: Order, keep: Keep) {
        if let Some(outcome) = self.known_or_refused(&order) {
            say(&self.state, &order.id, outcome);
            return;
        }
        say(&self.state, &order.id, Outcome::Accepted(Accepted {}));
        let (verbs, state) = (Arc::clone(&self.verbs), Arc::clone(&self.state));
        self.tasks.spawn(async move {
            let (id, shard) = (order.id.clone(), order.shard);
            let outcome = {
                let done = carry_out(verbs.as_ref(), order, &keep);
                tokio::pin!(done);
                loop {
                    tokio::select! {
                        outcome = &mut done => break outcome,
                        () = tokio::time::sleep(PROGRESS_EVERY) => {
                            say(&state, &id, Outcome::Progress(Progress::default()));
                        }
                    }
                }
            };
            if let Outcome::Failed(failed) = &outcome {
                let Failed { code, detail, .. } = failed;
                tracing::warn!(
                    order = id,
                    shard,
                    code,
                    detail,
                    "order of meta not carried out"
                );
            }
            remember(&state, &id, &outcome);
            say(&state, &id, outcome);
        });
    }

    /// What to answer at once, if the order is not to be begun; else it counts as running.
    fn known_or_refused(&self, order: &Order) -> Option<Outcome> {
        let reign = order.reign.map_or((0, 0), number);
        let mut state = self.state.lock();
        if reign < state.reign {
            let detail = format!("reign {reign:?} is over, {:?} has begun", state.reign);
            let error = VerbError::passing("STALE_REIGN", detail);
            return Some(Outcome::Failed(failed(error)));
        }
        state.reign = reign;
        match state.outcomes.get(&order.id) {
            Some(Some(outcome)) => return Some(outcome.clone()),
            Some(None) => return Some(Outcome::Progress(Progress::default())),
            None => {}
        }
        let shards = self.verbs.shards();
        let held = shards.iter().find(|held| held.shard == order.shard);
        if let Some(held) = held.filter(|held| held.epoch > order.epoch) {
            let detail = format!("epoch {} is below {}", order.epoch, held.epoch);
            let mut error = VerbError::permanent("STALE_EPOCH", detail);
            error.higher_epoch = held.epoch;
            return Some(Outcome::Failed(failed(error)));
        }
        state.outcomes.insert(order.id.clone(), None);
        None
    }
}

/// Remembers how an order ended, or forgets it if it may be tried again.
fn remember(state: &Mutex<State>, id: &str, outcome: &Outcome) {
    let mut state = state.lock();
    if let Outcome::Failed(Failed {
        permanent: false, ..
    }) = outcome
    {
        state.outcomes.remove(id);
        return;
    }
    state.outcomes.insert(id.to_owned(), Some(outcome.clone()));
    state.ended.push_back(id.to_owned());
    while state.ended.len() > REMEMBERED {
        if let Some(oldest) = state.ended.pop_front() {
            state.outcomes.remove(&oldest);
        }
    }
}

/// Answers on the newest stream; an answer that is lost is given again when the order comes again.
fn say(state: &Mutex<State>, order: &str, outcome: Outcome) {
    let answers = state.lock().answers.clone();
    let answer = Answer {
        order: order.to_owned(),
        outcome: Some(outcome),
    };
    if answers.is_none_or(|answers| answers.try_send(answer).is_err()) {
        tracing::debug!(order, "answer not sent, the order will come again");
    }
}

async fn carry_out(verbs: &dyn Verbs, order: Order, keep: &Keep) -> Outcome {
    let shard = ShardId(order.shard);
    let epoch = order.epoch;
    let done = match order.verb {
        None => Err(VerbError::permanent("UNSUPPORTED", "the verb is not known")),
        Some(Verb::Open(open)) => open_shard(verbs, shard, epoch, open, keep).await,
        Some(Verb::Close(_)) => {
            let closed = verbs.close(shard, epoch).await;
            if closed.is_ok() {
                keep(Became::NotLed(shard)).await;
            }
            closed.map(|()| None)
        }
        Some(Verb::Switch(switch)) => match role(switch.role()) {
            Some(role) => verbs.switch(shard, epoch, role).await.map(Some),
            None => Err(VerbError::permanent("UNSUPPORTED", "the role is not known")),
        },
        Some(Verb::Flush(flush)) => verbs.flush(shard, epoch, flush.through).await.map(Some),
        Some(Verb::CreateTablets(create)) => match specs(&create) {
            Ok(tablets) => {
                let created = verbs.create_tablets(shard, epoch, tablets).await;
                created.map(|()| state_of(verbs, shard))
            }
            Err(detail) => Err(VerbError::permanent("BAD_REQUEST", detail)),
        },
        Some(Verb::DropTablets(drop)) => {
            let tablets = drop.tablets.iter().map(|tablet| TabletId(tablet.id));
            let dropped = verbs.drop_tablets(shard, epoch, tablets.collect()).await;
            dropped.map(|()| state_of(verbs, shard))
        }
    };
    match done {
        Ok(shard) => Outcome::Done(Done { shard }),
        Err(error) => Outcome::Failed(failed(error)),
    }
}

async fn open_shard(
    verbs: &dyn Verbs,
    shard: ShardId,
    epoch: u64,
    open: meta::Open,
    keep: &Keep,
) -> Result<Option<ShardState>, VerbError> {
    let (Some(role), Some(wal)) = (role(open.role()), open.wal.clone()) else {
        let detail = "the role or the log is not known";
        return Err(VerbError::permanent("UNSUPPORTED", detail));
    };
    let open = OpenShard {
        shard,
        epoch,
        role,
        wal_service: wal.service,
        incarnation: wal.incarnation,
        base_seq: open.base_seq,
    };
    let state = verbs.open(open.clone()).await?;
    keep(match role {
        ShardRole::Leader => Became::Led(open),
        ShardRole::Follower | ShardRole::Compute => Became::NotLed(shard),
    })
    .await;
    Ok(Some(state))
}

fn state_of(verbs: &dyn Verbs, shard: ShardId) -> Option<ShardState> {
    let shards = verbs.shards();
    shards.into_iter().find(|held| held.shard == shard.0)
}

/// The tablets of an order, each with its table.
fn specs(create: &CreateTablets) -> Result<Vec<TabletSpec>, String> {
    let tables: Vec<TableInfo> =
        serde_json::from_slice(&create.tables).map_err(|error| error.to_string())?;
    let tables: HashMap<TableId, Arc<TableInfo>> = tables
        .into_iter()
        .map(|table| (table.id, Arc::new(table)))
        .collect();
    let spec = |tablet: &meta::Tablet| {
        let table = tables.get(&TableId(tablet.table));
        let table = table.ok_or_else(|| format!("tablet {} lacks its table", tablet.id))?;
        Ok(TabletSpec {
            id: TabletId(tablet.id),
            range: HashRange {
                lo: tablet.lo,
                hi: tablet.hi,
            },
            table: Arc::clone(table),
        })
    };
    create.tablets.iter().map(spec).collect()
}

fn role(role: meta::Role) -> Option<ShardRole> {
    match role {
        meta::Role::Leader => Some(ShardRole::Leader),
        meta::Role::Follower => Some(ShardRole::Follower),
        meta::Role::Compute => Some(ShardRole::Compute),
        meta::Role::Unspecified => None,
    }
}

fn failed(error: VerbError) -> Failed {
    Failed {
        code: error.code,
        detail: error.detail,
        permanent: error.permanent,
        retry_after_ms: error.retry_after_ms,
        higher_epoch: error.higher_epoch,
    }
}

/// A reign as a pair that rises.
pub(super) fn number(reign: Reign) -> (u64, u64) {
    (reign.restored, reign.revision)
}

#[cfg(test)]
mod tests;
