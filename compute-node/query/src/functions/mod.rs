//! Functions that statements may call: DataFusion's, without those that reach outside the tenant's
//! rows, with bounds on those that make much of little, and a few of our own that know about time.
//!
//! Rooms: `time_bucket`, `first_last`, `wrapped` (bounds, and predicates on buckets turned into
//! ranges of time), `size` (how much a call would make), `checked` (arithmetic that does not wrap),
//! `sum`, `sliding` (floats in frames that slide), `whole` (integers of an INSERT), `plain` (tags for
//! aggregates that know no dictionaries), `extremes` (floats by group), `amended` (aggregates that one of
//! the rooms changes).

mod amended;
pub(crate) mod checked;
mod extremes;
mod first_last;
mod plain;
mod size;
mod sliding;
mod sum;
mod time_bucket;
mod whole;
mod wrapped;

pub(crate) use checked::Integers;
pub(crate) use plain::PlainTags;
pub(crate) use time_bucket::{cut_to, is_cut_to};
pub(crate) use whole::{check_casts, fitted};

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::catalog::TableFunction;
use datafusion::common::ScalarValue;
use datafusion::execution::SessionStateDefaults;
use datafusion::logical_expr::planner::ExprPlanner;
use datafusion::logical_expr::{AggregateUDF, ColumnarValue, ScalarUDF, Volatility, create_udf};

/// Functions that would show where things lie, and one whose place ours takes.
const WITHHELD: [&str; 3] = ["input_file_name", "arrow_metadata", "version"];

/// Scalar functions.
pub(crate) fn scalar() -> Vec<Arc<ScalarUDF>> {
    let known = SessionStateDefaults::default_scalar_functions().into_iter();
    let mut functions: Vec<_> = known
        .filter(|function| !WITHHELD.contains(&function.name()))
        .map(wrapped::wrap)
        .collect();
    functions.push(time_bucket::udf());
    functions.push(version());
    functions
}

/// `version()`: the name of the database and of its release.
fn version() -> Arc<ScalarUDF> {
    const VERSION: &str = concat!("AuxoDB ", env!("CARGO_PKG_VERSION"));
    let answer = |_: &[ColumnarValue]| Ok(ColumnarValue::Scalar(ScalarValue::from(VERSION)));
    let (ty, volatility) = (DataType::Utf8, Volatility::Immutable);
    Arc::new(create_udf(
        "version",
        vec![],
        ty,
        volatility,
        Arc::new(answer),
    ))
}

/// Aggregate functions.
pub(crate) fn aggregate() -> Vec<Arc<AggregateUDF>> {
    let mut functions = SessionStateDefaults::default_aggregate_functions();
    functions.retain(|function| function.name() != sum::NAME);
    let mut functions: Vec<_> = functions.into_iter().map(amended::wrap).collect();
    functions.push(sum::udaf());
    functions.extend(first_last::udafs());
    functions
}

/// What plans calls that are written in another way than they run.
pub(crate) fn planners() -> Vec<Arc<dyn ExprPlanner>> {
    let mut planners = SessionStateDefaults::default_expr_planners();
    planners.push(Arc::new(first_last::FirstLast));
    planners.insert(0, Arc::new(Integers));
    planners
}

/// Functions that stand in FROM.
pub(crate) fn table() -> Vec<Arc<TableFunction>> {
    let known = SessionStateDefaults::default_table_functions().into_iter();
    known.map(|function| size::bounded(&function)).collect()
}
