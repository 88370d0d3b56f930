//! What one txn writes, and what it rests on.
//!
//! Every key that is written or named by [`Change::rests_on`] is compared, when the change is
//! committed, with the revision at which the model had it. So a change whose model was out of date
//! does not happen, and none can happen twice.
//!
//! Never here: a call to etcd, or the guard of the leader, which [`crate::reign`] adds.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::Model;
#[cfg(test)]
use super::{Revisions, Stored};
use crate::keys::{Counter, Key};

/// How long a key lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Until it is deleted.
    Always,
    /// As long as the record of an ended procedure: seven to eight days.
    Past,
    /// As long as a caller's own key: one to two hours.
    Request,
}

/// What becomes of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// It gets a value.
    Put {
        /// One-line JSON.
        value: String,
        /// How long it lives.
        keep: Keep,
    },
    /// It goes.
    Delete,
}

/// What one txn writes, and what it rests on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    writes: BTreeMap<Key, Write>,
    rests: BTreeSet<Key>,
}

impl Change {
    /// A change of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes a value; a second write of the key takes the place of the first.
    pub fn put(&mut self, key: Key, value: &impl Serialize) -> &mut Self {
        self.put_for(key, value, Keep::Always)
    }

    /// Writes a value that goes by itself.
    pub fn put_for(&mut self, key: Key, value: &impl Serialize, keep: Keep) -> &mut Self {
        let value = serde_json::to_string(value)
            .unwrap_or_else(|error| unreachable!("values are plain data: {error}"));
        self.writes.insert(key, Write::Put { value, keep });
        self
    }

    /// Removes a key.
    pub fn delete(&mut self, key: Key) -> &mut Self {
        self.writes.insert(key, Write::Delete);
        self
    }

    /// Makes the change depend on the key being as it is in the model.
    pub fn rests_on(&mut self, key: Key) -> &mut Self {
        self.rests.insert(key);
        self
    }

    /// Takes `count` ids of a counter and returns the first.
    pub fn take_ids(&mut self, model: &Model, counter: Counter, count: u64) -> u64 {
        let first = model.next_id(counter);
        self.put(Key::Next(counter), &(first + count));
        first
    }

    /// Raises the number of the topology and returns it.
    pub fn raise_topology(&mut self, model: &Model) -> u64 {
        let mut topology = model.topology.clone().unwrap_or(super::values::Number {
            number: 0,
            unknown: super::values::Unknown::default(),
        });
        topology.number += 1;
        self.put(Key::Topology, &topology);
        topology.number
    }

    /// Adds another change to this one.
    pub fn and(&mut self, other: Self) -> &mut Self {
        self.writes.extend(other.writes);
        self.rests.extend(other.rests);
        self
    }

    /// What is written.
    pub fn writes(&self) -> &BTreeMap<Key, Write> {
        &self.writes
    }

    /// Every key that is compared: those written and those it rests on.
    pub fn compared(&self) -> impl Iterator<Item = &Key> {
        let only_rests = self
            .rests
            .iter()
            .filter(|key| !self.writes.contains_key(*key));
        self.writes.keys().chain(only_rests)
    }

    /// The model with this change made at the revision after its own: what a txn does, in memory.
    #[cfg(test)]
    pub(crate) fn applied_to(&self, model: &Model) -> Model {
        let revision = model.revision + 1;
        let changes = self.writes.iter().map(|(key, write)| {
            let stored = match write {
                Write::Delete => None,
                Write::Put { value, .. } => Some(Stored {
                    revisions: Revisions {
                        create: model
                            .revisions(key)
                            .map_or(revision, |revisions| revisions.create),
                        modify: revision,
                    },
                    value: value.clone().into_bytes(),
                }),
            };
            (key.clone(), stored)
        });
        let mut next = model.clone();
        next.apply(revision, changes.collect());
        next
    }
}
