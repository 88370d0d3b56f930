//! What should be: the values of every key in memory, typed, as of one revision of etcd.
//!
//! Rooms: [`values`] (a type for each value), [`change`] (what one txn writes, and what it rests
//! on), [`mirror`] (keeps a model up to date by list and watch), [`check`] (what must hold of it).
//!
//! Never here: what *is* ([`crate::cluster`]), a decision, a clock, or a call to etcd.

pub mod change;
pub mod check;
pub mod mirror;
pub mod values;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use auxo_proto::ids::{
    DatabaseId, NodeId, ProcedureId, SchemaNumber, ShardId, TableId, TabletId, TenantId,
};
use auxo_proto::schema::{HashRange, TableInfo, TableSchema};
use auxo_proto::topology::{DatabaseInfo, NodeRoute, ShardRoute, TabletRoute, Topology};
use serde::de::DeserializeOwned;

use crate::keys::{Counter, Key, Keys, Lock};
use values::{
    Database, Format, Identity, Life, Liveness, MetaMember, Node, Number, Past, Procedure, Request,
    Schema, Shard, ShardLife, Table, Tablet, Tenant,
};

/// When a key was made and last written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revisions {
    /// Revision that made it.
    pub create: i64,
    /// Revision that wrote it last.
    pub modify: i64,
}

/// A value as etcd has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// When it was written.
    pub revisions: Revisions,
    /// Its bytes.
    pub value: Vec<u8>,
}

/// Everything in etcd below the root of one cluster.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// The revision it is a picture of.
    pub revision: i64,
    /// Layout of all keys.
    pub format: Option<Format>,
    /// Identity of the cluster.
    pub identity: Option<Identity>,
    /// Campaigns by lease.
    pub leaders: BTreeMap<i64, MetaMember>,
    /// Meta nodes by name.
    pub metas: BTreeMap<String, MetaMember>,
    /// Next ids.
    pub next: BTreeMap<Counter, u64>,
    /// Number of the topology.
    pub topology: Option<Number>,
    /// Compute nodes.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Their ids.
    pub node_names: BTreeMap<String, NodeId>,
    /// Judgements on them.
    pub liveness: BTreeMap<NodeId, Liveness>,
    /// Customers.
    pub tenants: BTreeMap<TenantId, Tenant>,
    /// Their ids.
    pub tenant_names: BTreeMap<String, TenantId>,
    /// Databases.
    pub databases: BTreeMap<DatabaseId, Database>,
    /// Their ids.
    pub database_names: BTreeMap<(TenantId, String), DatabaseId>,
    /// Tables.
    pub tables: BTreeMap<TableId, Table>,
    /// Their ids.
    pub table_names: BTreeMap<(DatabaseId, String), TableId>,
    /// Columns of the tables.
    pub schemas: BTreeMap<(TableId, SchemaNumber), Schema>,
    /// Tablets of the tables.
    pub tablets: BTreeMap<(TableId, TabletId), Tablet>,
    /// Shards.
    pub shards: BTreeMap<ShardId, Shard>,
    /// Locks and their holders.
    pub locks: BTreeMap<Lock, ProcedureId>,
    /// Procedures that have not ended.
    pub procedures: BTreeMap<ProcedureId, Procedure>,
    /// Procedures that have.
    pub past: BTreeMap<ProcedureId, Past>,
    /// Callers' own keys.
    pub requests: BTreeMap<String, Request>,
    /// Keys whose value cannot be read, with the reason. They count as present: every decision
    /// that takes them for absent is refused by its own compare.
    pub unreadable: BTreeMap<Key, String>,
    revisions: HashMap<Key, Revisions>,
    infos: BTreeMap<TableId, Arc<TableInfo>>,
}

impl Model {
    /// When the key was written; `None` if it is absent.
    pub fn revisions(&self, key: &Key) -> Option<Revisions> {
        self.revisions.get(key).copied()
    }

    /// Every key there is.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.revisions.keys()
    }

    /// Takes over what etcd has at a revision, in place of everything.
    pub fn replace(&mut self, revision: i64, entries: Vec<(Key, Stored)>) {
        *self = Self::default();
        let entries = entries
            .into_iter()
            .map(|(key, stored)| (key, Some(stored)))
            .collect();
        self.apply(revision, entries);
    }

    /// Takes over the changes of the revisions up to `revision`, in their order; `None` is a
    /// deletion.
    pub fn apply(&mut self, revision: i64, changes: Vec<(Key, Option<Stored>)>) {
        let mut touched = BTreeSet::new();
        for (key, stored) in changes {
            match &key {
                Key::Table(table) | Key::Schema(table, _) => {
                    touched.insert(*table);
                }
                _ => {}
            }
            self.unreadable.remove(&key);
            match &stored {
                Some(stored) => self.revisions.insert(key.clone(), stored.revisions),
                None => self.revisions.remove(&key),
            };
            let value = stored.as_ref().map(|stored| stored.value.as_slice());
            if let Err(error) = self.set(&key, value) {
                self.unreadable.insert(key, error.to_string());
            }
        }
        for table in touched {
            match self.make_info(table) {
                Some(info) => self.infos.insert(table, Arc::new(info)),
                None => self.infos.remove(&table),
            };
        }
        self.revision = revision;
    }

    fn set(&mut self, key: &Key, value: Option<&[u8]>) -> Result<(), serde_json::Error> {
        match key {
            Key::Format => one(&mut self.format, value),
            Key::Identity => one(&mut self.identity, value),
            Key::Leader(lease) => put(&mut self.leaders, *lease, value),
            Key::Meta(name) => put(&mut self.metas, name.clone(), value),
            Key::Next(counter) => put(&mut self.next, *counter, value),
            Key::Topology => one(&mut self.topology, value),
            Key::Node(id) => put(&mut self.nodes, *id, value),
            Key::NodeName(name) => put(&mut self.node_names, name.clone(), value),
            Key::Liveness(id) => put(&mut self.liveness, *id, value),
            Key::Tenant(id) => put(&mut self.tenants, *id, value),
            Key::TenantName(name) => put(&mut self.tenant_names, name.clone(), value),
            Key::Database(id) => put(&mut self.databases, *id, value),
            Key::DatabaseName(tenant, name) => {
                put(&mut self.database_names, (*tenant, name.clone()), value)
            }
            Key::Table(id) => put(&mut self.tables, *id, value),
            Key::TableName(database, name) => {
                put(&mut self.table_names, (*database, name.clone()), value)
            }
            Key::Schema(table, number) => put(&mut self.schemas, (*table, *number), value),
            Key::Tablet(table, tablet) => put(&mut self.tablets, (*table, *tablet), value),
            Key::Shard(id) => put(&mut self.shards, *id, value),
            Key::Lock(lock) => put(&mut self.locks, *lock, value),
            Key::Procedure(id) => put(&mut self.procedures, *id, value),
            Key::Past(id) => put(&mut self.past, *id, value),
            Key::Request(key) => put(&mut self.requests, key.clone(), value),
        }
    }

    /// The next id of a counter; ids begin at 1.
    pub fn next_id(&self, counter: Counter) -> u64 {
        self.next.get(&counter).copied().unwrap_or(1)
    }

    /// Number of the topology; 0 before the first start.
    pub fn topology_number(&self) -> u64 {
        self.topology.as_ref().map_or(0, |topology| topology.number)
    }

    /// Restore generation of the cluster.
    pub fn restored(&self) -> u32 {
        self.identity
            .as_ref()
            .map_or(0, |identity| identity.restored)
    }

    /// The campaign with the lowest create revision: its lease, that revision and who it is.
    pub fn leader(&self) -> Option<(i64, i64, &MetaMember)> {
        self.leaders
            .iter()
            .filter_map(|(lease, member)| {
                let revisions = self.revisions(&Key::Leader(*lease))?;
                Some((*lease, revisions.create, member))
            })
            .min_by_key(|(_, create, _)| *create)
    }

    /// The tenant's live database of that name.
    pub fn database(&self, tenant: TenantId, name: &str) -> Option<(DatabaseId, &Database)> {
        let id = self.database_names.get(&(tenant, name.to_owned()))?;
        let database = self.databases.get(id)?;
        (database.state == Life::Live).then_some((*id, database))
    }

    /// A table with its newest committed schema, also one that is being made.
    pub fn table_info(&self, table: TableId) -> Option<&Arc<TableInfo>> {
        self.infos.get(&table)
    }

    /// The tablets of a table, by id.
    pub fn tablets_of(&self, table: TableId) -> impl Iterator<Item = (TabletId, &Tablet)> {
        self.tablets
            .range((table, TabletId(0))..=(table, TabletId(u64::MAX)))
            .map(|((_, id), tablet)| (*id, tablet))
    }

    /// The numbers of the schemas of a table, rising.
    pub fn schemas_of(&self, table: TableId) -> impl Iterator<Item = SchemaNumber> {
        self.schemas
            .range((table, SchemaNumber(0))..=(table, SchemaNumber(u32::MAX)))
            .map(|((_, number), _)| *number)
    }

    /// The database as nodes know it.
    pub fn database_info(&self, id: DatabaseId) -> Option<DatabaseInfo> {
        let database = self.databases.get(&id)?;
        Some(DatabaseInfo {
            id,
            tenant: database.tenant,
            name: database.name.clone(),
        })
    }

    /// What nodes are told: live databases, tables, tablets and shards, and the nodes these name.
    pub fn topology(&self) -> Topology {
        let databases = self
            .databases
            .iter()
            .filter(|(_, database)| database.state == Life::Live)
            .filter_map(|(id, _)| self.database_info(*id))
            .collect();
        let mut tables = Vec::new();
        let mut tablets = Vec::new();
        for (id, table) in &self.tables {
            if table.state != Life::Live {
                continue;
            }
            tables.extend(self.infos.get(id).cloned());
            tablets.extend(self.tablets_of(*id).map(|(tablet, value)| TabletRoute {
                id: tablet,
                table: *id,
                range: HashRange {
                    lo: value.lo,
                    hi: value.hi,
                },
                shard: value.shard,
            }));
        }
        let live = || {
            self.shards
                .iter()
                .filter(|(_, shard)| shard.state == ShardLife::Live)
        };
        let shards = live()
            .map(|(id, shard)| ShardRoute {
                id: *id,
                epoch: shard.epoch.0,
                leader: shard.leader,
            })
            .collect();
        let named: BTreeSet<NodeId> = live()
            .flat_map(|(_, shard)| shard.replicas.iter().map(|replica| replica.node))
            .collect();
        let nodes = named
            .into_iter()
            .filter_map(|id| {
                let node = self.nodes.get(&id)?;
                Some(NodeRoute {
                    id,
                    name: node.name.clone(),
                    public: node.public.clone(),
                    internal: node.internal.clone(),
                })
            })
            .collect();
        Topology {
            number: self.topology_number(),
            databases,
            tables,
            tablets,
            shards,
            nodes,
        }
    }

    fn make_info(&self, id: TableId) -> Option<TableInfo> {
        let table = self.tables.get(&id)?;
        self.table_at(id, table.schema)
    }

    /// The table as it is with the schema of that number.
    pub fn table_at(&self, id: TableId, number: SchemaNumber) -> Option<TableInfo> {
        let table = self.tables.get(&id)?;
        let schema = self.schemas.get(&(id, number))?;
        let database = self.databases.get(&table.database)?;
        Some(TableInfo {
            id,
            tenant: database.tenant,
            database: table.database,
            name: table.name.clone(),
            schema: Arc::new(TableSchema {
                number,
                columns: schema.columns.clone(),
            }),
            partition: table.partition.clone(),
            options: table.options.clone(),
        })
    }
}

fn one<T: DeserializeOwned>(
    slot: &mut Option<T>,
    value: Option<&[u8]>,
) -> Result<(), serde_json::Error> {
    *slot = None;
    *slot = value.map(serde_json::from_slice).transpose()?;
    Ok(())
}

fn put<K: Ord, T: DeserializeOwned>(
    map: &mut BTreeMap<K, T>,
    key: K,
    value: Option<&[u8]>,
) -> Result<(), serde_json::Error> {
    map.remove(&key);
    if let Some(value) = value {
        map.insert(key, serde_json::from_slice(value)?);
    }
    Ok(())
}

/// Reads what etcd has under the root; keys that this version does not know are passed over.
pub fn typed(keys: &Keys, path: &[u8]) -> Option<Key> {
    keys.parse(std::str::from_utf8(path).ok()?)
}

#[cfg(test)]
pub(crate) mod tests;
