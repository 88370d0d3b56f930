//! Reads of tablets, wherever they are led.
//!
//! Rooms: [`places`] (where a statement reads each tablet, and its snapshots), [`hold`] (a statement's
//! hold on another node), [`door`] (what this node does for statements of others), [`status`] (failures
//! as gRPC's status and back).
//!
//! Never here: a plan, which is for `auxo_query` to make and to divide.

pub mod door;
pub(crate) mod hold;
pub mod places;
mod status;

/// Bytes of one message between nodes: a few batches of rows, or a plan.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 << 20;
