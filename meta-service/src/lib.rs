//! Floor 3: decides which shard is where, and keeps what the cluster is made of.
//!
//! Truth about what should be is in etcd, truth about what is comes from the nodes, and what may be
//! acknowledged is decided by a shard's log alone. So a meta service that is wrong, late, doubled or
//! dead costs time, never an acknowledged row.
//!
//! Rooms: [`keys`] (every key) · [`model`] (typed values and the mirror) · [`store`] (the resilient
//! etcd client) · `election` (campaigns) · [`reign`] (guarded writes of one leadership) · [`lead`] (what a
//! leader does) · [`cluster`] (what nodes say; pure) · [`placement`] (pure) · [`ddl`] (checks; pure)
//! · [`scheduler`] · [`sessions`] (node streams) · [`published`] (the
//! topology they are sent) · [`procedure`] · [`api`] · [`server`] · [`conformance`] (the suite that it
//! passes on every etcd).
//!
//! Never here: a row, a query, a log or a file of a shard.

pub mod api;
pub mod cluster;
pub mod conformance;
pub mod ddl;
mod election;
pub mod keys;
pub mod lead;
pub mod model;
pub mod placement;
pub mod procedure;
pub mod published;
pub mod reign;
pub mod scheduler;
pub mod server;
pub mod sessions;
pub mod store;

pub use server::{MetaConfig, MetaServer, StartError};
