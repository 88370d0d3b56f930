//! List, then watch, for ever: a stream of changes without a gap.
//!
//! 1. List the prefix at revision R and hand it on whole.
//! 2. Watch from R + 1; hand on the events of whole revisions, in order.
//! 3. The stream breaks or falls silent: watch again from the last revision handed on, plus 1.
//! 4. That revision is compacted, or etcd's revision is lower than one seen (a restored etcd):
//!    begin again at 1.
//!
//! Never here: what the keys mean.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{EventType, WatchOptions, WatchResponse, WatchStream};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{ANSWER_BYTES_MAX, ATTEMPT, Entry, Store, range_end};

/// How often etcd is asked how far it is.
const ASK_EVERY: Duration = Duration::from_secs(10);
/// Silence after which the stream is given up.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Pause after a failure.
const PAUSE: Duration = Duration::from_millis(200);

/// A piece of what happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Batch {
    /// Everything there is; what was handed on before no longer counts.
    Whole {
        /// As of this revision.
        revision: i64,
        /// All entries, sorted by key.
        entries: Vec<Entry>,
    },
    /// What changed since the last batch, in order; `None` is a deletion.
    Changes {
        /// Up to this revision.
        revision: i64,
        /// Key and new entry.
        changes: Vec<(Vec<u8>, Option<Entry>)>,
    },
}

/// The stream of changes below a prefix.
pub struct Feed {
    store: Store,
    prefix: String,
    /// Asks etcd at once how far it is.
    nudge: Arc<Notify>,
    /// Last revision handed on; 0 asks for a listing.
    seen: i64,
    stream: Option<WatchStream>,
    /// Events of a revision that came in pieces, until its last piece.
    pieces: Vec<(Vec<u8>, Option<Entry>)>,
}

impl Feed {
    /// A stream of the prefix; waking `nudge` makes it ask etcd how far it is.
    pub fn new(store: Store, prefix: &str, nudge: Arc<Notify>) -> Self {
        Self {
            store,
            prefix: prefix.to_owned(),
            nudge,
            seen: 0,
            stream: None,
            pieces: Vec::new(),
        }
    }

    /// The next batch; waits through failures of etcd.
    ///
    /// * effects: not cancel-safe in that a dropped call may lose a piece of a revision; the one
    ///   caller loops on it until it ends for good.
    pub async fn next(&mut self) -> Batch {
        loop {
            if self.seen == 0 {
                match self.store.list(&self.prefix).await {
                    Ok((revision, entries)) => {
                        self.seen = revision;
                        self.stream = None;
                        return Batch::Whole { revision, entries };
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot list the model");
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                }
            }
            let Some(stream) = &mut self.stream else {
                self.pieces.clear();
                match self.open().await {
                    Ok(stream) => self.stream = Some(stream),
                    Err(error) => {
                        tracing::warn!(%error, "cannot watch the model");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
                continue;
            };
            match listen(stream, &self.nudge).await {
                Ok(answer) => {
                    if let Some(batch) = self.take(&answer) {
                        return batch;
                    }
                }
                Err(error) => {
                    tracing::info!(%error, "watch of the model ended, opening another");
                    self.stream = None;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn open(&self) -> Result<WatchStream, String> {
        let options = WatchOptions::new()
            .with_range(range_end(&self.prefix))
            .with_start_revision(self.seen + 1)
            .with_progress_notify()
            .with_fragment();
        let mut client = self
            .store
            .client
            .watch_client()
            .max_decoding_message_size(ANSWER_BYTES_MAX);
        let opened = client.watch(self.prefix.as_str(), Some(options));
        match tokio::time::timeout(ATTEMPT, opened).await {
            Ok(opened) => opened.map_err(|error| error.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }

    fn take(&mut self, answer: &WatchResponse) -> Option<Batch> {
        if answer.compact_revision() != 0 {
            tracing::info!(revision = self.seen, "watch was overtaken by a compaction");
            self.seen = 0;
            return None;
        }
        if answer.canceled() {
            tracing::info!(why = answer.cancel_reason(), "watch of the model cancelled");
            self.stream = None;
            return None;
        }
        let head = answer.header().map_or(0, |header| header.revision());
        if head < self.seen && head != 0 {
            tracing::warn!(
                head,
                seen = self.seen,
                "etcd went back, reading it all again"
            );
            self.seen = 0;
            return None;
        }
        if answer.created() {
            return None;
        }
        for event in answer.events() {
            let Some(kv) = event.kv() else { continue };
            let entry = match event.event_type() {
                EventType::Put => Some(Entry::from(kv)),
                EventType::Delete => None,
            };
            self.pieces.push((kv.key().to_vec(), entry));
        }
        if answer.0.fragment {
            return None;
        }
        let last = answer.events().last().and_then(|event| event.kv());
        // Only an answer without events says that everything up to its head was handed on.
        let revision = last.map_or(head, |kv| kv.mod_revision());
        self.seen = self.seen.max(revision);
        Some(Batch::Changes {
            revision: self.seen,
            changes: std::mem::take(&mut self.pieces),
        })
    }
}

/// The next answer of the stream; asks for one every ten seconds, or when nudged.
async fn listen(stream: &mut WatchStream, nudge: &Notify) -> Result<WatchResponse, String> {
    let silent_at = Instant::now() + SILENCE_MAX;
    loop {
        tokio::select! {
            answer = stream.message() => {
                return match answer {
                    Ok(Some(answer)) => Ok(answer),
                    Ok(None) => Err("stream ended".to_owned()),
                    Err(error) => Err(error.to_string()),
                };
            }
            () = nudge.notified() => {}
            () = tokio::time::sleep(ASK_EVERY) => {}
            () = tokio::time::sleep_until(silent_at) => return Err("silence".to_owned()),
        }
        let asked = stream.request_progress().await;
        asked.map_err(|error| error.to_string())?;
    }
}
