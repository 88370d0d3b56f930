//! Which tables there are, which tablet is in which shard and which shard is where: pushed by
//! meta with its number, kept by every node, also on disk.

use std::collections::{HashMap, HashSet};
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

/// A table with its tablets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutedTable {
    /// The table.
    pub table: Arc<TableInfo>,
    /// All its tablets.
    pub tablets: Vec<TabletRoute>,
}

/// What changed from one [`Topology`] to a newer one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopologyChange {
    /// Number of the topology it is about.
    pub base: u64,
    /// Number of the one it makes.
    pub number: u64,
    /// Tables that are new or changed, or whose tablets did.
    pub tables: Vec<RoutedTable>,
    /// Tables that are gone, with their tablets.
    pub gone: Vec<TableId>,
    /// All databases, if any changed.
    pub databases: Option<Vec<DatabaseInfo>>,
    /// All shards, if any changed.
    pub shards: Option<Vec<ShardRoute>>,
    /// All nodes, if any changed.
    pub nodes: Option<Vec<NodeRoute>>,
}

impl Topology {
    /// What changed since an older one. Both have their tables sorted by id and their tablets by
    /// table, as meta makes them.
    pub fn since(&self, older: &Self) -> TopologyChange {
        let old_tables: HashMap<TableId, &Arc<TableInfo>> =
            older.tables.iter().map(|table| (table.id, table)).collect();
        let (old_tablets, tablets) = (older.tablets_by_table(), self.tablets_by_table());
        let empty: &[TabletRoute] = &[];
        let of = |all: &HashMap<TableId, &'_ [TabletRoute]>, id| -> Vec<TabletRoute> {
            all.get(&id).copied().unwrap_or(empty).to_vec()
        };
        let mut tables = Vec::new();
        for table in &self.tables {
            let same = old_tables
                .get(&table.id)
                .is_some_and(|old| Arc::ptr_eq(old, table) || *old == table);
            if !same || old_tablets.get(&table.id) != tablets.get(&table.id) {
                tables.push(RoutedTable {
                    table: Arc::clone(table),
                    tablets: of(&tablets, table.id),
                });
            }
        }
        let now: HashSet<TableId> = self.tables.iter().map(|table| table.id).collect();
        let gone = older.tables.iter().map(|table| table.id);
        let gone = gone.filter(|id| !now.contains(id)).collect();
        let changed = |same: bool| (!same).then_some(());
        TopologyChange {
            base: older.number,
            number: self.number,
            tables,
            gone,
            databases: changed(self.databases == older.databases).map(|()| self.databases.clone()),
            shards: changed(self.shards == older.shards).map(|()| self.shards.clone()),
            nodes: changed(self.nodes == older.nodes).map(|()| self.nodes.clone()),
        }
    }

    /// The topology that a change makes of this one; `None` if the change is about another.
    pub fn with(&self, change: TopologyChange) -> Option<Self> {
        if change.base != self.number {
            return None;
        }
        let mut replaced: HashSet<TableId> = change.gone.iter().copied().collect();
        replaced.extend(change.tables.iter().map(|routed| routed.table.id));
        let kept = self
            .tables
            .iter()
            .filter(|table| !replaced.contains(&table.id));
        let mut tables: Vec<Arc<TableInfo>> = kept.cloned().collect();
        let kept = self
            .tablets
            .iter()
            .filter(|tablet| !replaced.contains(&tablet.table));
        let mut tablets: Vec<TabletRoute> = kept.cloned().collect();
        for routed in change.tables {
            tables.push(routed.table);
            tablets.extend(routed.tablets);
        }
        tables.sort_by_key(|table| table.id);
        // Stable: the tablets of one table stay in their order.
        tablets.sort_by_key(|tablet| tablet.table);
        Some(Self {
            number: change.number,
            databases: change.databases.unwrap_or_else(|| self.databases.clone()),
            tables,
            tablets,
            shards: change.shards.unwrap_or_else(|| self.shards.clone()),
            nodes: change.nodes.unwrap_or_else(|| self.nodes.clone()),
        })
    }

    fn tablets_by_table(&self) -> HashMap<TableId, &[TabletRoute]> {
        let runs = self.tablets.chunk_by(|a, b| a.table == b.table);
        runs.filter_map(|run| Some((run.first()?.table, run)))
            .collect()
    }
}

/// A [`Topology`] with the look-ups that requests make.
#[derive(Debug, Default)]
pub struct Catalog {
    topology: Topology,
    database_of: HashMap<(TenantId, String), usize>,
    table_of: HashMap<DatabaseId, HashMap<String, Arc<TableInfo>>>,
    table_by_id: HashMap<TableId, Arc<TableInfo>>,
    tablets_of: HashMap<TableId, Vec<TabletRoute>>,
    /// Places in the topology's list.
    tablet_by_id: HashMap<TabletId, usize>,
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
        for (index, tablet) in topology.tablets.iter().enumerate() {
            catalog.tablet_by_id.insert(tablet.id, index);
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

    /// Where a tablet is.
    pub fn tablet(&self, id: TabletId) -> Option<&TabletRoute> {
        self.topology.tablets.get(*self.tablet_by_id.get(&id)?)
    }

    /// How to reach a node that leads a shard.
    pub fn node(&self, id: NodeId) -> Option<&NodeRoute> {
        self.topology.nodes.iter().find(|node| node.id == id)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::SchemaNumber;
    use crate::schema::{Partition, TableOptions, TableSchema};

    /// A topology of tables with a schema number and tablets in shards each.
    fn topology(number: u64, tables: &[(u64, u32, Vec<u64>)], shards: u64) -> Topology {
        let mut topology = Topology {
            number,
            ..Topology::default()
        };
        for (id, schema, tablets) in tables {
            topology.tables.push(Arc::new(TableInfo {
                id: TableId(*id),
                tenant: TenantId(1),
                database: DatabaseId(1),
                name: format!("t{id}"),
                schema: Arc::new(TableSchema {
                    number: SchemaNumber(*schema),
                    columns: Vec::new(),
                }),
                partition: Partition::default(),
                options: TableOptions::default(),
            }));
            for (nth, shard) in tablets.iter().enumerate() {
                topology.tablets.push(TabletRoute {
                    id: TabletId(id * 100 + nth as u64),
                    table: TableId(*id),
                    range: HashRange::FULL,
                    shard: ShardId(*shard),
                });
            }
        }
        topology.shards = (1..=shards)
            .map(|id| ShardRoute {
                id: ShardId(id),
                epoch: 1,
                leader: Some(NodeId(1)),
            })
            .collect();
        topology
    }

    fn tables() -> impl Strategy<Value = Vec<(u64, u32, Vec<u64>)>> {
        let table = (0_u32..3, proptest::collection::vec(1_u64..4, 0..3));
        proptest::collection::btree_map(1_u64..8, table, 0..6).prop_map(|tables| {
            let table = |(id, (schema, tablets))| (id, schema, tablets);
            tables.into_iter().map(table).collect()
        })
    }

    proptest! {
        #[test]
        fn what_changed_makes_the_newer_of_the_older(
            before in tables(), after in tables(), shards in 0_u64..3, more in 0_u64..3,
        ) {
            let older = topology(5, &before, shards);
            let newer = topology(9, &after, more);
            let change = newer.since(&older);
            let json = serde_json::to_vec(&change).unwrap();
            let change: TopologyChange = serde_json::from_slice(&json).unwrap();
            prop_assert_eq!(newer.since(&newer).tables.len(), 0);
            prop_assert_eq!(newer.with(change.clone()), None);
            prop_assert_eq!(older.with(change), Some(newer));
        }
    }

    #[test]
    fn one_new_table_is_told_alone() {
        let older = topology(1, &[(1, 1, vec![1, 2]), (2, 1, vec![1])], 2);
        let newer = topology(
            2,
            &[(1, 1, vec![1, 2]), (2, 1, vec![1]), (3, 1, vec![2])],
            2,
        );
        let change = newer.since(&older);
        assert_eq!(change.tables.len(), 1);
        assert_eq!(change.tables[0].tablets.len(), 1);
        assert_eq!(change.shards, None);
        assert_eq!(change.gone, []);
    }
}
