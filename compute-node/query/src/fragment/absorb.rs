//! Moves operators to the nodes whose rows they work on.
//!
//! From the leaves up: an operator that treats each stream of its input by itself may as well stand
//! under a [`RemoteExec`] as above it, and one above a union of several inputs may as well stand above
//! each of them. Where all rows come from one node in one stream, any operator with one input may move.
//! An operator moves only if its part of the plan survives the way there and back.
//!
//! Never here: a change of what a plan answers.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::execution::TaskContext;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::execution_plan::replace_children_if_necessary;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, Partitioning};

use super::codec;
use super::remote::{FoundScan, RemoteExec};

/// The rule; it knows the functions that every node has.
#[derive(Debug)]
pub(crate) struct Absorb {
    functions: Arc<TaskContext>,
}

impl Absorb {
    /// * functions: a task that knows all functions a plan may call.
    pub(crate) fn new(functions: Arc<TaskContext>) -> Self {
        Self { functions }
    }

    /// The operator, standing on the other side of what it stands on; `None` if it has to stay.
    fn moved(&self, plan: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let children = plan.children();
        let [input] = children.as_slice() else {
            return Ok(None);
        };
        let input = through_exchange(plan, input);
        if let Some(remote) = input.downcast_ref::<RemoteExec>() {
            let streams = remote.properties().output_partitioning().partition_count();
            let moves = by_stream(plan) || gathers(plan) || (streams == 1 && of_one_stream(plan));
            return match moves {
                true => self.under(plan, remote),
                false => Ok(None),
            };
        }
        let Some(union) = input.downcast_ref::<UnionExec>() else {
            return Ok(None);
        };
        let inputs = union.children();
        if !by_stream(plan) || !inputs.iter().any(|input| input.is::<RemoteExec>()) {
            return Ok(None);
        }
        let mut above = Vec::with_capacity(inputs.len());
        for input in inputs {
            let moved = match input.downcast_ref::<RemoteExec>() {
                Some(remote) => self.under(plan, remote)?,
                None => None,
            };
            above.push(match moved {
                Some(moved) => moved,
                None => replace_children_if_necessary(Arc::clone(plan), vec![Arc::clone(input)])?,
            });
        }
        UnionExec::try_new(above).map(Some)
    }

    /// The operator as the top of the part that runs on the other node, if it can travel.
    fn under(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        remote: &RemoteExec,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        if !remote.plans() {
            return Ok(None);
        }
        let part = Arc::clone(remote.part());
        let part = replace_children_if_necessary(Arc::clone(plan), vec![part])?;
        Ok(match self.travels(&part) {
            true => Some(Arc::new(remote.with_part(part))),
            false => None,
        })
    }

    /// Whether the other node would make the same of the part.
    fn travels(&self, part: &Arc<dyn ExecutionPlan>) -> bool {
        let Some(leaf) = leaf(part) else {
            return false;
        };
        let sent = codec::encode(part);
        let arrived = sent.and_then(|bytes| {
            let leaf = Arc::clone(&leaf);
            codec::decode(
                &bytes,
                &self.functions,
                Arc::new(move |_| Ok(Arc::clone(&leaf))),
            )
        });
        arrived.is_ok_and(|arrived| arrived.schema() == part.schema())
    }
}

/// The scan under a part.
fn leaf(part: &Arc<dyn ExecutionPlan>) -> Option<Arc<dyn ExecutionPlan>> {
    let mut at = part;
    loop {
        match at.children().as_slice() {
            [] => return at.is::<FoundScan>().then(|| Arc::clone(at)),
            [input] => at = input,
            _ => return None,
        }
    }
}

/// An exchange that only spreads work over streams is left out below an operator that can work where
/// its rows are.
fn through_exchange<'a>(
    plan: &Arc<dyn ExecutionPlan>,
    input: &'a Arc<dyn ExecutionPlan>,
) -> &'a Arc<dyn ExecutionPlan> {
    let Some(exchange) = input.downcast_ref::<RepartitionExec>() else {
        return input;
    };
    let spreads = matches!(exchange.partitioning(), Partitioning::RoundRobinBatch(_));
    let below = exchange.input();
    let remote = |input: &Arc<dyn ExecutionPlan>| input.is::<RemoteExec>();
    let away =
        remote(below) || (below.is::<UnionExec>() && below.children().into_iter().any(remote));
    match spreads && away && by_stream(plan) {
        true => below,
        false => input,
    }
}

/// Operators that work on each stream by itself.
fn by_stream(plan: &Arc<dyn ExecutionPlan>) -> bool {
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        return *aggregate.mode() == AggregateMode::Partial;
    }
    if let Some(sort) = plan.downcast_ref::<SortExec>() {
        return sort.preserve_partitioning();
    }
    plan.is::<FilterExec>()
        || plan.is::<ProjectionExec>()
        || plan.is::<LocalLimitExec>()
        || plan.is::<CooperativeExec>()
}

/// Operators that make one stream of several.
fn gathers(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.is::<CoalescePartitionsExec>() || plan.is::<SortPreservingMergeExec>()
}

/// Operators that work on one stream.
fn of_one_stream(plan: &Arc<dyn ExecutionPlan>) -> bool {
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        return matches!(
            aggregate.mode(),
            AggregateMode::Single | AggregateMode::SinglePartitioned
        );
    }
    plan.is::<SortExec>() || plan.is::<GlobalLimitExec>()
}

impl PhysicalOptimizerRule for Absorb {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let moved = plan.transform_up(|plan| {
            Ok(match self.moved(&plan)? {
                Some(moved) => Transformed::yes(moved),
                None => Transformed::no(plan),
            })
        })?;
        Ok(moved.data)
    }

    fn name(&self) -> &str {
        "absorb"
    }

    fn schema_check(&self) -> bool {
        true
    }
}
