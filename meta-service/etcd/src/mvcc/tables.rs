//! The tables of `state.redb` and what they share: layout in docs/formats/etcd-state.md.
//!
//! | table | key → value |
//! |---|---|
//! | `rev` | (main, sub) → etcd's `Event` as protobuf: the history, in order |
//! | `key` | user key → (create, main, sub, version, lease): live keys only |
//! | `old` | (user key, main, sub) → (create, version, deleted): every version kept, the live one too |
//! | `lease` | id → (ttl, remaining) in seconds |
//! | `lease_key` | (lease, user key) → () |
//! | `member` | id → etcd's `Member` as protobuf |
//! | `meta` | name → bytes, names in [`MetaKey`] |
//!
//! `main` is the revision of the change, `sub` counts operations within it.

use redb::{ReadOnlyTable, ReadableTable, Table, TableDefinition, TableError, WriteTransaction};

/// (create, main, sub, version, lease)
pub(crate) type KeyRow = (i64, i64, u32, i64, i64);
/// (create, version, deleted)
pub(crate) type OldRow = (i64, i64, bool);
/// (ttl, remaining) in seconds; remaining 0 means the whole TTL.
pub(crate) type LeaseRow = (i64, i64);

type RevKey = (i64, u32);
type OldKey = (&'static [u8], i64, u32);
type LeaseKey = (i64, &'static [u8]);
type Bytes = &'static [u8];

const REV: TableDefinition<RevKey, Bytes> = TableDefinition::new("rev");
const KEY: TableDefinition<Bytes, KeyRow> = TableDefinition::new("key");
const OLD: TableDefinition<OldKey, OldRow> = TableDefinition::new("old");
const LEASE: TableDefinition<i64, LeaseRow> = TableDefinition::new("lease");
const LEASE_KEY: TableDefinition<LeaseKey, ()> = TableDefinition::new("lease_key");
const MEMBER: TableDefinition<u64, Bytes> = TableDefinition::new("member");
const META: TableDefinition<&'static str, Bytes> = TableDefinition::new("meta");

/// Names in `meta`. Numbers are little-endian.
#[derive(Debug, Clone, Copy)]
pub(crate) enum MetaKey {
    /// u32: layout of all tables.
    Format,
    /// u64, u64: cluster id, member id.
    Identity,
    /// u64, u64: term and index of the last entry applied.
    Applied,
    /// u64, u64, bytes: term and index of a membership entry, and its content.
    Membership,
    /// i64: revision of the last change.
    Revision,
    /// i64: what is older cannot be read; -1 before the first compaction.
    Compacted,
    /// i64, u32, i64: next (main, sub) to look at, and the revision removed up to; absent when done.
    Removal,
}

impl MetaKey {
    fn name(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Identity => "identity",
            Self::Applied => "applied",
            Self::Membership => "membership",
            Self::Revision => "revision",
            Self::Compacted => "compacted",
            Self::Removal => "removal",
        }
    }
}

/// What can be read, whether or not more is being written.
pub(crate) trait View {
    /// Revision of the last change that this view shows.
    fn revision(&self) -> i64;
    /// The compaction boundary.
    fn compacted(&self) -> i64;
    fn rev(&self) -> &impl ReadableTable<RevKey, Bytes>;
    fn keys(&self) -> &impl ReadableTable<Bytes, KeyRow>;
    fn old(&self) -> &impl ReadableTable<OldKey, OldRow>;
    fn leases(&self) -> &impl ReadableTable<i64, LeaseRow>;
    fn lease_keys(&self) -> &impl ReadableTable<LeaseKey, ()>;
}

/// All tables of one write transaction.
pub(crate) struct Tables<'txn> {
    pub(crate) rev: Table<'txn, RevKey, Bytes>,
    pub(crate) key: Table<'txn, Bytes, KeyRow>,
    pub(crate) old: Table<'txn, OldKey, OldRow>,
    pub(crate) lease: Table<'txn, i64, LeaseRow>,
    pub(crate) lease_key: Table<'txn, LeaseKey, ()>,
    pub(crate) member: Table<'txn, u64, Bytes>,
    pub(super) meta: Table<'txn, &'static str, Bytes>,
}

impl<'txn> Tables<'txn> {
    /// Opens all tables, making those that are not there yet.
    pub(crate) fn open(txn: &'txn WriteTransaction) -> Result<Self, TableError> {
        Ok(Self {
            rev: txn.open_table(REV)?,
            key: txn.open_table(KEY)?,
            old: txn.open_table(OLD)?,
            lease: txn.open_table(LEASE)?,
            lease_key: txn.open_table(LEASE_KEY)?,
            member: txn.open_table(MEMBER)?,
            meta: txn.open_table(META)?,
        })
    }

    pub(crate) fn meta(&self, key: MetaKey) -> Result<Option<Vec<u8>>, redb::StorageError> {
        let found = self.meta.get(key.name())?;
        Ok(found.map(|bytes| bytes.value().to_vec()))
    }

    pub(crate) fn set_meta(
        &mut self,
        key: MetaKey,
        bytes: &[u8],
    ) -> Result<(), redb::StorageError> {
        self.meta.insert(key.name(), bytes)?;
        Ok(())
    }

    pub(crate) fn clear_meta(&mut self, key: MetaKey) -> Result<(), redb::StorageError> {
        self.meta.remove(key.name())?;
        Ok(())
    }
}

/// All tables of one read transaction.
pub(crate) struct ReadTables {
    pub(crate) rev: ReadOnlyTable<RevKey, Bytes>,
    pub(crate) key: ReadOnlyTable<Bytes, KeyRow>,
    pub(crate) old: ReadOnlyTable<OldKey, OldRow>,
    pub(crate) lease: ReadOnlyTable<i64, LeaseRow>,
    pub(crate) lease_key: ReadOnlyTable<LeaseKey, ()>,
    pub(crate) member: ReadOnlyTable<u64, Bytes>,
    pub(super) meta: ReadOnlyTable<&'static str, Bytes>,
}

impl ReadTables {
    pub(crate) fn open(txn: &redb::ReadTransaction) -> Result<Self, TableError> {
        Ok(Self {
            rev: txn.open_table(REV)?,
            key: txn.open_table(KEY)?,
            old: txn.open_table(OLD)?,
            lease: txn.open_table(LEASE)?,
            lease_key: txn.open_table(LEASE_KEY)?,
            member: txn.open_table(MEMBER)?,
            meta: txn.open_table(META)?,
        })
    }

    pub(crate) fn meta(&self, key: MetaKey) -> Result<Option<Vec<u8>>, redb::StorageError> {
        let found = self.meta.get(key.name())?;
        Ok(found.map(|bytes| bytes.value().to_vec()))
    }
}
