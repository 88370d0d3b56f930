//! Clauses that the parser reads and the planner would pass over in silence: an answer that ignores what
//! was asked is a wrong one, so each is refused by its name; and tests against a query where no operator
//! can run them.
//!
//! Never here: what the planner itself refuses.

use std::ops::ControlFlow;

use auxo_proto::error::{ErrorCode, Failure};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, not_impl_err};
use datafusion::logical_expr::{Expr as Planned, LogicalPlan};
use datafusion::sql::parser::Statement as Parsed;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, GroupByExpr, GroupByWithModifier, Query, Select, SetExpr, SetOperator,
    SetQuantifier, Spanned, TableFactor, UnaryOperator, Visit, Visitor,
};
use datafusion::sql::sqlparser::tokenizer::Location;

use crate::tokens::position;

/// Refuses a statement with a clause that would be passed over, or a test that nothing could run.
pub(crate) fn check(parsed: &Parsed, text: &str) -> Result<(), Failure> {
    let statement = match parsed {
        Parsed::Statement(statement) => statement.as_ref(),
        Parsed::Explain(explain) => return check(&explain.statement, text),
        _ => return Ok(()),
    };
    match statement.visit(&mut Clauses) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(Clause { name, place }) => {
            let detail = format!("{name} is not supported");
            let failure = Failure::new(ErrorCode::Unsupported, detail);
            Err(match place.filter(|place| place.line > 0) {
                Some(place) => failure.at(position(text, place)),
                None => failure,
            })
        }
    }
}

/// Refuses what shows in the plan alone.
pub(crate) fn check_plan(plan: &LogicalPlan) -> Result<()> {
    let check = |expr: &Planned| {
        if is_bound_test(expr) {
            return not_impl_err!(
                "NOT IN of a query that names columns of the outer one (write NOT EXISTS) is not supported"
            );
        }
        if let Some(zone) = zone_of(expr) {
            return not_impl_err!(
                "a time in the zone '{zone}' is not supported: times are in UTC, and time_bucket takes a zone"
            );
        }
        Ok(TreeNodeRecursion::Continue)
    };
    plan.apply_with_subqueries(|node| node.apply_expressions(|expr| expr.apply(check)))?;
    Ok(())
}

/// NOT IN of a query that names columns of the outer one: the join that tests it takes the NULLs of all its rows
/// for those of the outer row (DataFusion 55, an anti join with `null_aware` and a filter).
fn is_bound_test(expr: &Planned) -> bool {
    let bound = |expr: &Planned, negated| {
        matches!(expr, Planned::InSubquery(test)
            if test.negated == negated && !test.subquery.outer_ref_columns.is_empty())
    };
    match expr {
        Planned::Not(inner) => bound(inner, false),
        other => bound(other, true),
    }
}

/// The zone that an expression puts times into, but UTC: beside one, the planner would take a time without a
/// zone, which is in UTC, for one of that zone.
fn zone_of(expr: &Planned) -> Option<String> {
    let ty = match expr {
        Planned::Cast(cast) => cast.field.data_type().clone(),
        Planned::TryCast(cast) => cast.field.data_type().clone(),
        Planned::ScalarFunction(call)
            if ["arrow_cast", "arrow_try_cast"].contains(&call.func.name()) =>
        {
            match call.args.get(1) {
                Some(Planned::Literal(ty, _)) => ty.try_as_str()??.parse().ok()?,
                _ => return None,
            }
        }
        _ => return None,
    };
    match ty {
        DataType::Timestamp(_, Some(zone)) if !["UTC", "+00:00", "Z"].contains(&zone.as_ref()) => {
            Some(zone.to_string())
        }
        _ => None,
    }
}

struct Clauses;

/// What is refused, and where it stands if that is known.
struct Clause {
    name: &'static str,
    place: Option<Location>,
}

impl From<&'static str> for Clause {
    fn from(name: &'static str) -> Self {
        Self { name, place: None }
    }
}

/// Goes on unless one of the clauses is there.
fn none_of(clauses: &[(bool, &'static str)]) -> ControlFlow<Clause> {
    match clauses.iter().find(|(there, _)| *there) {
        Some((_, clause)) => ControlFlow::Break(Clause::from(*clause)),
        None => ControlFlow::Continue(()),
    }
}

/// Finds IN and EXISTS of a query where they are values: a filter becomes a join with the query, for any
/// other place there is no operator. What stands inside of a query has its own filters.
struct Tests {
    depth: usize,
    /// Why IN is refused here.
    of_in: &'static str,
    /// Why EXISTS is, which knows no NULL; `None` where it may stand.
    of_exists: Option<&'static str>,
}

impl Tests {
    /// In a place that is no filter.
    fn as_values() -> Self {
        Self {
            depth: 0,
            of_in: "IN of a query as a value, outside WHERE and HAVING,",
            of_exists: Some("EXISTS as a value, outside WHERE and HAVING,"),
        }
    }

    /// In what is read from: in the conditions of joins.
    fn of_joins() -> Self {
        Self {
            depth: 0,
            of_in: "IN of a query in the condition of a JOIN (it may stand in WHERE)",
            of_exists: Some("EXISTS in the condition of a JOIN (it may stand in WHERE)"),
        }
    }

    /// In a filter, but inside of another expression.
    fn inside() -> Self {
        Self {
            depth: 0,
            of_in: "IN of a query inside of another expression",
            of_exists: None,
        }
    }
}

impl Visitor for Tests {
    type Break = Clause;

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<Clause> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<Clause> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Clause> {
        let name = match expr {
            _ if self.depth > 0 => None,
            Expr::InSubquery { .. } => Some(self.of_in),
            Expr::Exists { .. } => self.of_exists,
            _ => None,
        };
        match name {
            Some(name) => refused_test(name, expr),
            None => ControlFlow::Continue(()),
        }
    }
}

/// Where IN of a query stands in a filter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Must hold by itself.
    Alone,
    /// Beside an OR: the join that tests it there takes NULL for false, which is the same as long as
    /// nothing turns it around.
    Beside,
}

/// Refuses IN of a query where NULL would be taken for false and then turned around.
fn check_filter(filter: &Expr, place: Place) -> ControlFlow<Clause> {
    match filter {
        Expr::Nested(inner) => check_filter(inner, place),
        Expr::BinaryOp { left, op, right } if *op == BinaryOperator::And => {
            check_filter(left, place)?;
            check_filter(right, place)
        }
        Expr::BinaryOp { left, op, right } if *op == BinaryOperator::Or => {
            check_filter(left, Place::Beside)?;
            check_filter(right, Place::Beside)
        }
        _ => match tested(filter) {
            Some((_, true)) if place == Place::Beside => {
                refused_test("NOT IN of a query beside OR (write NOT EXISTS)", filter)
            }
            Some((operand, _)) => operand.visit(&mut Tests::inside()),
            None => filter.visit(&mut Tests::inside()),
        },
    }
}

/// What IN of a query tests, and whether it must not be there; `None` of another expression.
fn tested(filter: &Expr) -> Option<(&Expr, bool)> {
    match filter {
        Expr::Nested(inner) => tested(inner),
        Expr::InSubquery { expr, negated, .. } => Some((expr, *negated)),
        Expr::UnaryOp { op, expr } if *op == UnaryOperator::Not => {
            tested(expr).map(|(operand, negated)| (operand, !negated))
        }
        _ => None,
    }
}

fn refused_test(name: &'static str, at: &Expr) -> ControlFlow<Clause> {
    ControlFlow::Break(Clause {
        name,
        place: Some(at.span().start),
    })
}

/// EXCEPT ALL or INTERSECT ALL, if there is one: how often a row occurs would be passed over.
fn counted(body: &SetExpr) -> Option<&'static str> {
    let mut body = body;
    while let SetExpr::SetOperation {
        op,
        set_quantifier,
        left,
        right,
    } = body
    {
        let all = matches!(
            set_quantifier,
            SetQuantifier::All | SetQuantifier::AllByName
        );
        match op {
            SetOperator::Except | SetOperator::Minus if all => return Some("EXCEPT ALL"),
            SetOperator::Intersect if all => return Some("INTERSECT ALL"),
            _ => {}
        }
        if let Some(name) = counted(right) {
            return Some(name);
        }
        body = left;
    }
    None
}

fn modified(group_by: &GroupByExpr) -> Option<&'static str> {
    let (GroupByExpr::All(modifiers) | GroupByExpr::Expressions(_, modifiers)) = group_by;
    modifiers.first().map(|modifier| match modifier {
        GroupByWithModifier::Rollup => "WITH ROLLUP",
        GroupByWithModifier::Cube => "WITH CUBE",
        GroupByWithModifier::Totals => "WITH TOTALS",
        GroupByWithModifier::GroupingSets(_) => "GROUPING SETS behind the list of GROUP BY",
    })
}

/// A comparison with ANY or ALL rows of a query. The planner makes a filter inside of the query of it,
/// where the names of the outer tables are taken for those of the query's own.
fn quantified(expr: &Expr) -> Option<&'static str> {
    let (name, rows) = match expr {
        Expr::AnyOp { right, .. } => ("ANY of a query (write IN or EXISTS)", right),
        Expr::AllOp { right, .. } => ("ALL of a query (write NOT EXISTS)", right),
        _ => return None,
    };
    let mut rows = rows.as_ref();
    while let Expr::Nested(inner) = rows {
        rows = inner;
    }
    matches!(rows, Expr::Subquery(_)).then_some(name)
}

impl Visitor for Clauses {
    type Break = Clause;

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Self::Break> {
        match quantified(expr) {
            Some(name) => refused_test(name, expr),
            None => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Self::Break> {
        query.order_by.visit(&mut Tests::as_values())?;
        if let Some(name) = counted(&query.body) {
            return ControlFlow::Break(name.into());
        }
        none_of(&[
            (!query.locks.is_empty(), "FOR UPDATE"),
            (query.for_clause.is_some(), "FOR"),
            (query.settings.is_some(), "SETTINGS"),
            (query.format_clause.is_some(), "FORMAT"),
        ])
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Self::Break> {
        if let Some(modifier) = modified(&select.group_by) {
            return ControlFlow::Break(modifier.into());
        }
        let mut tests = Tests::as_values();
        select.projection.visit(&mut tests)?;
        select.group_by.visit(&mut tests)?;
        select.from.visit(&mut Tests::of_joins())?;
        for filter in select.selection.iter().chain(&select.having) {
            check_filter(filter, Place::Alone)?;
        }
        none_of(&[
            (select.prewhere.is_some(), "PREWHERE"),
            (!select.connect_by.is_empty(), "CONNECT BY"),
            (select.into.is_some(), "INTO"),
            (
                select.select_modifiers.is_some(),
                "a modifier behind SELECT",
            ),
            (select.value_table_mode.is_some(), "AS STRUCT or AS VALUE"),
            (!select.lateral_views.is_empty(), "LATERAL VIEW"),
        ])
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Self::Break> {
        match factor {
            TableFactor::Table {
                with_hints,
                version,
                partitions,
                json_path,
                sample,
                index_hints,
                ..
            } => none_of(&[
                (!with_hints.is_empty(), "WITH behind a table"),
                (version.is_some(), "a version of a table"),
                (!partitions.is_empty(), "PARTITION"),
                (json_path.is_some(), "a path behind a table"),
                (sample.is_some(), "TABLESAMPLE"),
                (!index_hints.is_empty(), "a hint on an index"),
            ]),
            TableFactor::Derived {
                sample: Some(_), ..
            } => ControlFlow::Break("TABLESAMPLE".into()),
            _ => ControlFlow::Continue(()),
        }
    }
}
