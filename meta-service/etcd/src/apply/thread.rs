//! The apply thread: transactions, durability, removal of compacted versions.
//!
//! An error while it writes ends it: half a transaction is never built upon, and every later command
//! gets an error.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use redb::Durability;
use tokio::sync::watch;
use tokio::time::Instant;

use super::entry::{self, Effects, LeaseChange, Position};
use super::{Applied, Command, Committed, Pace};
use crate::lease::Lessor;
use crate::mvcc::compact;
use crate::mvcc::{Fault, MetaKey, Store, Tables, View};
use crate::proposal::Content;
use crate::watch::Feed;

pub(super) struct Thread {
    store: Store,
    feed: Arc<Feed>,
    lessor: Arc<Lessor>,
    pace: Pace,
    /// Told up to which boundary compacted versions are gone.
    removed: watch::Sender<i64>,
    position: Position,
    /// Since when commits are not durable, and how many operations they hold.
    volatile: Option<(Instant, usize)>,
    next_step: Instant,
}

impl Thread {
    pub(super) fn new(
        store: Store,
        feed: Arc<Feed>,
        lessor: Arc<Lessor>,
        pace: Pace,
        removed: watch::Sender<i64>,
    ) -> io::Result<Self> {
        let position = position(&store).map_err(io::Error::other)?;
        if position.removal.is_none() {
            removed.send_replace(position.compacted);
        }
        Ok(Self {
            store,
            feed,
            lessor,
            pace,
            removed,
            position,
            volatile: None,
            next_step: Instant::now(),
        })
    }

    /// Works until every sender is dropped, or the state cannot be written.
    pub(super) fn run(mut self, waiting: &Receiver<Command>) {
        loop {
            let next = match self.due_in() {
                None => waiting.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => waiting.recv_timeout(due),
            };
            let worked = match next {
                Ok(command) => self.obey(command),
                Err(RecvTimeoutError::Timeout) => Ok(()),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if let Err(error) = worked.and_then(|()| self.background()) {
                tracing::error!(%error, "cannot write the state");
                return;
            }
        }
        if let Err(error) = self.make_durable() {
            tracing::error!(%error, "cannot make the state durable");
        }
    }

    /// How long until something is to be done without being told.
    fn due_in(&self) -> Option<Duration> {
        let durable = self
            .volatile
            .map(|(since, _)| since + self.pace.durable_every);
        let step = self.position.removal.map(|_| self.next_step);
        let due = durable.into_iter().chain(step).min()?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    fn obey(&mut self, command: Command) -> Result<(), Fault> {
        match command {
            Command::Apply(entries, done) => match self.apply(&entries) {
                Ok(outcomes) => drop(done.send(Ok(outcomes))),
                Err(fault) => {
                    drop(done.send(Err(io::Error::other(fault.to_string()))));
                    return Err(fault);
                }
            },
            Command::MakeDurable(done) => match self.make_durable() {
                Ok(()) => drop(done.send(Ok(()))),
                Err(fault) => {
                    drop(done.send(Err(io::Error::other(fault.to_string()))));
                    return Err(fault);
                }
            },
        }
        Ok(())
    }

    fn background(&mut self) -> Result<(), Fault> {
        if self.position.removal.is_some() && Instant::now() >= self.next_step {
            self.remove_some()?;
        }
        if let Some((since, _)) = self.volatile
            && since.elapsed() >= self.pace.durable_every
        {
            self.make_durable()?;
        }
        Ok(())
    }

    fn apply(&mut self, entries: &[Committed]) -> Result<Vec<Applied>, Fault> {
        let ops = entries.len() + self.volatile.map_or(0, |(_, ops)| ops);
        let durability = if ops >= self.pace.durable_every_ops {
            Durability::Immediate
        } else {
            Durability::None
        };
        let mut position = self.position;
        let mut effects = Effects::default();
        let mut outcomes = Vec::with_capacity(entries.len());
        let txn = self.store.begin_write(durability)?;
        let mut tables = Tables::open(&txn)?;
        for entry in entries {
            outcomes.push(entry::apply(
                &mut tables,
                &mut position,
                &mut effects,
                entry,
            )?);
            if let Content::Membership(bytes) = &entry.content {
                let mut row = log_position(entry);
                row.extend_from_slice(bytes);
                tables.set_meta(MetaKey::Membership, &row)?;
            }
        }
        if let Some(last) = entries.last() {
            tables.set_meta(MetaKey::Applied, &log_position(last))?;
        }
        tables.set_meta(MetaKey::Revision, &position.revision.to_le_bytes())?;
        drop(tables);
        txn.commit()?;

        if self.position.compacted != position.compacted {
            self.feed.compact(position.compacted);
        }
        self.position = position;
        self.volatile = match durability {
            Durability::Immediate => None,
            _ => Some((
                self.volatile.map_or_else(Instant::now, |(since, _)| since),
                ops,
            )),
        };
        for change in effects.leases {
            match change {
                LeaseChange::Granted { lease, ttl } => self.lessor.granted(lease, ttl),
                LeaseChange::Revoked { lease } => self.lessor.revoked(lease),
            }
        }
        self.feed.publish(effects.changes);
        Ok(outcomes)
    }

    fn remove_some(&mut self) -> Result<(), Fault> {
        let Some(removal) = self.position.removal else {
            return Ok(());
        };
        let txn = self.store.begin_write(Durability::None)?;
        let mut tables = Tables::open(&txn)?;
        let rest = compact::step(&mut tables, removal, self.pace.versions_per_step)?;
        drop(tables);
        txn.commit()?;
        self.position.removal = rest;
        self.next_step = Instant::now() + self.pace.pause;
        self.volatile.get_or_insert_with(|| (Instant::now(), 0));
        if rest.is_none() {
            self.removed.send_replace(removal.upto);
        }
        Ok(())
    }

    /// A durable commit makes all commits before it durable, so it need not change anything itself.
    fn make_durable(&mut self) -> Result<(), Fault> {
        if self.volatile.take().is_some() {
            let txn = self.store.begin_write(Durability::Immediate)?;
            let mut tables = Tables::open(&txn)?;
            tables.set_meta(MetaKey::Revision, &self.position.revision.to_le_bytes())?;
            drop(tables);
            txn.commit()?;
        }
        Ok(())
    }
}

fn log_position(entry: &Committed) -> Vec<u8> {
    let mut bytes = entry.term.to_le_bytes().to_vec();
    bytes.extend_from_slice(&entry.index.to_le_bytes());
    bytes
}

fn position(store: &Store) -> Result<Position, Fault> {
    let view = store.view()?;
    let txn = store.begin_write(Durability::None)?;
    let removal = compact::pending(&Tables::open(&txn)?)?;
    txn.abort()?;
    Ok(Position {
        revision: view.revision(),
        compacted: view.compacted(),
        removal,
    })
}
