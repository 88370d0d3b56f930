//! Parts of a plan that run where their rows are.
//!
//! A statement's tablets may be led by several nodes. The node that took it, the *coordinator*, plans
//! it; each scan becomes one leaf for its own tablets and one [`remote`] leaf per other node. Whatever
//! works on each stream of such a leaf by itself (filters, projections, partial aggregates, the top of
//! a sort) is then moved to its node by [`absorb`], the plan below travels by [`codec`], and only what
//! comes out of it crosses the network. On the other node [`held`] keeps the statement's snapshots and
//! runs the parts it is sent.
//!
//! * What cannot travel stays: rows come up and the coordinator computes.
//! * A scan is described once, by [`wire`]; a plan then names it by its number.
//! * Never here: a socket, which node leads what, a retry.

pub(crate) mod absorb;
pub(crate) mod codec;
pub mod held;
pub(crate) mod remote;
pub(crate) mod wire;

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use auxo_proto::error::Failure;
use auxo_proto::pb::node::{Find, Found, FragmentDone};
use futures::stream::BoxStream;

/// A part of a plan on its way to another node.
pub use auxo_proto::pb::node::fragment::Part as SentPart;
pub use codec::PLAN_FORMAT;
pub use held::Held;

/// Another node that holds snapshots for a statement.
#[async_trait]
pub trait Peer: fmt::Debug + Send + Sync {
    /// Its name, for EXPLAIN.
    fn name(&self) -> &str;

    /// Whether it understands plans of [`PLAN_FORMAT`].
    fn plans(&self) -> bool;

    /// Looks what a scan would read there, in tablets that were pinned.
    async fn find(&self, find: Find) -> Result<Found, Failure>;

    /// Runs one stream of a part of a plan there; dropping it ends the work. The stream keeps the hold.
    ///
    /// * schema: of the rows that have to come.
    fn run(self: Arc<Self>, part: SentPart, partition: u32, schema: SchemaRef) -> PartStream;
}

/// What a part of a plan yields: rows, then once what it took.
#[derive(Clone, Debug)]
pub enum Part {
    /// Some rows, and the bytes in which they came.
    Rows(RecordBatch, u64),
    /// The end.
    Done(FragmentDone),
}

/// The rows of one stream of a part of a plan. A failure is the last item.
pub type PartStream = BoxStream<'static, Result<Part, Failure>>;
