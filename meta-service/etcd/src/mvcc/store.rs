//! `state.redb`: opening, identity, and views to read from.
//!
//! Opening checks that the file is ours and not newer than this program, and never guesses: what
//! does not fit is refused with the file's name. Never here: what operations do.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use etcd_client::proto::PbMember;
use prost::Message;
use redb::{Builder, Database, Durability, ReadableDatabase, ReadableTable, WriteTransaction};

use super::tables::{KeyRow, LeaseRow, MetaKey, OldRow, ReadTables, Tables, View};
use super::{Fault, torn};

/// The layout this program writes, and the newest it reads.
const FORMAT: u32 = 1;
/// Pages kept in memory.
const CACHE_BYTES: usize = 64 << 20;
/// A file up to this size is checked page by page whenever it is opened.
const CHECKED_BYTES_MAX: u64 = 16 << 20;

/// Why the state cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened, or is no database, or a damaged one.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the database said.
        source: Box<redb::Error>,
    },
    /// A later version wrote this file.
    #[error("{path} has state format {format}, this version reads up to {known}")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
        /// The newest format this version knows.
        known: u32,
    },
    /// Its tables lack something or contradict each other.
    #[error("{path} is corrupt: {what}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// Who a member is; drawn once and never changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cluster: u64,
    pub(crate) member: u64,
}

/// The state of one member; clones share it.
#[derive(Clone)]
pub(crate) struct Store {
    database: Arc<Database>,
}

impl Store {
    /// Opens the file or makes a new one for `identity`.
    ///
    /// * returns: the store and the identity in the file, which is `identity` only if it is new.
    pub(crate) fn open(path: &Path, identity: Identity) -> Result<(Self, Identity), StoreError> {
        let failed = |source: redb::Error| StoreError::File {
            path: path.to_owned(),
            source: Box::new(source),
        };
        let bytes = path.metadata().map_or(0, |found| found.len());
        let database = Builder::new()
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(bytes > 0 && bytes <= CHECKED_BYTES_MAX)
            .create(path)
            .map_err(|error| failed(error.into()))?;
        let store = Self {
            database: Arc::new(database),
        };
        let identity = store
            .identify(path, identity)
            .map_err(|error| match error {
                Identified::Refused(refused) => refused,
                Identified::Failed(source) => failed(source),
            })?;
        Ok((store, identity))
    }

    fn identify(&self, path: &Path, identity: Identity) -> Result<Identity, Identified> {
        let txn = self.begin_write(Durability::Immediate)?;
        let mut tables = Tables::open(&txn)?;
        let corrupt = |what: &str| {
            Identified::Refused(StoreError::Corrupt {
                path: path.to_owned(),
                what: what.to_owned(),
            })
        };
        let found = match tables.meta(MetaKey::Format)? {
            Some(bytes) => {
                let format = u32::from_le_bytes(
                    bytes
                        .try_into()
                        .map_err(|_| corrupt("its format is unreadable"))?,
                );
                if format > FORMAT {
                    return Err(Identified::Refused(StoreError::Newer {
                        path: path.to_owned(),
                        format,
                        known: FORMAT,
                    }));
                }
                let bytes = tables.meta(MetaKey::Identity)?;
                let (cluster, member) = bytes
                    .as_deref()
                    .and_then(pair)
                    .ok_or_else(|| corrupt("it has no identity"))?;
                Identity { cluster, member }
            }
            None => {
                tables.set_meta(MetaKey::Format, &FORMAT.to_le_bytes())?;
                let mut bytes = identity.cluster.to_le_bytes().to_vec();
                bytes.extend_from_slice(&identity.member.to_le_bytes());
                tables.set_meta(MetaKey::Identity, &bytes)?;
                tables.set_meta(MetaKey::Revision, &1_i64.to_le_bytes())?;
                tables.set_meta(MetaKey::Compacted, &(-1_i64).to_le_bytes())?;
                identity
            }
        };
        drop(tables);
        txn.commit()?;
        Ok(found)
    }

    /// Begins a transaction; only the apply thread and opening do.
    pub(crate) fn begin_write(
        &self,
        durability: Durability,
    ) -> Result<WriteTransaction, redb::Error> {
        let mut txn = self.database.begin_write()?;
        txn.set_durability(durability)?;
        // A durable commit also keeps the allocator's state: opening after a crash then takes no
        // time, however large the file is.
        txn.set_quick_repair(matches!(durability, Durability::Immediate));
        Ok(txn)
    }

    /// The state as of the last commit.
    pub(crate) fn view(&self) -> Result<ReadView, Fault> {
        let txn = self.database.begin_read()?;
        let tables = ReadTables::open(&txn)?;
        let number = |key| -> Result<i64, Fault> {
            let bytes = tables
                .meta(key)?
                .ok_or_else(|| torn("a position is missing"))?;
            let bytes = bytes
                .try_into()
                .map_err(|_| torn("a position is unreadable"))?;
            Ok(i64::from_le_bytes(bytes))
        };
        Ok(ReadView {
            revision: number(MetaKey::Revision)?,
            compacted: number(MetaKey::Compacted)?,
            tables,
        })
    }
}

/// Two little-endian u64.
fn pair(bytes: &[u8]) -> Option<(u64, u64)> {
    let (first, second) = bytes.split_at_checked(8)?;
    Some((
        u64::from_le_bytes(first.try_into().ok()?),
        u64::from_le_bytes(second.try_into().ok()?),
    ))
}

enum Identified {
    Refused(StoreError),
    Failed(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for Identified {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// An unchanging view of the state, as long as it is held. Pages it shows are not reused meanwhile,
/// so it is held for one request, not longer.
pub(crate) struct ReadView {
    pub(super) tables: ReadTables,
    revision: i64,
    compacted: i64,
}

impl ReadView {
    /// Term and index of the last entry applied, if any.
    pub(crate) fn applied(&self) -> Result<Option<(u64, u64)>, Fault> {
        let Some(bytes) = self.tables.meta(MetaKey::Applied)? else {
            return Ok(None);
        };
        Ok(Some(pair(&bytes).ok_or_else(|| {
            torn("the applied position is unreadable")
        })?))
    }

    /// Term and index of the last membership entry, and its content.
    pub(crate) fn membership(&self) -> Result<Option<(u64, u64, Vec<u8>)>, Fault> {
        let Some(mut bytes) = self.tables.meta(MetaKey::Membership)? else {
            return Ok(None);
        };
        if bytes.len() < 16 {
            return Err(torn("the membership is unreadable"));
        }
        let content = bytes.split_off(16);
        let (term, index) = pair(&bytes).ok_or_else(|| torn("the membership is unreadable"))?;
        Ok(Some((term, index, content)))
    }

    /// All members, in the order of their ids.
    pub(crate) fn members(&self) -> Result<Vec<PbMember>, Fault> {
        let mut members = Vec::new();
        for row in self.tables.member.iter()? {
            let bytes = row?.1;
            members.push(PbMember::decode(bytes.value()).map_err(|error| torn(error.to_string()))?);
        }
        Ok(members)
    }
}

impl View for ReadView {
    fn revision(&self) -> i64 {
        self.revision
    }
    fn compacted(&self) -> i64 {
        self.compacted
    }
    fn rev(&self) -> &impl ReadableTable<(i64, u32), &'static [u8]> {
        &self.tables.rev
    }
    fn keys(&self) -> &impl ReadableTable<&'static [u8], KeyRow> {
        &self.tables.key
    }
    fn old(&self) -> &impl ReadableTable<(&'static [u8], i64, u32), OldRow> {
        &self.tables.old
    }
    fn leases(&self) -> &impl ReadableTable<i64, LeaseRow> {
        &self.tables.lease
    }
    fn lease_keys(&self) -> &impl ReadableTable<(i64, &'static [u8]), ()> {
        &self.tables.lease_key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOMEBODY: Identity = Identity {
        cluster: 1,
        member: 2,
    };

    #[test]
    fn an_empty_state_begins_at_revision_1() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        let (store, identity) = Store::open(&path, SOMEBODY).unwrap();
        assert_eq!(identity, SOMEBODY);
        let view = store.view().unwrap();
        assert_eq!((view.revision(), view.compacted()), (1, -1));
        assert_eq!(view.applied().unwrap(), None);
    }

    #[test]
    fn identity_is_that_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        drop(Store::open(&path, SOMEBODY).unwrap());
        let other = Identity {
            cluster: 8,
            member: 9,
        };
        assert_eq!(Store::open(&path, other).unwrap().1, SOMEBODY);
    }

    #[test]
    fn a_newer_format_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        let (store, _) = Store::open(&path, SOMEBODY).unwrap();
        let txn = store.begin_write(Durability::Immediate).unwrap();
        let mut tables = Tables::open(&txn).unwrap();
        tables
            .set_meta(MetaKey::Format, &2_u32.to_le_bytes())
            .unwrap();
        drop(tables);
        txn.commit().unwrap();
        drop(store);
        let Err(error) = Store::open(&path, SOMEBODY) else {
            panic!("opened a newer format");
        };
        let expected = format!(
            "{} has state format 2, this version reads up to 1",
            path.display()
        );
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn a_file_of_something_else_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        std::fs::write(&path, vec![7; 8192]).unwrap();
        let Err(error) = Store::open(&path, SOMEBODY) else {
            panic!("opened something else");
        };
        assert!(error.to_string().starts_with(&path.display().to_string()));
    }
}
