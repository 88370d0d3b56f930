//! DELETE: a predicate on tags and time, nothing else, as a record that hides rows.
//!
//! The optimiser brings the predicate into the form that scans take over; what a scan could not take
//! over exactly cannot be a record either, and is refused by name.

use std::sync::Arc;

use auxo_proto::error::{ErrorCode, Failure};
use auxo_proto::schema::{ColumnKind, TableInfo};
use auxo_sst::predicate::{TagFilter, TimeRange};
use datafusion::catalog::default_table_source::source_as_provider;
use datafusion::common::Result;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{DmlStatement, Expr, LogicalPlan};

use crate::names::Names;
use crate::pushdown::{Judged, Pushed, judge};
use crate::table::SeriesTable;

/// Rows of a table to hide.
#[derive(Clone, Debug, PartialEq)]
pub struct Delete {
    /// Whose rows.
    pub table: Arc<TableInfo>,
    /// Their series, exactly.
    pub tags: TagFilter,
    /// Their times, exactly.
    pub time: TimeRange,
}

/// The rows that a planned DELETE means.
pub(crate) fn of_plan(dml: &DmlStatement, names: &Names<'_>) -> Result<Delete> {
    let table = target(dml)?;
    let input = names.state.optimize(&dml.input)?;
    let pushed = match &input {
        LogicalPlan::TableScan(scan) => all_exact(&scan.filters, &table)?,
        LogicalPlan::EmptyRelation(_) => Pushed {
            tags: TagFilter::Nothing,
            ..Pushed::everything()
        },
        LogicalPlan::Filter(filter) => return Err(refuse(&[&filter.predicate], &table)),
        _ => return Err(refuse(&[], &table)),
    };
    Ok(Delete {
        table,
        tags: pushed.tags,
        time: pushed.time,
    })
}

/// The table that a statement changes.
pub(crate) fn target(dml: &DmlStatement) -> Result<Arc<TableInfo>> {
    let provider = source_as_provider(&dml.target)?;
    match provider.downcast_ref::<SeriesTable>() {
        Some(table) => Ok(Arc::clone(table.info())),
        None => {
            let detail = format!("{} cannot be changed", dml.table_name);
            Err(external(Failure::new(ErrorCode::Unsupported, detail)))
        }
    }
}

fn external(failure: Failure) -> DataFusionError {
    DataFusionError::External(Box::new(failure))
}

fn all_exact(filters: &[Expr], table: &TableInfo) -> Result<Pushed> {
    let inexact: Vec<&Expr> = filters
        .iter()
        .filter(|filter| !matches!(judge(filter, table), Judged::Exact(_)))
        .collect();
    match inexact.is_empty() {
        true => Ok(Pushed::all(filters, table)),
        false => Err(refuse(&inexact, table)),
    }
}

/// Says which column a record cannot test.
fn refuse(filters: &[&Expr], table: &TableInfo) -> DataFusionError {
    let field = filters.iter().find_map(|filter| {
        let mut columns: Vec<_> = filter.column_refs().into_iter().collect();
        columns.sort();
        columns.into_iter().find_map(|column| {
            let column = table.schema.by_name(&column.name)?;
            (column.kind == ColumnKind::Field).then(|| column.name.clone())
        })
    });
    let detail = match field {
        Some(field) => format!("DELETE tests tags and the time, and {field} is a field"),
        None => "DELETE takes one test of tags and one range of time, joined by AND".into(),
    };
    external(Failure::new(ErrorCode::Unsupported, detail))
}
