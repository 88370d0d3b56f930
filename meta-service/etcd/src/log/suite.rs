//! The Raft crate's own suite, run on this log, and what it does not ask: crashes.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use openraft::storage::{
    EntryResponder, IOFlushed, RaftLogStorage, RaftLogStorageExt, RaftSnapshotBuilder,
    RaftStateMachine,
};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use openraft::{RaftLogReader, StorageError};
use tempfile::TempDir;

use super::{LogError, LogStore};
use crate::raft::types::{
    Entry, LogId, Payload, Proposal, Snapshot, SnapshotMeta, StoredMembership, TypeConfig, Vote,
};

/// How long the log's thread may take to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A state that only remembers positions, for the parts of the suite that need one.
#[derive(Clone, Default)]
struct Positions {
    meta: SnapshotMeta,
    snapshot: Option<SnapshotMeta>,
}

impl RaftStateMachine<TypeConfig> for Positions {
    type SnapshotData = ();
    type SnapshotBuilder = SharedPositions;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.meta.last_log_id, self.meta.last_membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        while let Some((entry, _)) = entries.try_next().await? {
            self.meta.last_log_id = Some(entry.log_id);
            if let Payload::Membership(members) = entry.payload {
                self.meta.last_membership = StoredMembership::new(Some(entry.log_id), members);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SharedPositions {
        self.snapshot = Some(self.meta.clone());
        SharedPositions(self.meta.clone())
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, (): ()) -> Result<(), io::Error> {
        self.meta = meta.clone();
        self.snapshot = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let snapshot = self.snapshot.clone();
        Ok(snapshot.map(|meta| Snapshot { meta, snapshot: () }))
    }
}

struct SharedPositions(SnapshotMeta);

impl RaftSnapshotBuilder<TypeConfig> for SharedPositions {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        Ok(Snapshot {
            meta: self.0.clone(),
            snapshot: (),
        })
    }
}

struct InTemporary;

impl StoreBuilder<TypeConfig, LogStore, Positions, TempDir> for InTemporary {
    async fn build(&self) -> Result<(TempDir, LogStore, Positions), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let (log, _) = open(dir.path()).unwrap();
        Ok((dir, log, Positions::default()))
    }
}

#[tokio::test]
async fn the_log_passes_the_suite() {
    Suite::test_all(InTemporary).await.unwrap();
}

fn open(dir: &Path) -> Result<(LogStore, std::thread::JoinHandle<()>), LogError> {
    let lock = Arc::new(File::create(dir.join("lock")).unwrap());
    LogStore::open(&dir.join("log"), lock)
}

fn entry(term: u64, index: u64, body: &[u8]) -> Entry {
    Entry {
        log_id: LogId::new_term_index(term, index),
        payload: Payload::Normal(Proposal(Bytes::copy_from_slice(body))),
    }
}

/// Index and body of all entries.
async fn entries(log: &mut LogStore) -> Vec<(u64, Vec<u8>)> {
    let found = log
        .get_log_reader()
        .await
        .try_get_log_entries(..)
        .await
        .unwrap();
    let read = |entry: Entry| match entry.payload {
        Payload::Normal(proposal) => (entry.log_id.index, proposal.0.to_vec()),
        other => panic!("{other:?}"),
    };
    found.into_iter().map(read).collect()
}

async fn close(log: LogStore, thread: std::thread::JoinHandle<()>) {
    drop(log);
    let joined = tokio::task::spawn_blocking(move || thread.join());
    tokio::time::timeout(PATIENCE, joined)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let found = fs::read_dir(dir.join("log")).unwrap();
    let mut paths: Vec<_> = found.map(|item| item.unwrap().path()).collect();
    paths.sort();
    paths
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, thread) = open(dir.path()).unwrap();
    log.save_vote(&Vote::new_committed(3, 9)).await.unwrap();
    log.blocking_append((0..10).map(|n| entry(3, n, &[n as u8; 5])))
        .await
        .unwrap();
    log.truncate_after(Some(LogId::new_term_index(3, 7)))
        .await
        .unwrap();
    log.blocking_append([entry(4, 8, b"eight")]).await.unwrap();
    log.purge(LogId::new_term_index(3, 4)).await.unwrap();
    log.save_committed(Some(LogId::new_term_index(3, 6)))
        .await
        .unwrap();
    log.blocking_append([entry(4, 9, b"nine")]).await.unwrap();
    close(log, thread).await;

    let (mut log, thread) = open(dir.path()).unwrap();
    let mut expected: Vec<_> = (5..8).map(|n| (n, vec![n as u8; 5])).collect();
    expected.extend([(8, b"eight".to_vec()), (9, b"nine".to_vec())]);
    assert_eq!(entries(&mut log).await, expected);
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(LogId::new_term_index(3, 4)));
    assert_eq!(state.last_log_id, Some(LogId::new_term_index(4, 9)));
    assert_eq!(
        log.read_committed().await.unwrap(),
        Some(LogId::new_term_index(3, 6))
    );
    let vote = log.get_log_reader().await.read_vote().await.unwrap();
    assert_eq!(vote, Some(Vote::new_committed(3, 9)));
    close(log, thread).await;
}

/// A write that stops anywhere within the last frame loses that frame and nothing else.
#[tokio::test]
async fn a_torn_tail_is_cut_wherever_it_is_torn() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, thread) = open(dir.path()).unwrap();
    log.blocking_append([entry(1, 0, b"first")]).await.unwrap();
    let path = segments(dir.path()).remove(0);
    let before = fs::metadata(&path).unwrap().len();
    log.blocking_append([entry(1, 1, b"second"), entry(1, 2, b"third")])
        .await
        .unwrap();
    close(log, thread).await;
    let whole = fs::read(&path).unwrap();
    for length in before..whole.len() as u64 {
        fs::write(&path, &whole).unwrap();
        OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(length)
            .unwrap();
        let (mut log, thread) = open(dir.path()).unwrap();
        assert_eq!(
            entries(&mut log).await,
            [(0, b"first".to_vec())],
            "cut at {length}"
        );
        log.blocking_append([entry(1, 1, b"again")]).await.unwrap();
        close(log, thread).await;
        let (mut log, thread) = open(dir.path()).unwrap();
        let expected = [(0, b"first".to_vec()), (1, b"again".to_vec())];
        assert_eq!(entries(&mut log).await, expected, "cut at {length}");
        close(log, thread).await;
    }
}

/// The last frame may reach the disk in any part: whatever is missing of it, it is cut.
#[tokio::test]
async fn a_last_frame_with_holes_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, thread) = open(dir.path()).unwrap();
    log.blocking_append([entry(1, 0, b"first")]).await.unwrap();
    let path = segments(dir.path()).remove(0);
    let before = fs::metadata(&path).unwrap().len() as usize;
    log.blocking_append([entry(1, 1, b"second"), entry(1, 2, b"third")])
        .await
        .unwrap();
    close(log, thread).await;
    let whole = fs::read(&path).unwrap();
    for at in before..whole.len() {
        let mut torn = whole.clone();
        torn[at] ^= 0x55;
        fs::write(&path, torn).unwrap();
        let (mut log, thread) = open(dir.path()).unwrap();
        assert_eq!(
            entries(&mut log).await,
            [(0, b"first".to_vec())],
            "hole at {at}"
        );
        close(log, thread).await;
    }
}

#[tokio::test]
async fn damage_before_the_last_frame_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, thread) = open(dir.path()).unwrap();
    log.blocking_append([entry(1, 0, b"first")]).await.unwrap();
    let path = segments(dir.path()).remove(0);
    let before = fs::metadata(&path).unwrap().len() as usize;
    log.blocking_append([entry(1, 1, b"second")]).await.unwrap();
    close(log, thread).await;
    let whole = fs::read(&path).unwrap();
    for at in 0..before {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        fs::write(&path, &damaged).unwrap();
        let Err(error) = open(dir.path()) else {
            panic!("opened with damage at {at}");
        };
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
        assert_eq!(fs::read(&path).unwrap(), damaged, "changed what it refused");
    }
}

#[tokio::test]
async fn segments_are_begun_and_deleted_as_the_log_moves_on() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, thread) = open(dir.path()).unwrap();
    log.save_vote(&Vote::new(1, 1)).await.unwrap();
    let body = vec![7; 1 << 20];
    for index in 0..40 {
        log.blocking_append([entry(1, index, &body)]).await.unwrap();
    }
    assert_eq!(segments(dir.path()).len(), 3);
    // What no longer is in memory is read from its segment.
    assert_eq!(entries(&mut log).await.len(), 40);
    log.purge(LogId::new_term_index(1, 35)).await.unwrap();
    assert_eq!(segments(dir.path()).len(), 1);
    close(log, thread).await;
    let (mut log, thread) = open(dir.path()).unwrap();
    let found = entries(&mut log).await;
    assert_eq!(
        found.iter().map(|(index, _)| *index).collect::<Vec<_>>(),
        [36, 37, 38, 39]
    );
    let vote = log.get_log_reader().await.read_vote().await.unwrap();
    assert_eq!(vote, Some(Vote::new(1, 1)));
    close(log, thread).await;
}

#[tokio::test]
async fn an_append_larger_than_a_frame_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, thread) = open(dir.path()).unwrap();
    let body = vec![7; 1 << 20];
    log.blocking_append((0..11).map(|index| entry(1, index, &body)))
        .await
        .unwrap();
    close(log, thread).await;
    let (mut log, thread) = open(dir.path()).unwrap();
    assert_eq!(entries(&mut log).await.len(), 11);
    close(log, thread).await;
}

#[tokio::test]
async fn a_segment_that_was_not_finished_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, thread) = open(dir.path()).unwrap();
    log.blocking_append([entry(1, 0, b"first")]).await.unwrap();
    close(log, thread).await;
    let unfinished = dir.path().join("log/segment.tmp");
    fs::write(&unfinished, b"etcd").unwrap();
    let (mut log, thread) = open(dir.path()).unwrap();
    assert!(!unfinished.exists());
    assert_eq!(entries(&mut log).await.len(), 1);
    close(log, thread).await;
}

#[tokio::test]
async fn a_newer_log_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, thread) = open(dir.path()).unwrap();
    log.blocking_append([entry(1, 0, b"first")]).await.unwrap();
    close(log, thread).await;
    let path = segments(dir.path()).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 2;
    fs::write(&path, bytes).unwrap();
    let Err(error) = open(dir.path()) else {
        panic!("opened a newer log");
    };
    let expected = format!(
        "{} has log format 2, this version reads up to 1",
        path.display()
    );
    assert_eq!(error.to_string(), expected);
}

/// After a write has failed nothing is acknowledged any longer.
#[tokio::test]
async fn a_failed_write_is_not_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, thread) = open(dir.path()).unwrap();
    // The first segment cannot be made where there is no directory.
    fs::remove_dir_all(dir.path().join("log")).unwrap();
    assert!(log.save_vote(&Vote::new(1, 1)).await.is_err());
    fs::create_dir(dir.path().join("log")).unwrap();
    assert!(log.save_vote(&Vote::new(1, 1)).await.is_err());
    let (told, result) = TypeConfig::oneshot();
    let told = IOFlushed::signal(told);
    log.append([entry(1, 0, b"first")], told).await.unwrap();
    assert!(result.await.unwrap().is_err());
    close(log, thread).await;
}
