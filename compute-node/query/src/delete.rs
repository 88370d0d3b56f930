//! DELETE: a predicate on tags and time, nothing else, as a record that hides rows.
//!
//! The optimiser brings the predicate into the form that scans take over; what a scan could not take
//! over exactly cannot be a record either, and is refused by name.

use std::ops::ControlFlow;
use std::sync::Arc;

use auxo_proto::error::{ErrorCode, Failure, Position};
use auxo_proto::schema::{ColumnKind, TableInfo};
use auxo_sst::predicate::{TagFilter, TimeRange};
use datafusion::catalog::default_table_source::source_as_provider;
use datafusion::common::Result;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{DmlStatement, Expr, LogicalPlan};
use datafusion::sql::parser::Statement as Parsed;
use datafusion::sql::sqlparser::ast::{self, Spanned};

use crate::literals::name_of;
use crate::names::Names;
use crate::pushdown::{Judged, Pushed, judge};
use crate::table::SeriesTable;
use crate::tokens::position;

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
///
/// * `condition`: the place that a refusal of the whole of it names.
pub(crate) fn of_plan(
    dml: &DmlStatement,
    names: &Names<'_>,
    condition: Option<Position>,
) -> Result<Delete> {
    let table = target(dml)?;
    let input = names.state.optimize(&dml.input)?;
    let refuse = |filters: &[&Expr]| refuse(filters, &table, condition);
    let pushed = match &input {
        LogicalPlan::TableScan(scan) => {
            let inexact = |filter: &&Expr| !matches!(judge(filter, &table), Judged::Exact(_));
            let inexact: Vec<&Expr> = scan.filters.iter().filter(inexact).collect();
            match inexact.is_empty() {
                true => Pushed::all(&scan.filters, &table),
                false => return Err(refuse(&inexact)),
            }
        }
        LogicalPlan::EmptyRelation(_) => Pushed {
            tags: TagFilter::Nothing,
            ..Pushed::everything()
        },
        LogicalPlan::Filter(filter) => return Err(refuse(&[&filter.predicate])),
        _ => return Err(refuse(&[])),
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

/// Place of the condition of a DELETE: of the first part joined by AND that is an OR or holds a
/// subquery, else of the whole.
pub(crate) fn condition(parsed: &Parsed, text: &str) -> Option<Position> {
    let Parsed::Statement(statement) = parsed else {
        return None;
    };
    let ast::Statement::Delete(delete) = statement.as_ref() else {
        return None;
    };
    let whole = delete.selection.as_ref()?;
    let place = first_at_fault(whole).unwrap_or(whole).span().start;
    (place.line > 0).then(|| position(text, place))
}

/// Writes columns that a DELETE names by its table's alias as the plain names that the planner knows.
pub(crate) fn without_alias(parsed: &mut Parsed) {
    let Parsed::Statement(statement) = parsed else {
        return;
    };
    let ast::Statement::Delete(delete) = statement.as_mut() else {
        return;
    };
    let (ast::FromTable::WithFromKeyword(tables) | ast::FromTable::WithoutKeyword(tables)) =
        &delete.from;
    let [table] = tables.as_slice() else {
        return;
    };
    let ast::TableFactor::Table {
        alias: Some(alias), ..
    } = &table.relation
    else {
        return;
    };
    let alias = name_of(&alias.name);
    let Some(condition) = &mut delete.selection else {
        return;
    };
    let walked = ast::visit_expressions_mut(condition, |expr| {
        if let ast::Expr::CompoundIdentifier(path) = expr
            && let [table, column] = path.as_slice()
            && name_of(table) == alias
        {
            *expr = ast::Expr::Identifier(column.clone());
        }
        ControlFlow::<std::convert::Infallible>::Continue(())
    });
    let ControlFlow::Continue(()) = walked;
}

fn first_at_fault(expr: &ast::Expr) -> Option<&ast::Expr> {
    let mut parts = vec![expr];
    while let Some(part) = parts.pop() {
        match part {
            ast::Expr::BinaryOp {
                left,
                op: ast::BinaryOperator::And,
                right,
            } => parts.extend([right.as_ref(), left.as_ref()]),
            ast::Expr::Nested(inner) => parts.push(inner),
            ast::Expr::BinaryOp {
                op: ast::BinaryOperator::Or,
                ..
            } => return Some(part),
            part => {
                let subquery = ast::visit_expressions(part, |expr| match expr {
                    ast::Expr::Subquery(_)
                    | ast::Expr::InSubquery { .. }
                    | ast::Expr::Exists { .. } => ControlFlow::Break(()),
                    _ => ControlFlow::Continue(()),
                });
                if subquery.is_break() {
                    return Some(part);
                }
            }
        }
    }
    None
}

/// Says which column a record cannot test.
fn refuse(filters: &[&Expr], table: &TableInfo, condition: Option<Position>) -> DataFusionError {
    let field = filters.iter().find_map(|filter| {
        let mut columns: Vec<_> = filter.column_refs().into_iter().collect();
        columns.sort();
        columns.into_iter().find_map(|column| {
            let column = table.schema.by_name(&column.name)?;
            (column.kind == ColumnKind::Field).then(|| column.name.clone())
        })
    });
    external(match field {
        Some(field) => {
            let detail = format!("DELETE tests tags and the time, and {field} is a field");
            Failure::new(ErrorCode::Unsupported, detail)
        }
        None => {
            let detail = "DELETE records tests of tags and one range of time, joined by AND, and cannot record this";
            let failure = Failure::new(ErrorCode::Unsupported, detail);
            match condition {
                Some(place) => failure.at(place),
                None => failure,
            }
        }
    })
}
