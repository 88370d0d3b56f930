//! Every key that meta keeps in etcd, in one place.
//!
//! Root `/auxo/{cluster}/`. Numbers are decimal with 20 digits, leases 16 hexadecimal digits, names
//! percent-encoded, so that keys sort as their numbers do and no name holds a `/`.
//!
//! ```text
//! format                          Format           layout of all of this
//! identity                        Identity         of the cluster
//! leader/{lease}                  MetaMember       campaign: the lowest create revision leads
//! meta/{name}                     MetaMember       each meta node, on its lease
//! next/{counter}                  u64              next id that was never given out
//! topology                        Number           raised in every txn that changes a route
//! node/{node}                     Node             kept for ever
//! node_name/{name}                u64              its id
//! liveness/{node}                 Liveness         the last judgement, not the last beat
//! tenant/{tenant}                 Tenant
//! tenant_name/{name}              u64              its id
//! database/{database}             Database
//! database_name/{tenant}/{name}   u64              its id
//! table/{table}                   Table
//! table_name/{database}/{name}    u64              its id
//! schema/{table}/{number}         Schema           one key a number
//! tablet/{table}/{tablet}         Tablet
//! shard/{shard}                   Shard
//! lock/{kind}/{id}                u64              the procedure that holds it
//! procedure/{procedure}           Procedure        one that has not ended
//! past/{procedure}                Past             one that has
//! request/{key}                   Request          the caller's own key
//! ```
//! The values are in [`crate::model::values`]; docs/formats/etcd-keys.md shows one of each.
//!
//! Never here: a value, or a call to etcd.

use auxo_proto::ids::{
    DatabaseId, NodeId, ProcedureId, SchemaNumber, ShardId, TableId, TabletId, TenantId,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};

/// What stays as it is in a name; everything else is percent-encoded.
const NAME: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b':');

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Counter {
    /// Tenants.
    Tenant,
    /// Databases.
    Database,
    /// Tables.
    Table,
    /// Tablets.
    Tablet,
    /// Shards.
    Shard,
    /// Nodes.
    Node,
    /// Procedures.
    Procedure,
}

impl Counter {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Tenant,
        Self::Database,
        Self::Table,
        Self::Tablet,
        Self::Shard,
        Self::Node,
        Self::Procedure,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Database => "database",
            Self::Table => "table",
            Self::Tablet => "tablet",
            Self::Shard => "shard",
            Self::Node => "node",
            Self::Procedure => "procedure",
        }
    }
}

/// What a procedure locks against others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "id")]
pub enum Lock {
    /// Roles, epoch and life of a shard.
    Shard(ShardId),
    /// Schema, options and life of a table.
    Table(TableId),
    /// Life of a database.
    Database(DatabaseId),
    /// State of a node.
    Node(NodeId),
}

/// One key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// Layout of all keys.
    Format,
    /// Identity of the cluster.
    Identity,
    /// One candidate's campaign, by its lease.
    Leader(i64),
    /// A meta node, by name.
    Meta(String),
    /// Next id that was never given out.
    Next(Counter),
    /// Number of the topology.
    Topology,
    /// A node.
    Node(NodeId),
    /// Id of the node of that name.
    NodeName(String),
    /// Whether a node is thought to be alive.
    Liveness(NodeId),
    /// A tenant.
    Tenant(TenantId),
    /// Id of the tenant of that name.
    TenantName(String),
    /// A database.
    Database(DatabaseId),
    /// Id of the tenant's database of that name.
    DatabaseName(TenantId, String),
    /// A table.
    Table(TableId),
    /// Id of the database's table of that name.
    TableName(DatabaseId, String),
    /// Columns of a table at a number.
    Schema(TableId, SchemaNumber),
    /// A tablet of a table.
    Tablet(TableId, TabletId),
    /// A shard.
    Shard(ShardId),
    /// A lock that a procedure holds.
    Lock(Lock),
    /// A procedure that has not ended.
    Procedure(ProcedureId),
    /// A procedure that has.
    Past(ProcedureId),
    /// A caller's own key.
    Request(String),
}

/// The keys of one cluster.
#[derive(Clone, Debug)]
pub struct Keys {
    root: String,
}

impl Keys {
    /// Keys below `/auxo/{cluster}/`.
    pub fn new(cluster: &str) -> Self {
        Self {
            root: format!("/auxo/{}/", encode(cluster)),
        }
    }

    /// The prefix of every key.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// The key as etcd has it.
    pub fn path(&self, key: &Key) -> String {
        let tail = match key {
            Key::Format => "format".to_owned(),
            Key::Identity => "identity".to_owned(),
            Key::Leader(lease) => format!("leader/{lease:016x}"),
            Key::Meta(name) => format!("meta/{}", encode(name)),
            Key::Next(counter) => format!("next/{}", counter.name()),
            Key::Topology => "topology".to_owned(),
            Key::Node(id) => format!("node/{:020}", id.0),
            Key::NodeName(name) => format!("node_name/{}", encode(name)),
            Key::Liveness(id) => format!("liveness/{:020}", id.0),
            Key::Tenant(id) => format!("tenant/{:020}", id.0),
            Key::TenantName(name) => format!("tenant_name/{}", encode(name)),
            Key::Database(id) => format!("database/{:020}", id.0),
            Key::DatabaseName(tenant, name) => {
                format!("database_name/{:020}/{}", tenant.0, encode(name))
            }
            Key::Table(id) => format!("table/{:020}", id.0),
            Key::TableName(database, name) => {
                format!("table_name/{:020}/{}", database.0, encode(name))
            }
            Key::Schema(table, number) => format!("schema/{:020}/{:020}", table.0, number.0),
            Key::Tablet(table, tablet) => format!("tablet/{:020}/{:020}", table.0, tablet.0),
            Key::Shard(id) => format!("shard/{:020}", id.0),
            Key::Lock(lock) => {
                let (kind, id) = match lock {
                    Lock::Shard(id) => ("shard", id.0),
                    Lock::Table(id) => ("table", id.0),
                    Lock::Database(id) => ("database", id.0),
                    Lock::Node(id) => ("node", id.0),
                };
                format!("lock/{kind}/{id:020}")
            }
            Key::Procedure(id) => format!("procedure/{:020}", id.0),
            Key::Past(id) => format!("past/{:020}", id.0),
            Key::Request(key) => format!("request/{}", encode(key)),
        };
        format!("{}{tail}", self.root)
    }

    /// The key of that text; `None` for one that this version does not know.
    pub fn parse(&self, path: &str) -> Option<Key> {
        let tail = path.strip_prefix(&self.root)?;
        let parts: Vec<&str> = tail.split('/').collect();
        Some(match parts.as_slice() {
            ["format"] => Key::Format,
            ["identity"] => Key::Identity,
            ["leader", lease] => Key::Leader(u64::from_str_radix(lease, 16).ok()? as i64),
            ["meta", name] => Key::Meta(decode(name)?),
            ["next", name] => {
                let counter = Counter::ALL
                    .into_iter()
                    .find(|counter| counter.name() == *name)?;
                Key::Next(counter)
            }
            ["topology"] => Key::Topology,
            ["node", id] => Key::Node(NodeId(number(id)?)),
            ["node_name", name] => Key::NodeName(decode(name)?),
            ["liveness", id] => Key::Liveness(NodeId(number(id)?)),
            ["tenant", id] => Key::Tenant(TenantId(number(id)?)),
            ["tenant_name", name] => Key::TenantName(decode(name)?),
            ["database", id] => Key::Database(DatabaseId(number(id)?)),
            ["database_name", tenant, name] => {
                Key::DatabaseName(TenantId(number(tenant)?), decode(name)?)
            }
            ["table", id] => Key::Table(TableId(number(id)?)),
            ["table_name", database, name] => {
                Key::TableName(DatabaseId(number(database)?), decode(name)?)
            }
            ["schema", table, at] => {
                let at = u32::try_from(number(at)?).ok()?;
                Key::Schema(TableId(number(table)?), SchemaNumber(at))
            }
            ["tablet", table, tablet] => {
                Key::Tablet(TableId(number(table)?), TabletId(number(tablet)?))
            }
            ["shard", id] => Key::Shard(ShardId(number(id)?)),
            ["lock", "shard", id] => Key::Lock(Lock::Shard(ShardId(number(id)?))),
            ["lock", "table", id] => Key::Lock(Lock::Table(TableId(number(id)?))),
            ["lock", "database", id] => Key::Lock(Lock::Database(DatabaseId(number(id)?))),
            ["lock", "node", id] => Key::Lock(Lock::Node(NodeId(number(id)?))),
            ["procedure", id] => Key::Procedure(ProcedureId(number(id)?)),
            ["past", id] => Key::Past(ProcedureId(number(id)?)),
            ["request", key] => Key::Request(decode(key)?),
            _ => return None,
        })
    }
}

fn encode(name: &str) -> String {
    utf8_percent_encode(name, NAME).to_string()
}

fn decode(name: &str) -> Option<String> {
    let name = percent_decode_str(name).decode_utf8().ok()?;
    Some(name.into_owned())
}

fn number(text: &str) -> Option<u64> {
    if text.len() != 20 {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_name_and_number_reads_back(name in "\\PC{0,40}", id in any::<u64>(), at in any::<u32>()) {
            let keys = Keys::new("a/b");
            for key in [
                Key::NodeName(name.clone()),
                Key::DatabaseName(TenantId(id), name.clone()),
                Key::TableName(DatabaseId(id), name.clone()),
                Key::Request(name.clone()),
                Key::Leader(id as i64),
                Key::Schema(TableId(id), SchemaNumber(at)),
                Key::Lock(Lock::Shard(ShardId(id))),
            ] {
                let path = keys.path(&key);
                prop_assert!(path.starts_with("/auxo/a%2Fb/"));
                prop_assert_eq!(keys.parse(&path), Some(key));
            }
        }

        #[test]
        fn any_text_is_read_without_harm(text in "\\PC{0,60}") {
            let keys = Keys::new("main");
            let _ = keys.parse(&format!("/auxo/main/{text}"));
        }
    }

    #[test]
    fn keys_sort_as_their_numbers() {
        let keys = Keys::new("main");
        let nine = keys.path(&Key::Table(TableId(9)));
        let ten = keys.path(&Key::Table(TableId(10)));
        assert!(nine < ten);
        assert_eq!(keys.parse("/auxo/main/table/9"), None);
        assert_eq!(keys.parse("/auxo/other/format"), None);
    }
}
