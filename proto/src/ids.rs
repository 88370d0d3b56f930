//! Newtypes of the numbers that name things. Never a bare `u64` that could be two of them.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// The customer that owns databases, tokens and quotas.
    TenantId(u64)
);
id!(
    /// A database of a tenant.
    DatabaseId(u64)
);
id!(
    /// A table; never used twice, also after a drop.
    TableId(u64)
);
id!(
    /// One table's part in a shard.
    TabletId(u64)
);
id!(
    /// The unit of scheduling.
    ShardId(u64)
);
id!(
    /// One process of the cluster.
    NodeId(u64)
);
id!(
    /// A persisted, resumable change of the model.
    ProcedureId(u64)
);
id!(
    /// A column of a table; never used twice in that table.
    ColumnId(u32)
);
id!(
    /// Number of a table's schema, rising by one with each change.
    SchemaNumber(u32)
);
id!(
    /// Orders rows across splits and merges: `base_seq + offset` of the record a row came in.
    Seq(u64)
);

/// Number of a shard's leadership: the epoch is given by meta with a compare-and-swap, `inc` is
/// raised by the same owner when it restarts or claims again. Ordered by epoch, then `inc`.
///
/// * source: docs/invariants.md, "What counts".
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Term {
    /// Number of the leadership, given by meta.
    pub epoch: u64,
    /// Number of the claim under that epoch.
    pub inc: u32,
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.inc)
    }
}

/// Name that a client gives a batch so that it is applied once: a UUIDv7 as 128 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BatchId(pub u128);

impl BatchId {
    /// Milliseconds since 1970 that the id carries in its upper 48 bits (RFC 9562 §5.7).
    pub fn unix_ms(self) -> u64 {
        (self.0 >> 80) as u64
    }
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_u128(self.0).fmt(f)
    }
}
