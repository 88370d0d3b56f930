//! Which tables there are, which tablet is in which shard and which shard is where: pushed by
//! meta with its number, kept by every node, also on disk.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{DatabaseId, NodeId, ShardId, TableId, TabletId, TenantId};
use crate::schema::{HashRange, TableInfo, TabletSpec};

/// A database as every node knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseInfo {
    /// Never used twice.
    pub id: DatabaseId,
    /// Who owns it.
    pub tenant: TenantId,
    /// As declared; unique in the tenant.
    pub name: String,
}

/// Where a tablet is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TabletRoute {
    /// The tablet.
    pub id: TabletId,
    /// Its table.
    pub table: TableId,
    /// Hashes whose rows belong to it.
    pub range: HashRange,
    /// The shard it is in.
    pub shard: ShardId,
}

/// Where a shard is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRoute {
    /// The shard.
    pub id: ShardId,
    /// Number of its leadership.
    pub epoch: u64,
    /// The node that should lead it.
    pub leader: Option<NodeId>,
}

/// How to reach a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRoute {
    /// The node.
    pub id: NodeId,
    /// Its configured name.
    pub name: String,
    /// Address of its public listener.
    pub public: String,
    /// Address of its internal listener; empty where there is only one node.
    pub internal: String,
}

/// Everything a node needs to route and to plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// Rises with each change of a route or schema.
    pub number: u64,
    /// All databases.
    pub databases: Vec<DatabaseInfo>,
    /// All live tables.
    pub tables: Vec<Arc<TableInfo>>,
    /// All their tablets.
    pub tablets: Vec<TabletRoute>,
    /// All live shards.
    pub shards: Vec<ShardRoute>,
    /// All nodes that a shard names.
    pub nodes: Vec<NodeRoute>,
}

/// A [`Topology`] with the look-ups that requests make.
#[derive(Debug, Default)]
pub struct Catalog {
    topology: Topology,
    database_of: HashMap<(TenantId, String), usize>,
    table_of: HashMap<DatabaseId, HashMap<String, Arc<TableInfo>>>,
    table_by_id: HashMap<TableId, Arc<TableInfo>>,
    tablets_of: HashMap<TableId, Vec<TabletRoute>>,
    leader_of: HashMap<ShardId, NodeId>,
}

impl Catalog {
    /// Indexes a topology.
    pub fn new(topology: Topology) -> Self {
        let mut catalog = Self::default();
        for (index, database) in topology.databases.iter().enumerate() {
            let name = (database.tenant, database.name.clone());
            catalog.database_of.insert(name, index);
        }
        for table in &topology.tables {
            let tables = catalog.table_of.entry(table.database).or_default();
            tables.insert(table.name.clone(), Arc::clone(table));
            catalog.table_by_id.insert(table.id, Arc::clone(table));
        }
        for tablet in &topology.tablets {
            catalog
                .tablets_of
                .entry(tablet.table)
                .or_default()
                .push(tablet.clone());
        }
        for tablets in catalog.tablets_of.values_mut() {
            tablets.sort_by_key(|tablet| tablet.range.lo);
        }
        for shard in &topology.shards {
            if let Some(leader) = shard.leader {
                catalog.leader_of.insert(shard.id, leader);
            }
        }
        catalog.topology = topology;
        catalog
    }

    /// What was indexed.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The tenant's databases.
    pub fn databases(&self, tenant: TenantId) -> impl Iterator<Item = &DatabaseInfo> {
        self.topology
            .databases
            .iter()
            .filter(move |database| database.tenant == tenant)
    }

    /// The tenant's database of that name.
    pub fn database(&self, tenant: TenantId, name: &str) -> Option<&DatabaseInfo> {
        let index = self.database_of.get(&(tenant, name.to_owned()))?;
        self.topology.databases.get(*index)
    }

    /// The tables of a database, in no particular order.
    pub fn tables(&self, database: DatabaseId) -> impl Iterator<Item = &Arc<TableInfo>> {
        self.table_of
            .get(&database)
            .into_iter()
            .flat_map(HashMap::values)
    }

    /// The table of that name.
    pub fn table(&self, database: DatabaseId, name: &str) -> Option<&Arc<TableInfo>> {
        self.table_of.get(&database)?.get(name)
    }

    /// The table with that id.
    pub fn table_by_id(&self, id: TableId) -> Option<&Arc<TableInfo>> {
        self.table_by_id.get(&id)
    }

    /// The tablets of a table, ordered by hash range.
    pub fn tablets(&self, table: TableId) -> &[TabletRoute] {
        self.tablets_of.get(&table).map_or(&[], Vec::as_slice)
    }

    /// The tablet with its table.
    pub fn tablet_spec(&self, route: &TabletRoute) -> Option<TabletSpec> {
        let table = Arc::clone(self.table_by_id(route.table)?);
        Some(TabletSpec {
            id: route.id,
            range: route.range,
            table,
        })
    }

    /// The node that should lead the shard.
    pub fn leader(&self, shard: ShardId) -> Option<NodeId> {
        self.leader_of.get(&shard).copied()
    }
}
