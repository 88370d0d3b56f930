//! A part of a plan as bytes and back.
//!
//! The bytes are DataFusion's own, with our leaf in them as `FragmentLeaf` of `reading.proto` and
//! our functions by name. DataFusion may change them with any release: [`PLAN_FORMAT`] names the
//! release, and nodes of different numbers send each other no plans.
//!
//! Never here: an operator of ours above a leaf; only leaves travel as extensions.

use std::fmt;
use std::sync::Arc;

use auxo_proto::pb::node::FragmentLeaf;
use bytes::Bytes;
use datafusion::common::{Result, internal_err};
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::ScalarUDF;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::bytes::{
    physical_plan_from_bytes_with_proto_converter, physical_plan_to_bytes_with_proto_converter,
};
use datafusion_proto::physical_plan::{
    DeduplicatingProtoConverter, PhysicalExtensionCodec, PhysicalProtoConverterExtension,
};
use prost::Message;

use super::remote::FoundScan;
use crate::functions::checked;

/// Number of the format in which parts of plans travel; it rises with DataFusion and with our leaf.
pub const PLAN_FORMAT: u32 = 5502;

/// Stands before the operators of checked arithmetic, which is no function that can be looked up.
const CHECKED: &str = "checked:";

/// What stands in the place of a leaf.
pub(crate) type Leaf = dyn Fn(FragmentLeaf) -> Result<Arc<dyn ExecutionPlan>> + Send + Sync;

/// The part as bytes.
///
/// * errors: something in it cannot travel.
pub(crate) fn encode(part: &Arc<dyn ExecutionPlan>) -> Result<Bytes> {
    let codec = Codec(None);
    let converter = DeduplicatingProtoConverter::default();
    physical_plan_to_bytes_with_proto_converter(Arc::clone(part), &codec, &converter)
}

/// The part that the bytes say, with leaves made by `leaf`.
pub(crate) fn decode(
    bytes: &[u8],
    task: &TaskContext,
    leaf: Arc<Leaf>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let codec = Codec(Some(leaf));
    let converter = DeduplicatingProtoConverter::default();
    physical_plan_from_bytes_with_proto_converter(bytes, task, &codec, &converter)
}

struct Codec(Option<Arc<Leaf>>);

impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Codec")
    }
}

impl PhysicalExtensionCodec for Codec {
    fn try_decode(
        &self,
        bytes: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        _: &TaskContext,
        _: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let leaf = FragmentLeaf::decode(bytes)
            .map_err(|error| DataFusionError::External(Box::new(error)))?;
        match (&self.0, inputs) {
            (Some(make), []) => make(leaf),
            _ => internal_err!("a part of a plan has leaves of ours and nothing else of ours"),
        }
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        bytes: &mut Vec<u8>,
        _: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let Some(scan) = node.downcast_ref::<FoundScan>() else {
            return internal_err!("{} does not travel", node.name());
        };
        scan.leaf()
            .encode(bytes)
            .map_err(|error| DataFusionError::External(Box::new(error)))
    }

    fn try_encode_udf(&self, function: &ScalarUDF, bytes: &mut Vec<u8>) -> Result<()> {
        if let Some(operators) = checked::operators(function) {
            bytes.extend_from_slice(CHECKED.as_bytes());
            bytes.extend_from_slice(operators.as_bytes());
        }
        Ok(())
    }

    fn try_decode_udf(&self, name: &str, bytes: &[u8]) -> Result<Arc<ScalarUDF>> {
        let text = std::str::from_utf8(bytes).ok();
        let operators = text.and_then(|text| text.strip_prefix(CHECKED));
        match operators.and_then(checked::of_operators) {
            Some(function) => Ok(function),
            None => internal_err!("no function {name}"),
        }
    }
}
