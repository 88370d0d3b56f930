//! Functions that statements may call: DataFusion's, without those that reach outside the tenant's
//! rows.

use std::sync::Arc;

use datafusion::catalog::TableFunction;
use datafusion::execution::SessionStateDefaults;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF};

/// Functions that would show where things lie.
const WITHHELD: [&str; 2] = ["input_file_name", "arrow_metadata"];

/// Scalar functions.
pub(crate) fn scalar() -> Vec<Arc<ScalarUDF>> {
    let mut functions = SessionStateDefaults::default_scalar_functions();
    functions.retain(|function| !WITHHELD.contains(&function.name()));
    functions
}

/// Aggregate functions.
pub(crate) fn aggregate() -> Vec<Arc<AggregateUDF>> {
    SessionStateDefaults::default_aggregate_functions()
}

/// Functions that stand in FROM.
pub(crate) fn table() -> Vec<Arc<TableFunction>> {
    SessionStateDefaults::default_table_functions()
}
