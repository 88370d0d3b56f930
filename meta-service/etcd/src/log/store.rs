//! What Raft sees of the log: an index in memory over entries that are cached or on disk.
//!
//! An entry can be read as soon as `append` has returned; it counts only once the flusher has called
//! back. Recent entries stay in memory up to a bound; older ones are read from their segment.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::fs::{self, File};
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::Arc;

use openraft::RaftLogReader;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::LogError;
use super::flusher::{Command, Done, FRAME_BYTES, Flusher};
use super::format::{Ballot, Position, Record};
use super::segment::{self, Kept, Place};
use crate::proposal::Content;
use crate::raft::membership;
use crate::raft::types::{Entry, LogId, Payload, Proposal, TypeConfig, Vote};

/// Entries kept in memory beyond those not yet durable.
const CACHE_BYTES: usize = 16 << 20;

struct Slot {
    at: Position,
    /// What the entry takes in memory.
    bytes: usize,
    content: Option<Content>,
    /// Known once the entry is durable.
    place: Option<Place>,
}

#[derive(Default)]
struct Index {
    kept: Kept,
    /// Live entries without a gap.
    slots: VecDeque<Slot>,
    cached_bytes: usize,
    /// Every slot before this one has given up its content.
    cold: usize,
}

/// The log of one member.
///
/// Locking: the index lock is held for memory work only, never while a file is read or written.
pub(crate) struct LogStore {
    index: Arc<Mutex<Index>>,
    commands: mpsc::Sender<Command>,
}

/// Reads entries; as many as wanted beside one [`LogStore`].
#[derive(Clone)]
pub(crate) struct LogReader {
    index: Arc<Mutex<Index>>,
}

impl LogStore {
    /// Opens or makes the log in `dir` and starts its thread.
    ///
    /// * `lock`: what keeps other processes out; given back when the thread has ended, which it does
    ///   after the store is dropped.
    pub(crate) fn open(
        dir: &Path,
        lock: Arc<File>,
    ) -> Result<(Self, std::thread::JoinHandle<()>), LogError> {
        let failed = |source| LogError::Io {
            path: dir.to_owned(),
            source,
        };
        fs::create_dir_all(dir).map_err(failed)?;
        let found = segment::recover(dir)?;
        let index = Arc::new(Mutex::new(Index {
            kept: found.kept,
            cold: found.entries.len(),
            slots: found.entries.into_iter().map(slot_on_disk).collect(),
            cached_bytes: 0,
        }));
        let written = {
            let index = index.clone();
            Box::new(move |places| index.lock().written(places))
        };
        let flusher = Flusher {
            dir: dir.to_owned(),
            segments: found.segments,
            kept: found.kept,
            next_frame: found.next_frame.max(1),
            written,
            lock,
        };
        let (commands, thread) = flusher.spawn().map_err(failed)?;
        Ok((Self { index, commands }, thread))
    }

    /// Index of the last purged entry and of the last entry, as far as there are any.
    pub(crate) fn bounds(&self) -> (Option<u64>, Option<u64>) {
        let index = self.index.lock();
        let purged = index.kept.purged.map(|at| at.index);
        (
            purged,
            index.slots.back().map(|slot| slot.at.index).or(purged),
        )
    }

    /// Makes the records durable before it returns.
    async fn save(&self, records: Vec<Record>) -> io::Result<()> {
        let (done, durable) = oneshot::channel();
        self.send(records, Done::Waiter(done)).await?;
        durable.await.map_err(|_| stopped())?
    }

    async fn send(&self, records: Vec<Record>, done: Done) -> io::Result<()> {
        let command = Command { records, done };
        self.commands.send(command).await.map_err(|_| stopped())
    }
}

fn slot_on_disk((at, place): (Position, Place)) -> Slot {
    Slot {
        at,
        bytes: place.bytes as usize,
        content: None,
        place: Some(place),
    }
}

fn stopped() -> io::Error {
    io::Error::other("the log has stopped")
}

impl Index {
    fn position_of(&self, index: u64) -> Option<usize> {
        let first = self.slots.front()?.at.index;
        let offset = usize::try_from(index.checked_sub(first)?).ok()?;
        (offset < self.slots.len()).then_some(offset)
    }

    fn push(&mut self, at: Position, content: Content) {
        let bytes = content.len() + size_of::<Slot>();
        self.cached_bytes += bytes;
        self.slots.push_back(Slot {
            at,
            bytes,
            content: Some(content),
            place: None,
        });
    }

    /// Notes where entries lie, then lets the oldest durable ones go from memory.
    fn written(&mut self, places: Vec<(Position, Place)>) {
        for (at, place) in places {
            // An entry truncated meanwhile has no slot, or one with another term.
            if let Some(offset) = self.position_of(at.index)
                && self.slots[offset].at == at
            {
                self.slots[offset].place = Some(place);
            }
        }
        while self.cached_bytes > CACHE_BYTES
            && let Some(slot) = self.slots.get_mut(self.cold)
            && slot.place.is_some()
        {
            slot.content = None;
            self.cached_bytes -= slot.bytes;
            self.cold += 1;
        }
    }

    fn truncate(&mut self, from: u64) {
        while self.slots.back().is_some_and(|slot| slot.at.index >= from) {
            self.forget(|slots| slots.pop_back());
        }
        self.cold = self.cold.min(self.slots.len());
    }

    fn purge(&mut self, upto: Position) {
        while self
            .slots
            .front()
            .is_some_and(|slot| slot.at.index <= upto.index)
        {
            self.forget(|slots| slots.pop_front());
            self.cold = self.cold.saturating_sub(1);
        }
        self.kept.purged = Some(upto);
    }

    fn forget(&mut self, take: impl FnOnce(&mut VecDeque<Slot>) -> Option<Slot>) {
        if let Some(slot) = take(&mut self.slots)
            && slot.content.is_some()
        {
            self.cached_bytes -= slot.bytes;
        }
    }
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let wanted: Vec<_> = {
            let index = self.index.lock();
            let first = index.slots.front().map_or(0, |slot| slot.at.index);
            let skipped = start.saturating_sub(first).min(index.slots.len() as u64);
            let slots = index.slots.range(skipped as usize..);
            slots
                .take_while(|slot| slot.at.index < end)
                .map(|slot| (slot.at, slot.content.clone(), slot.place.clone()))
                .collect()
        };
        let read = |(at, content, place): (Position, Option<Content>, Option<Place>)| {
            let content = match (content, place) {
                (Some(content), _) => content,
                (None, Some(place)) => match place.read()? {
                    Record::Entry { at: found, content } if found == at => content,
                    _ => return Err(io::Error::other("another record in an entry's place")),
                },
                (None, None) => return Err(io::Error::other("an entry that is nowhere")),
            };
            entry(at, content)
        };
        wanted.into_iter().map(read).collect()
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        let vote = self.index.lock().kept.vote;
        Ok(vote.map(|ballot| {
            if ballot.committed {
                Vote::new_committed(ballot.term, ballot.node)
            } else {
                Vote::new(ballot.term, ballot.node)
            }
        }))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let index = self.index.lock();
        let purged = index.kept.purged.map(log_id);
        let last = index.slots.back().map(|slot| log_id(slot.at));
        Ok(LogState {
            last_purged_log_id: purged,
            last_log_id: last.or(purged),
        })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader {
            index: self.index.clone(),
        }
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let ballot = Ballot {
            term: vote.leader_id.term,
            node: vote.leader_id.voted_for,
            committed: vote.committed,
        };
        self.index.lock().kept.vote = Some(ballot);
        self.save(vec![Record::Vote(ballot)]).await
    }

    /// Durable with whatever is appended next: a position that lags only means that more is
    /// confirmed again by the next leader.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.index.lock().kept.committed = committed.map(position);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let index = self.index.lock();
        let last = index.slots.back().map(|slot| slot.at).or(index.kept.purged);
        Ok(index.kept.committed.min(last).map(log_id))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let mut frames = Vec::new();
        let mut records = Vec::new();
        let mut bytes = 0;
        {
            let mut index = self.index.lock();
            if let Some(committed) = index.kept.committed {
                records.push(Record::Committed(committed));
            }
            for entry in entries {
                let at = position(entry.log_id);
                let content = content(entry.payload);
                index.push(at, content.clone());
                bytes += content.len();
                records.push(Record::Entry { at, content });
                if bytes >= FRAME_BYTES {
                    frames.push(std::mem::take(&mut records));
                    bytes = 0;
                }
            }
        }
        for full in frames {
            self.send(full, Done::Nobody).await?;
        }
        let done = Done::Callback(Box::new(move |result| callback.io_completed(result)));
        self.send(records, done).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let from = last.map_or(0, |last| last.index + 1);
        self.index.lock().truncate(from);
        self.save(vec![Record::Truncated { from }]).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let upto = position(upto);
        self.index.lock().purge(upto);
        self.save(vec![Record::Purged(upto)]).await
    }
}

fn content(payload: Payload) -> Content {
    match payload {
        Payload::Blank => Content::Blank,
        Payload::Normal(proposal) => Content::Normal(proposal.0),
        Payload::Membership(members) => Content::Membership(membership::encode(&members)),
    }
}

fn entry(at: Position, content: Content) -> io::Result<Entry> {
    let payload = match content {
        Content::Blank => Payload::Blank,
        Content::Normal(bytes) => Payload::Normal(Proposal(bytes)),
        Content::Membership(bytes) => {
            Payload::Membership(membership::decode(&bytes).map_err(io::Error::other)?)
        }
    };
    Ok(Entry {
        log_id: log_id(at),
        payload,
    })
}

fn position(id: LogId) -> Position {
    Position {
        term: id.leader_id.term,
        index: id.index,
    }
}

fn log_id(at: Position) -> LogId {
    LogId::new_term_index(at.term, at.index)
}
