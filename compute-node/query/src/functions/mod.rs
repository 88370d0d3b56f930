//! Functions that statements may call: DataFusion's, without those that reach outside the tenant's
//! rows, with bounds on those that make much of little, and a few of our own that know about time.
//!
//! Rooms: `time_bucket`, `first_last`, `wrapped` (bounds, and predicates on buckets turned into
//! ranges of time), `size` (how much a call would make).

mod first_last;
mod size;
mod time_bucket;
mod wrapped;

use std::sync::Arc;

use datafusion::catalog::TableFunction;
use datafusion::execution::SessionStateDefaults;
use datafusion::logical_expr::planner::ExprPlanner;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF};

/// Functions that would show where things lie.
const WITHHELD: [&str; 2] = ["input_file_name", "arrow_metadata"];

/// Scalar functions.
pub(crate) fn scalar() -> Vec<Arc<ScalarUDF>> {
    let known = SessionStateDefaults::default_scalar_functions().into_iter();
    let mut functions: Vec<_> = known
        .filter(|function| !WITHHELD.contains(&function.name()))
        .map(wrapped::wrap)
        .collect();
    functions.push(time_bucket::udf());
    functions
}

/// Aggregate functions.
pub(crate) fn aggregate() -> Vec<Arc<AggregateUDF>> {
    let mut functions = SessionStateDefaults::default_aggregate_functions();
    functions.extend(first_last::udafs());
    functions
}

/// What plans calls that are written in another way than they run.
pub(crate) fn planners() -> Vec<Arc<dyn ExprPlanner>> {
    let mut planners = SessionStateDefaults::default_expr_planners();
    planners.push(Arc::new(first_last::FirstLast));
    planners
}

/// Functions that stand in FROM.
pub(crate) fn table() -> Vec<Arc<TableFunction>> {
    let known = SessionStateDefaults::default_table_functions().into_iter();
    known.map(|function| size::bounded(&function)).collect()
}
