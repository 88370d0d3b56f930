//! The resilient etcd client: everything that meta reads and writes goes through here.
//!
//! Rooms: [`classify`] (what an error means for the call), [`watch`] (list, then watch, for ever),
//! [`lease`] (kept alive, with a deadline of its own).
//!
//! Writes are txns that cannot succeed twice. After an error that leaves the outcome open the same
//! txn is sent again; if its compare then fails, a linearizable read says whether our values are
//! there. No write is ever guessed.
//!
//! Never here: what a key means.

pub mod classify;
pub mod lease;
pub mod watch;

use std::time::Duration;

use auxo_proto::random::Random;
use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, GetOptions, KvClient, PutOptions, TxnOp,
    TxnOpResponse,
};
use tokio::time::Instant;

use classify::{Class, classify};

/// Time for a read or a write with all its repetitions.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// Time for one attempt.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Time for a connection to one member.
const CONNECT_TIME: Duration = Duration::from_secs(1);
/// How often a silent connection is probed, and how long the answer may take. etcd ends connections
/// that are probed more often than every 5 s.
const PROBE: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(2));
/// Keys in one page of a listing.
const PAGE_KEYS: i64 = 1_000;
/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// What a key is expected to be when a txn is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// It is absent.
    Absent,
    /// It was last written at this revision.
    Modified(i64),
    /// It was made at this revision.
    Created(i64),
}

/// A key that gets a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: String,
    /// The lease it lives on; 0 for none.
    pub lease: i64,
}

/// A compare-txn. At least one key it writes is also compared, so that it cannot succeed twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All of them must hold.
    pub expects: Vec<(String, Expect)>,
    /// Keys that get a value.
    pub puts: Vec<Put>,
    /// Keys that go.
    pub deletes: Vec<String>,
}

/// Why a read came to nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// No answer in time; may be tried again.
    #[error("etcd does not answer: {0}")]
    Unavailable(String),
    /// The revision asked for is compacted.
    #[error("etcd has compacted the revision")]
    Compacted,
    /// The question is wrong, or etcd says something that cannot be.
    #[error("etcd refused: {0}")]
    Refused(String),
}

/// Why a write came to nothing, or may have.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// A compare failed: nothing was written. `revision` is etcd's at that time.
    #[error("a key changed in the meantime")]
    Conflict {
        /// The revision that a new decision must have seen.
        revision: i64,
    },
    /// A lease of the txn has ended: nothing was written.
    #[error("the lease has ended")]
    LeaseGone,
    /// Nothing was written; may be tried again.
    #[error("etcd does not answer: {0}")]
    Unavailable(String),
    /// It may have been written.
    #[error("outcome not known: {0}")]
    Unknown(String),
    /// Nothing was written, nor would be by trying again.
    #[error("etcd refused: {0}")]
    Refused(String),
}

/// A key with its value, as etcd has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
    /// Revision that made it.
    pub create: i64,
    /// Revision that wrote it last.
    pub modify: i64,
}

impl From<&etcd_client::KeyValue> for Entry {
    fn from(kv: &etcd_client::KeyValue) -> Self {
        Self {
            key: kv.key().to_vec(),
            value: kv.value().to_vec(),
            create: kv.create_revision(),
            modify: kv.mod_revision(),
        }
    }
}

/// A client of an etcd that is reached by the URLs of its members; connects when it is first used.
///
/// A member that has lost the others refuses its calls and ends its watches, so that they go on at
/// another one.
///
/// * errors: a URL is none of `http://HOST:PORT`.
pub async fn connect(members: &[String]) -> Result<Client, etcd_client::Error> {
    let options = ConnectOptions::new()
        .with_connect_timeout(CONNECT_TIME)
        .with_keep_alive(PROBE.0, PROBE.1)
        .with_require_leader(true);
    Client::connect(members, Some(options)).await
}

/// A client of one etcd; cheap to clone.
#[derive(Clone)]
pub struct Store {
    client: Client,
    random: Random,
}

impl Store {
    /// Wraps a client; the random numbers spread retries.
    pub fn new(client: Client, random: Random) -> Self {
        Self { client, random }
    }

    /// All keys with a prefix at one revision, which is also returned.
    ///
    /// * errors: `Compacted` only if the listing was overtaken by compactions until its deadline.
    /// * effects: linearizable; pages of 1,000 keys.
    pub async fn list(&self, prefix: &str) -> Result<(i64, Vec<Entry>), ReadError> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.list_once(prefix, deadline).await {
                Err(ReadError::Compacted) if Instant::now() < deadline => {}
                other => return other,
            }
        }
    }

    async fn list_once(
        &self,
        prefix: &str,
        deadline: Instant,
    ) -> Result<(i64, Vec<Entry>), ReadError> {
        let end = range_end(prefix);
        let mut from = prefix.as_bytes().to_vec();
        let mut entries = Vec::new();
        let mut revision = 0;
        loop {
            let options = GetOptions::new()
                .with_range(end.clone())
                .with_limit(PAGE_KEYS)
                .with_revision(revision);
            let page = self
                .read(deadline, |mut kv| {
                    let (from, options) = (from.clone(), options.clone());
                    async move { kv.get(from, Some(options)).await }
                })
                .await?;
            if revision == 0 {
                revision = page.header().map_or(0, |header| header.revision());
            }
            entries.extend(page.kvs().iter().map(Entry::from));
            match page.kvs().last() {
                Some(last) if page.more() => {
                    from = last.key().to_vec();
                    from.push(0);
                }
                _ => return Ok((revision, entries)),
            }
        }
    }

    /// One key, as of a revision that no later write precedes; `None` if it is absent.
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, ReadError> {
        let answer = self
            .read(Instant::now() + DEADLINE, |mut kv| {
                let key = key.to_owned();
                async move { kv.get(key, None).await }
            })
            .await?;
        Ok(answer.kvs().first().map(Entry::from))
    }

    async fn read<T, F>(
        &self,
        deadline: Instant,
        mut call: impl FnMut(KvClient) -> F,
    ) -> Result<T, ReadError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut pause = Pause::default();
        loop {
            let kv = self.kv();
            let error = match tokio::time::timeout_at(attempt_end(deadline), call(kv)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => match classify(&error) {
                    Class::Compacted => return Err(ReadError::Compacted),
                    Class::Refused | Class::Fatal => {
                        return Err(ReadError::Refused(error.to_string()));
                    }
                    _ => error.to_string(),
                },
                Err(_) => "no answer in time".to_owned(),
            };
            if !pause.wait(&self.random, deadline).await {
                return Err(ReadError::Unavailable(error));
            }
        }
    }

    /// Makes a txn and returns the revision at which it was made.
    ///
    /// * errors: every variant of [`CommitError`]; only `Unknown` leaves the outcome open.
    /// * effects: durable on etcd's majority. Dropping the future leaves the outcome open.
    pub async fn commit(&self, txn: &Txn) -> Result<i64, CommitError> {
        debug_assert!(
            txn.expects.iter().any(|(key, _)| {
                txn.deletes.contains(key) || txn.puts.iter().any(|put| put.key == *key)
            }),
            "a txn compares a key that it writes"
        );
        let deadline = Instant::now() + DEADLINE;
        let mut pause = Pause::default();
        let mut in_doubt = false;
        loop {
            let mut kv = self.kv();
            let sent = kv.txn(txn.encode());
            let error = match tokio::time::timeout_at(attempt_end(deadline), sent).await {
                Ok(Ok(answer)) => {
                    let revision = answer.header().map_or(0, |header| header.revision());
                    return match answer.succeeded() {
                        true => Ok(revision),
                        false if in_doubt => self.settle(txn, revision).await,
                        false => Err(CommitError::Conflict { revision }),
                    };
                }
                Ok(Err(error)) => {
                    match classify(&error) {
                        Class::NotSent | Class::NotApplied => {}
                        Class::Unknown => in_doubt = true,
                        Class::LeaseGone if !in_doubt => return Err(CommitError::LeaseGone),
                        Class::LeaseGone => return self.settle(txn, 0).await,
                        Class::Compacted | Class::Refused | Class::Fatal if !in_doubt => {
                            return Err(CommitError::Refused(error.to_string()));
                        }
                        Class::Compacted | Class::Refused | Class::Fatal => {
                            return Err(CommitError::Unknown(error.to_string()));
                        }
                    }
                    error.to_string()
                }
                Err(_) => {
                    in_doubt = true;
                    "no answer in time".to_owned()
                }
            };
            if !pause.wait(&self.random, deadline).await {
                return Err(match in_doubt {
                    true => CommitError::Unknown(error),
                    false => CommitError::Unavailable(error),
                });
            }
        }
    }

    /// Says whether a txn that was perhaps made was made: its values are there, all written by one
    /// revision, and what it deletes is gone.
    async fn settle(&self, txn: &Txn, conflict: i64) -> Result<i64, CommitError> {
        let reads: Vec<TxnOp> = txn
            .puts
            .iter()
            .map(|put| &put.key)
            .chain(&txn.deletes)
            .map(|key| TxnOp::get(key.as_str(), None))
            .collect();
        let answer = self
            .read(Instant::now() + DEADLINE, |mut kv| {
                let question = etcd_client::Txn::new().and_then(reads.clone());
                async move { kv.txn(question).await }
            })
            .await
            .map_err(|error| CommitError::Unknown(error.to_string()))?;
        let found: Vec<Option<Entry>> = answer
            .op_responses()
            .iter()
            .map(|response| match response {
                TxnOpResponse::Get(get) => get.kvs().first().map(Entry::from),
                _ => None,
            })
            .collect();
        let (put, deleted) = found.split_at(txn.puts.len().min(found.len()));
        let revision = put
            .first()
            .and_then(|entry| entry.as_ref())
            .map_or(conflict, |entry| entry.modify);
        let made = put.len() == txn.puts.len()
            && put.iter().zip(&txn.puts).all(|(entry, put)| {
                entry.as_ref().is_some_and(|entry| {
                    entry.value == put.value.as_bytes() && entry.modify == revision
                })
            })
            && deleted.iter().all(Option::is_none);
        match made {
            true => Ok(revision),
            false => Err(CommitError::Conflict { revision: conflict }),
        }
    }

    fn kv(&self) -> KvClient {
        self.client
            .kv_client()
            .max_decoding_message_size(ANSWER_BYTES_MAX)
    }
}

impl Txn {
    fn encode(&self) -> etcd_client::Txn {
        let compares: Vec<Compare> = self
            .expects
            .iter()
            .map(|(key, expect)| {
                let key = key.as_str();
                match *expect {
                    Expect::Absent => Compare::create_revision(key, CompareOp::Equal, 0),
                    Expect::Modified(at) => Compare::mod_revision(key, CompareOp::Equal, at),
                    Expect::Created(at) => Compare::create_revision(key, CompareOp::Equal, at),
                }
            })
            .collect();
        let puts = self.puts.iter().map(|put| {
            let options = (put.lease != 0).then(|| PutOptions::new().with_lease(put.lease));
            TxnOp::put(put.key.as_str(), put.value.as_str(), options)
        });
        let deletes = self
            .deletes
            .iter()
            .map(|key| TxnOp::delete(key.as_str(), None));
        let operations: Vec<TxnOp> = puts.chain(deletes).collect();
        etcd_client::Txn::new().when(compares).and_then(operations)
    }
}

/// The first key behind all with the prefix.
fn range_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

fn attempt_end(deadline: Instant) -> Instant {
    deadline.min(Instant::now() + ATTEMPT)
}

/// Waits between attempts: up to 25 ms, doubling to 1 s, with full jitter.
#[derive(Debug)]
struct Pause {
    up_to: Duration,
}

impl Default for Pause {
    fn default() -> Self {
        Self {
            up_to: Duration::from_millis(25),
        }
    }
}

impl Pause {
    /// Waits, unless the deadline would pass; says whether it waited.
    async fn wait(&mut self, random: &Random, deadline: Instant) -> bool {
        let pause = Duration::from_micros(random.below(self.up_to.as_micros() as u64));
        self.up_to = (self.up_to * 2).min(Duration::from_secs(1));
        if Instant::now() + pause >= deadline {
            return false;
        }
        tokio::time::sleep(pause).await;
        true
    }
}
