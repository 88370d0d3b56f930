//! Which batches a shard has applied, so that a repeated one is not applied again.
//!
//! The table is a function of the valid log alone: the smallest id leaves first, and low water is
//! the largest id that left. It is rebuilt by replay from what the manifest keeps.
//!
//! Never here: batches still in flight, or clocks.

use std::collections::{BTreeMap, HashMap};

use auxo_proto::ids::{BatchId, Seq, TenantId};
use auxo_sst::manifest::{BatchEntry, BatchTable, TenantBatches};

/// Ids kept per tenant and shard.
pub const IDS_MAX: usize = 65_536;

/// What the table says of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Never seen: apply it.
    New,
    /// Applied with the same body, as part of the record with this sequence.
    Applied(Seq),
    /// Its id was used with another body.
    Conflict,
    /// At or below low water: nobody can tell any more.
    Expired,
}

#[derive(Clone, Debug, Default)]
struct OfTenant {
    low_water: Option<BatchId>,
    entries: BTreeMap<BatchId, (u64, Seq)>,
}

/// The batches applied by one shard.
#[derive(Clone, Debug, Default)]
pub struct Batches {
    tenants: HashMap<TenantId, OfTenant>,
}

impl Batches {
    /// The table a manifest keeps.
    pub fn of_manifest(table: &BatchTable) -> Self {
        let tenants = table.tenants.iter().map(|tenant| {
            let entries = tenant.entries.iter();
            let entries = entries
                .map(|entry| (entry.id, (entry.body_hash, entry.seq)))
                .collect();
            (
                tenant.tenant,
                OfTenant {
                    low_water: tenant.low_water,
                    entries,
                },
            )
        });
        Self {
            tenants: tenants.collect(),
        }
    }

    /// The table as a manifest keeps it, tenants and ids ascending.
    pub fn to_manifest(&self) -> BatchTable {
        let mut tenants: Vec<TenantBatches> = self
            .tenants
            .iter()
            .map(|(&tenant, table)| TenantBatches {
                tenant,
                low_water: table.low_water,
                entries: table
                    .entries
                    .iter()
                    .map(|(&id, &(body_hash, seq))| BatchEntry { id, body_hash, seq })
                    .collect(),
            })
            .collect();
        tenants.sort_by_key(|tenant| tenant.tenant);
        BatchTable { tenants }
    }

    /// What is known of a batch.
    pub fn look_up(&self, tenant: TenantId, id: BatchId, body_hash: u64) -> Known {
        let Some(table) = self.tenants.get(&tenant) else {
            return Known::New;
        };
        match table.entries.get(&id) {
            Some(&(hash, seq)) if hash == body_hash => Known::Applied(seq),
            Some(_) => Known::Conflict,
            None if table.low_water.is_some_and(|low_water| id <= low_water) => Known::Expired,
            None => Known::New,
        }
    }

    /// Notes a batch as applied.
    pub fn insert(&mut self, tenant: TenantId, id: BatchId, body_hash: u64, seq: Seq) {
        let table = self.tenants.entry(tenant).or_default();
        table.entries.insert(id, (body_hash, seq));
        while table.entries.len() > IDS_MAX {
            let left = table.entries.pop_first().map(|(id, _)| id);
            table.low_water = table.low_water.max(left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_leaves_first_and_is_refused_afterwards() {
        let tenant = TenantId(1);
        let mut batches = Batches::default();
        for id in 1..=IDS_MAX as u128 + 2 {
            batches.insert(tenant, BatchId(id * 10), id as u64, Seq(id as u64));
        }
        assert_eq!(batches.look_up(tenant, BatchId(20), 2), Known::Expired);
        assert_eq!(batches.look_up(tenant, BatchId(5), 5), Known::Expired);
        assert_eq!(
            batches.look_up(tenant, BatchId(30), 3),
            Known::Applied(Seq(3))
        );
        assert_eq!(batches.look_up(tenant, BatchId(30), 4), Known::Conflict);
        assert_eq!(batches.look_up(tenant, BatchId(31), 3), Known::New);
        assert_eq!(batches.look_up(TenantId(2), BatchId(20), 2), Known::New);
        let again = Batches::of_manifest(&batches.to_manifest());
        assert_eq!(again.to_manifest(), batches.to_manifest());
        assert_eq!(again.look_up(tenant, BatchId(20), 2), Known::Expired);
    }
}
