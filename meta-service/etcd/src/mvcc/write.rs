//! Putting and deleting within one revision.
//!
//! A [`Writer`] makes the changes of one log entry. They all carry the revision after the one it
//! began at, numbered by `sub` in the order they are made. With no change there is no revision.

use etcd_client::EventType;
use etcd_client::proto::{
    PbDeleteRequest, PbDeleteResponse, PbEvent, PbKeyValue, PbPutRequest, PbPutResponse,
    PbResponseHeader,
};
use prost::Message;
use redb::ReadableTable;

use super::range::{lease_keys, point, range};
use super::tables::{KeyRow, LeaseRow, OldRow, Tables, View};
use super::{Fault, Refusal};

/// The changes of one entry, as they are made.
pub(crate) struct Writer<'a, 'txn> {
    tables: &'a mut Tables<'txn>,
    began_at: i64,
    compacted: i64,
    events: Vec<PbEvent>,
}

impl<'a, 'txn> Writer<'a, 'txn> {
    pub(crate) fn new(tables: &'a mut Tables<'txn>, revision: i64, compacted: i64) -> Self {
        Self {
            tables,
            began_at: revision,
            compacted,
            events: Vec::new(),
        }
    }

    /// What was changed, in order; all of it at the revision after the one begun at.
    pub(crate) fn into_events(self) -> Vec<PbEvent> {
        self.events
    }

    fn header(&self) -> Option<PbResponseHeader> {
        Some(PbResponseHeader {
            revision: self.revision(),
            ..Default::default()
        })
    }

    fn next(&self) -> (i64, u32) {
        (self.began_at + 1, self.events.len() as u32)
    }

    /// * errors: `LeaseNotFound`, then `KeyNotFound` for an ignored field of a missing key. (A txn
    ///   checks in the other order, as etcd does.)
    pub(crate) fn put(&mut self, request: &PbPutRequest) -> Result<PbPutResponse, Fault> {
        check_lease(self, request)?;
        check_key(self, request)?;
        let row = self
            .tables
            .key
            .get(request.key.as_slice())?
            .map(|row| row.value());
        let before = match row {
            Some(_) if request.ignore_value || request.prev_kv => point(self, &request.key)?,
            _ => None,
        };
        let value = match &before {
            Some(before) if request.ignore_value => before.value.clone(),
            _ => request.value.clone(),
        };
        let lease = match row {
            Some(row) if request.ignore_lease => row.4,
            _ => request.lease,
        };
        let (main, sub) = self.next();
        let kv = PbKeyValue {
            key: request.key.clone(),
            create_revision: row.map_or(main, |row| row.0),
            mod_revision: main,
            version: row.map_or(1, |row| row.3 + 1),
            value,
            lease,
        };
        let key = kv.key.as_slice();
        self.tables
            .key
            .insert(key, (kv.create_revision, main, sub, kv.version, lease))?;
        self.tables
            .old
            .insert((key, main, sub), (kv.create_revision, kv.version, false))?;
        let attached_to = row.map_or(0, |row| row.4);
        if attached_to != lease {
            if attached_to != 0 {
                self.tables.lease_key.remove((attached_to, key))?;
            }
            if lease != 0 {
                self.tables.lease_key.insert((lease, key), ())?;
            }
        }
        self.push(EventType::Put, kv)?;
        Ok(PbPutResponse {
            header: self.header(),
            prev_kv: before.filter(|_| request.prev_kv),
        })
    }

    pub(crate) fn delete(&mut self, request: &PbDeleteRequest) -> Result<PbDeleteResponse, Fault> {
        let all = etcd_client::proto::PbRangeRequest {
            key: request.key.clone(),
            range_end: request.range_end.clone(),
            keys_only: !request.prev_kv,
            ..Default::default()
        };
        let found = range(self, &all)?.kvs;
        for kv in &found {
            self.delete_one(kv)?;
        }
        Ok(PbDeleteResponse {
            header: self.header(),
            deleted: found.len() as i64,
            prev_kvs: if request.prev_kv { found } else { Vec::new() },
        })
    }

    fn delete_one(&mut self, kv: &PbKeyValue) -> Result<(), Fault> {
        let (main, sub) = self.next();
        let key = kv.key.as_slice();
        self.tables.key.remove(key)?;
        self.tables.old.insert((key, main, sub), (0, 0, true))?;
        if kv.lease != 0 {
            self.tables.lease_key.remove((kv.lease, key))?;
        }
        let gone = PbKeyValue {
            key: kv.key.clone(),
            mod_revision: main,
            ..Default::default()
        };
        self.push(EventType::Delete, gone)
    }

    /// Forgets a lease and deletes its keys, in their order.
    ///
    /// * errors: `LeaseNotFound`.
    pub(crate) fn revoke(&mut self, lease: i64) -> Result<(), Fault> {
        if self.tables.lease.remove(lease)?.is_none() {
            return Err(Refusal::LeaseNotFound.into());
        }
        for key in lease_keys(self, lease)? {
            self.delete_one(&PbKeyValue {
                key,
                lease,
                ..Default::default()
            })?;
        }
        Ok(())
    }

    /// * errors: `LeaseExists`.
    pub(crate) fn grant(&mut self, lease: i64, ttl: i64) -> Result<(), Fault> {
        if self.tables.lease.get(lease)?.is_some() {
            return Err(Refusal::LeaseExists.into());
        }
        self.tables.lease.insert(lease, (ttl, 0))?;
        Ok(())
    }

    fn push(&mut self, kind: EventType, kv: PbKeyValue) -> Result<(), Fault> {
        let (main, sub) = self.next();
        let event = PbEvent {
            r#type: kind as i32,
            kv: Some(kv),
            prev_kv: None,
        };
        self.tables
            .rev
            .insert((main, sub), event.encode_to_vec().as_slice())?;
        self.events.push(event);
        Ok(())
    }
}

/// Checks a put of a txn against what is there: first the key, then the lease.
pub(super) fn check_put(view: &impl View, request: &PbPutRequest) -> Result<(), Fault> {
    check_key(view, request)?;
    check_lease(view, request)
}

/// An ignored field is that of a key that must be there.
fn check_key(view: &impl View, request: &PbPutRequest) -> Result<(), Fault> {
    if (request.ignore_value || request.ignore_lease)
        && view.keys().get(request.key.as_slice())?.is_none()
    {
        return Err(Refusal::KeyNotFound.into());
    }
    Ok(())
}

fn check_lease(view: &impl View, request: &PbPutRequest) -> Result<(), Fault> {
    if request.lease != 0 && view.leases().get(request.lease)?.is_none() {
        return Err(Refusal::LeaseNotFound.into());
    }
    Ok(())
}

impl View for Writer<'_, '_> {
    fn revision(&self) -> i64 {
        self.began_at + i64::from(!self.events.is_empty())
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
