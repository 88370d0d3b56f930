//! Hands committed entries to the apply thread, and its outcomes to whoever proposed them.
//!
//! The state itself is what would be sent to another member, so "taking a snapshot" is making it
//! durable: after that the log before it can go.

use std::io;

use futures::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};

use super::membership;
use super::types::{LogId, Payload, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};
use crate::apply::{Applier, Committed};
use crate::mvcc::Store;
use crate::proposal::Content;

const BATCH_ENTRIES: usize = 1000;
const BATCH_BYTES: usize = 1 << 20;

/// The replicated state of one member, as Raft sees it.
#[derive(Clone)]
pub(crate) struct Machine {
    store: Store,
    applier: Applier,
}

impl Machine {
    pub(crate) fn new(store: Store, applier: Applier) -> Self {
        Self { store, applier }
    }

    fn position(&self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let view = self.store.view().map_err(io::Error::other)?;
        let applied = view.applied().map_err(io::Error::other)?;
        let applied = applied.map(|(term, index)| LogId::new_term_index(term, index));
        let members = match view.membership().map_err(io::Error::other)? {
            None => StoredMembership::default(),
            Some((term, index, bytes)) => {
                let members = membership::decode(&bytes).map_err(io::Error::other)?;
                StoredMembership::new(Some(LogId::new_term_index(term, index)), members)
            }
        };
        Ok((applied, members))
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = ();
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        self.position()
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        loop {
            let mut batch = Vec::new();
            let mut responders = Vec::new();
            let mut bytes = 0;
            while batch.len() < BATCH_ENTRIES
                && bytes < BATCH_BYTES
                && let Some((entry, responder)) = entries.try_next().await?
            {
                let content = match entry.payload {
                    Payload::Blank => Content::Blank,
                    Payload::Normal(proposal) => Content::Normal(proposal.0),
                    Payload::Membership(members) => {
                        Content::Membership(membership::encode(&members))
                    }
                };
                bytes += content.len();
                batch.push(Committed {
                    term: entry.log_id.leader_id.term,
                    index: entry.log_id.index,
                    content,
                });
                responders.push(responder);
            }
            if batch.is_empty() {
                return Ok(());
            }
            let outcomes = self.applier.apply(batch).await?;
            for (responder, outcome) in responders.into_iter().zip(outcomes) {
                if let Some(responder) = responder {
                    responder.send(outcome);
                }
            }
        }
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        _snapshot: (),
    ) -> Result<(), io::Error> {
        Err(io::Error::other(format!("a snapshot from nowhere: {meta}")))
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        Ok(None)
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let (last_log_id, last_membership) = self.position()?;
        self.applier.make_durable().await?;
        Ok(Snapshot {
            meta: SnapshotMeta {
                last_log_id,
                last_membership,
            },
            snapshot: (),
        })
    }
}
