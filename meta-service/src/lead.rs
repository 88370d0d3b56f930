//! What a meta node does while it leads: first start, sessions, procedures, scheduling.
//!
//! Everything here lives on tasks that end with the reign.
//!
//! Never here: how the leadership is won or kept (`election`).

use std::sync::Arc;
use std::time::Duration;

use auxo_proto::ids::{DatabaseId, TenantId};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::keys::{Counter, Key};
use crate::model::Model;
use crate::model::change::Change;
use crate::model::values::{
    Database, Format, Identity, LAYOUT, Life, Number, Tenant, Unknown, Verdict,
};
use crate::procedure::runner::{Runner, Trap};
use crate::published::{self, Published};
use crate::reign::{Reign, WriteError};
use crate::scheduler::{self, Wishes};
use crate::sessions::Sessions;

/// The tenant of a cluster that has no other.
pub const DEFAULT_TENANT: TenantId = TenantId(1);
/// The database that every cluster starts with.
pub const DEFAULT_DATABASE: &str = "main";
/// Pause after a failed attempt.
const PAUSE: Duration = Duration::from_millis(200);

/// One meta node while it leads.
pub struct Lead {
    /// The leadership.
    pub reign: Arc<Reign>,
    /// The nodes' streams.
    pub sessions: Arc<Sessions>,
    /// The procedures.
    pub runner: Arc<Runner>,
    /// The newest topology.
    pub topology: watch::Receiver<Arc<Published>>,
}

impl Lead {
    /// Takes up the leadership: makes the cluster if there is none, publishes topology, resumes
    /// procedures, begins to schedule. All tasks go on `tasks` and end with the reign.
    ///
    /// * returns: `None` if the reign was over before.
    pub(crate) async fn take_up(
        reign: Arc<Reign>,
        build: &str,
        wishes: Wishes,
        trap: Trap,
        tasks: &TaskTracker,
    ) -> Option<Arc<Self>> {
        let now_ms = reign.clock.now_ms();
        let cluster = reign.random.uuid_v7(now_ms).to_string();
        loop {
            let made = reign.write(|model| {
                let change = first_start(model, build, &cluster, now_ms);
                Ok::<_, ()>((change.unwrap_or_default(), ()))
            });
            match made.await {
                Ok(()) => break,
                Err(WriteError::Deposed) => return None,
                Err(error) => {
                    tracing::warn!(%error, "cannot make the cluster yet");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        let sessions = Arc::new(Sessions::default());
        sessions.view(|view, now| {
            reign.mirror.read(|model| {
                let online = model.liveness.iter();
                let online = online.filter(|(_, known)| known.verdict == Verdict::Online);
                let named = model.shards.values().flat_map(|shard| &shard.replicas);
                let named = named.map(|replica| replica.node);
                for node in online.map(|(node, _)| *node).chain(named) {
                    view.expect(node, now);
                }
            });
        });
        let runner = Runner::new(
            Arc::clone(&reign),
            Arc::clone(&sessions),
            tasks.clone(),
            trap,
        );
        let (publish, topology) = watch::channel(Published::newest(&reign));
        tasks.spawn(published::run(Arc::clone(&reign), publish));
        let lead = Arc::new(Self {
            reign,
            sessions,
            runner,
            topology,
        });
        lead.runner.resume();
        let (scheduled, over) = (Arc::clone(&lead), lead.reign.over.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = scheduler::run(scheduled, wishes) => {}
                () = over.cancelled() => {}
            }
        });
        Some(lead)
    }
}

/// What the first start of a cluster writes; `None` if it has been started before.
pub fn first_start(model: &Model, build: &str, cluster: &str, now_ms: i64) -> Option<Change> {
    if model.format.is_some() {
        return None;
    }
    let mut change = Change::new();
    let database = DatabaseId(1);
    let format = Format {
        layout: LAYOUT,
        oldest_reader: LAYOUT,
        made_by: build.to_owned(),
        unknown: Unknown::default(),
    };
    let identity = Identity {
        cluster_uuid: cluster.to_owned(),
        made_ms: now_ms,
        restored: 0,
        unknown: Unknown::default(),
    };
    let tenant = Tenant {
        name: "default".to_owned(),
        state: Life::Live,
        labels: Default::default(),
        unknown: Unknown::default(),
    };
    let main = Database {
        tenant: DEFAULT_TENANT,
        name: DEFAULT_DATABASE.to_owned(),
        state: Life::Live,
        unknown: Unknown::default(),
    };
    let topology = Number {
        number: 1,
        unknown: Unknown::default(),
    };
    let name = Key::DatabaseName(DEFAULT_TENANT, main.name.clone());
    change
        .put(Key::Format, &format)
        .put(Key::Identity, &identity)
        .put(Key::Topology, &topology)
        .put(Key::Next(Counter::Tenant), &(DEFAULT_TENANT.0 + 1))
        .put(Key::TenantName(tenant.name.clone()), &DEFAULT_TENANT)
        .put(Key::Tenant(DEFAULT_TENANT), &tenant)
        .put(Key::Next(Counter::Database), &(database.0 + 1))
        .put(name, &database)
        .put(Key::Database(database), &main);
    Some(change)
}
