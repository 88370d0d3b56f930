//! The least and the greatest float of each group, in the order in which floats are sorted.
//!
//! DataFusion (55, `min_max.rs`) begins a group with the largest finite float, so that infinities are lost,
//! and takes a NaN or what comes behind one without comparing them.

use std::cmp::Ordering;

use datafusion::arrow::array::{ArrowNativeTypeOp, ArrowPrimitiveType};
use datafusion::arrow::datatypes::{DataType, Float16Type, Float32Type, Float64Type};
use datafusion::logical_expr::GroupsAccumulator;
use datafusion_functions_aggregate_common::aggregate::groups_accumulator::prim_op::PrimitiveGroupsAccumulator;

const MIN: &str = "min";
const MAX: &str = "max";

/// Whether groups of floats of the function are answered here.
pub(super) fn answers(name: &str) -> bool {
    [MIN, MAX].contains(&name)
}

/// What answers for groups of a float; `None` for every other function and type.
pub(super) fn of_groups(name: &str, ty: &DataType) -> Option<Box<dyn GroupsAccumulator>> {
    match (name, ty) {
        (MIN, DataType::Float16) => Some(least::<Float16Type>(ty)),
        (MIN, DataType::Float32) => Some(least::<Float32Type>(ty)),
        (MIN, DataType::Float64) => Some(least::<Float64Type>(ty)),
        (MAX, DataType::Float16) => Some(greatest::<Float16Type>(ty)),
        (MAX, DataType::Float32) => Some(greatest::<Float32Type>(ty)),
        (MAX, DataType::Float64) => Some(greatest::<Float64Type>(ty)),
        _ => None,
    }
}

fn least<T: ArrowPrimitiveType + Send>(ty: &DataType) -> Box<dyn GroupsAccumulator> {
    keeping::<T>(ty, Ordering::Less, T::Native::MAX_TOTAL_ORDER)
}

fn greatest<T: ArrowPrimitiveType + Send>(ty: &DataType) -> Box<dyn GroupsAccumulator> {
    keeping::<T>(ty, Ordering::Greater, T::Native::MIN_TOTAL_ORDER)
}

/// Keeps, of each group, the value that compares so with every other one; `first` is where all of them do.
fn keeping<T: ArrowPrimitiveType + Send>(
    ty: &DataType,
    kept: Ordering,
    first: T::Native,
) -> Box<dyn GroupsAccumulator> {
    let keep = move |held: &mut T::Native, value: T::Native| {
        if value.compare(*held) == kept {
            *held = value;
        }
    };
    let groups = PrimitiveGroupsAccumulator::<T, _>::new(ty, keep);
    Box::new(groups.with_starting_value(first))
}
