//! Numbered manifests in an object store: who may add the next one, and which one is the newest.
//!
//! ```text
//! COMMIT(base N, content)   leader only, one at a time
//!  1 base's term above the own → stepped down
//!  2 put N+1 with Create
//!  3 Ok → 4.  Any error → GET N+1:  own write id → 4;  not there → 2 with the same bytes;
//!    another's → its term above the own → stepped down, else the caller rebases on it
//!  4 LIST after N+1 is empty, else superseded: numbers below were removed while this writer
//!    stalled, so that it could create an old one again
//!  5 only now is it committed: swap versions, answer, truncate, delete
//! ```
//! Step 1's "base not the newest" is found by 3 and 4. The bytes are made once, before 2: a number
//! is never refreshed under the same content. Between the put and 5 nothing is known; a caller
//! that is told [`CommitError::Unknown`], or drops the future, must take it for "perhaps, perhaps
//! later" and either call again with the same base and content or start from [`newest`].
//!
//! Never here: a clock that decides (deadlines only end waiting), an update in place, a delete of
//! the newest manifest.
//!
//! [`newest`]: ManifestStore::newest

use std::sync::Arc;
use std::time::Duration;

use auxo_proto::ids::Term;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use tokio::time::Instant;

use crate::manifest::check::{self, Violation};
use crate::manifest::{DecodeError, MANIFEST_BYTES_MAX, Manifest};
use crate::names;

#[cfg(test)]
mod tests;

/// How often and how long a commit asks the store before its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Pause after the first failed attempt; doubles with each further one.
    pub first: Duration,
    /// Longest pause.
    pub longest: Duration,
    /// Longest wait for one answer of the store.
    pub attempt: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(50),
            longest: Duration::from_secs(2),
            attempt: Duration::from_secs(10),
        }
    }
}

/// Manifests of one shard.
#[derive(Clone, Debug)]
pub struct ManifestStore {
    store: Arc<dyn ObjectStore>,
    shard_folder: Path,
    retry: Retry,
}

/// A manifest could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The store did not answer; asking again is safe.
    #[error("manifests cannot be read: {0}")]
    Store(#[from] object_store::Error),
    /// The object is there and no manifest: stop, a person must look.
    #[error("manifest {number} cannot be used: {reason}")]
    Unreadable {
        /// Its number.
        number: u64,
        /// What is wrong with its bytes.
        reason: DecodeError,
    },
}

/// A commit did not happen, or may not have.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// A higher term commits: this leader is deposed.
    #[error("manifest {number} is of the higher term {term}")]
    SteppedDown {
        /// Manifest that says so.
        number: u64,
        /// Its term.
        term: Term,
    },
    /// The base is so old that its successors are gone: this leader stalled and is deposed.
    #[error("manifest {newest} is far ahead of the base")]
    Superseded {
        /// A number above the one that was created.
        newest: u64,
    },
    /// Another manifest follows the base: build the content again on it.
    #[error("manifest {number} was committed first")]
    Rebase {
        /// Its number.
        number: u64,
        /// What it says.
        newer: Box<Manifest>,
    },
    /// The content breaks a law; nothing was written.
    #[error(transparent)]
    Unlawful(#[from] Violation),
    /// The content is above [`MANIFEST_BYTES_MAX`]; nothing was written.
    #[error("manifest has {bytes} bytes, more than {MANIFEST_BYTES_MAX}")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// The object that follows the base is no manifest: stop, a person must look.
    #[error("manifest {number} cannot be used: {reason}")]
    Unreadable {
        /// Its number.
        number: u64,
        /// What is wrong with its bytes.
        reason: DecodeError,
    },
    /// The deadline passed first: the content may be committed, now or later. Calling again with
    /// the same base and content (write id included) is safe and finds out.
    #[error("manifest {number} may or may not be committed: {last}")]
    Unknown {
        /// Number that was tried.
        number: u64,
        /// What the store said last.
        last: object_store::Error,
    },
}

impl ManifestStore {
    /// Manifests `manifest/<20 digits>` below `shard_folder`.
    pub fn new(store: Arc<dyn ObjectStore>, shard_folder: Path) -> Self {
        let retry = Retry::default();
        Self {
            store,
            shard_folder,
            retry,
        }
    }

    /// The same store with other pauses.
    pub fn with_retry(self, retry: Retry) -> Self {
        Self { retry, ..self }
    }

    /// The newest manifest and its number, `None` when the shard has none.
    ///
    /// * effects: a LIST, then GETs from its last number on until one is not there, so the answer
    ///   is right even where a LIST lags behind. Reads only; cancel-safe.
    /// * errors: [`ReadError`]; safe to retry.
    pub async fn newest(&self) -> Result<Option<(u64, Manifest)>, ReadError> {
        for _ in 0..LIST_ATTEMPTS {
            let listed = self.numbers(None).await?.into_iter().max();
            let mut newest = None;
            if let Some(number) = listed {
                match self.read(number).await? {
                    Some(manifest) => newest = Some((number, manifest)),
                    // Trimmed since the LIST: hundreds of younger ones exist.
                    None => continue,
                }
            }
            let mut next = listed.map_or(1, |number| number.saturating_add(1));
            while let Some(manifest) = self.read(next).await? {
                newest = Some((next, manifest));
                next = next.saturating_add(1);
            }
            return Ok(newest);
        }
        let lost = "a LIST shows manifests that a GET does not find".to_owned();
        Err(ReadError::Store(generic(lost)))
    }

    /// The manifest with that number, `None` when it is not there, not yet or no more.
    ///
    /// * effects: one GET; cancel-safe.
    /// * errors: [`ReadError`]; safe to retry.
    pub async fn read(&self, number: u64) -> Result<Option<Manifest>, ReadError> {
        let name = names::manifest(&self.shard_folder, number);
        let answer = match self.store.get(&name).await {
            Ok(answer) => answer,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let unreadable = |reason| ReadError::Unreadable { number, reason };
        let found = answer.meta.size;
        if found > MANIFEST_BYTES_MAX as u64 {
            return Err(unreadable(DecodeError::TooLarge { found }));
        }
        let bytes = answer.bytes().await?;
        Manifest::decode(&bytes).map(Some).map_err(unreadable)
    }

    /// Makes `content` the manifest behind `base`, or number 1 where there is none.
    ///
    /// `content.write_id` is drawn for this commit; a repeated call after [`CommitError::Unknown`]
    /// keeps it. `content.term` is the caller's own.
    ///
    /// * returns: its number. Only now may anything be swapped, answered, truncated or deleted.
    /// * errors: [`CommitError`]; after `Unknown` only, the content may be there or come later.
    /// * effects: dropping the future leaves the outcome unknown.
    /// * source: docs/invariants.md, "The manifest".
    pub async fn commit(
        &self,
        base: Option<(u64, &Manifest)>,
        content: &Manifest,
        deadline: Instant,
    ) -> Result<u64, CommitError> {
        if let Some((number, before)) = base
            && before.term > content.term
        {
            let term = before.term;
            return Err(CommitError::SteppedDown { number, term });
        }
        check::commit(base.map(|(_, before)| before), content)?;
        let bytes = content.encode();
        if bytes.len() > MANIFEST_BYTES_MAX {
            let bytes = bytes.len();
            return Err(CommitError::TooLarge { bytes });
        }
        let number = base.map_or(1, |(number, _)| number + 1);
        let mut waiting = Waiting {
            number,
            deadline,
            pause: self.retry.first,
            retry: self.retry,
        };
        while !self.land(number, content, &bytes, &mut waiting).await? {}
        let later = loop {
            let asked = self.numbers(Some(number));
            match waiting.within(asked).await {
                Ok(later) => break later,
                Err(error) => waiting.again(error).await?,
            }
        };
        match later.into_iter().max() {
            None => Ok(number),
            Some(newest) => Err(CommitError::Superseded { newest }),
        }
    }

    /// Steps 2 and 3 once: whether the number now holds the content.
    async fn land(
        &self,
        number: u64,
        content: &Manifest,
        bytes: &Bytes,
        waiting: &mut Waiting,
    ) -> Result<bool, CommitError> {
        let name = names::manifest(&self.shard_folder, number);
        let create = PutOptions::from(PutMode::Create);
        let payload = PutPayload::from_bytes(bytes.clone());
        let put = self.store.put_opts(&name, payload, create);
        let Err(last) = waiting.within(put).await else {
            return Ok(true);
        };
        let found = loop {
            match waiting.within(self.read(number)).await {
                Ok(found) => break found,
                Err(ReadError::Store(error)) => waiting.again(error).await?,
                Err(ReadError::Unreadable { number, reason }) => {
                    return Err(CommitError::Unreadable { number, reason });
                }
            }
        };
        let Some(newer) = found else {
            waiting.again(last).await?;
            return Ok(false);
        };
        if newer.write_id == content.write_id {
            return Ok(true);
        }
        let term = newer.term;
        if term > content.term {
            return Err(CommitError::SteppedDown { number, term });
        }
        let newer = Box::new(newer);
        Err(CommitError::Rebase { number, newer })
    }

    /// Removes manifests nobody needs any more: older than 1 h and not among the last 100.
    ///
    /// * returns: the numbers removed.
    /// * effects: one LIST and deletes; the newest is never removed. Stopping midway leaves nothing
    ///   half-done.
    pub async fn trim(&self, now_ms: i64) -> Result<Vec<u64>, object_store::Error> {
        let folder = names::manifest_folder(&self.shard_folder);
        let listed: Vec<_> = self
            .store
            .list(Some(&folder))
            .try_filter_map(|object| {
                let number = names::manifest_number(&object.location);
                let written_ms = object.last_modified.timestamp_millis();
                std::future::ready(Ok(number.map(|number| (number, written_ms))))
            })
            .try_collect()
            .await?;
        let expendable = expendable(&listed, now_ms);
        for number in &expendable {
            let name = names::manifest(&self.shard_folder, *number);
            match self.store.delete(&name).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(expendable)
    }

    /// Numbers that exist, above `after` if given, in no order.
    pub(crate) async fn numbers(
        &self,
        after: Option<u64>,
    ) -> Result<Vec<u64>, object_store::Error> {
        let folder = names::manifest_folder(&self.shard_folder);
        let objects = match after {
            None => self.store.list(Some(&folder)),
            Some(after) => {
                let after = names::manifest(&self.shard_folder, after);
                self.store.list_with_offset(Some(&folder), &after)
            }
        };
        objects
            .try_filter_map(|object| {
                let number = names::manifest_number(&object.location);
                std::future::ready(Ok(number))
            })
            .try_collect()
            .await
    }
}

/// How often a reader lists again when what it saw was removed meanwhile.
const LIST_ATTEMPTS: usize = 5;

/// Manifests that outlive each reader: this many of the newest, and all of the last hour.
const KEPT_COUNT: usize = 100;
const KEPT_MS: i64 = 3_600_000;

/// Which of the manifests `(number, written at ms)` nobody needs any more, in ascending order.
///
/// * shape: never the newest; a clock that is wrong only moves the bound of an hour.
fn expendable(listed: &[(u64, i64)], now_ms: i64) -> Vec<u64> {
    let mut newest_first = listed.to_vec();
    newest_first.sort_unstable_by_key(|(number, _)| std::cmp::Reverse(*number));
    let mut numbers: Vec<u64> = newest_first
        .into_iter()
        .skip(KEPT_COUNT)
        .filter(|(_, written_ms)| written_ms.saturating_add(KEPT_MS) < now_ms)
        .map(|(number, _)| number)
        .collect();
    numbers.reverse();
    numbers
}

/// The rest of a commit's patience.
struct Waiting {
    number: u64,
    deadline: Instant,
    pause: Duration,
    retry: Retry,
}

impl Waiting {
    /// The answer, or an error when it does not come in time.
    async fn within<T, E: From<object_store::Error>>(
        &self,
        asked: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let until = self.deadline.min(Instant::now() + self.retry.attempt);
        tokio::time::timeout_at(until, asked)
            .await
            .unwrap_or_else(|_| Err(generic("the store did not answer in time".to_owned()).into()))
    }

    /// Pauses before the next attempt, or gives up with what the store said last.
    async fn again(&mut self, last: object_store::Error) -> Result<(), CommitError> {
        let next = Instant::now() + self.pause;
        if next >= self.deadline {
            let number = self.number;
            return Err(CommitError::Unknown { number, last });
        }
        tokio::time::sleep_until(next).await;
        self.pause = (self.pause * 2).min(self.retry.longest);
        Ok(())
    }
}

fn generic(what: String) -> object_store::Error {
    object_store::Error::Generic {
        store: "manifests",
        source: what.into(),
    }
}
