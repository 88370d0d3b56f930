//! How large a statement would become, before it does.
//!
//! * A name in WITH stands for its whole query wherever it is used: twenty names that each use the one
//!   before twice are a million scans, and the planner writes them all out.
//! * A filter that is moved below a projection takes the projection's expressions along, once for each
//!   use of their names: `a + a` of `a + a` of ... doubles at each step.
//!
//! Both are counted in time that does not grow with what they would come to.

use std::ops::ControlFlow;

use auxo_proto::error::{ErrorCode, Failure};
use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::sql::parser::Statement as Parsed;
use datafusion::sql::sqlparser::ast::{ObjectName, Query, Visit, Visitor};

use crate::literals::name_of;

/// Queries and tables of a statement once each name of WITH stands for its query.
const PARTS_MAX: u64 = 1_000;
/// Terms of a column once every name in it stands for its expression.
const TERMS_MAX: u64 = 100_000;

/// Refuses a statement of which the planner would make too much.
pub(crate) fn check_parts(parsed: &Parsed) -> Result<()> {
    let statement = match parsed {
        Parsed::Statement(statement) => statement.as_ref(),
        Parsed::Explain(explain) => return check_parts(&explain.statement),
        _ => return Ok(()),
    };
    let mut parts = Parts::default();
    match statement.visit(&mut parts) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(too_complex(format!(
            "the statement has more than {PARTS_MAX} queries and tables once each name of WITH stands for \
             its query"
        ))),
    }
}

/// Counts parts as queries open and close; the names of WITH come before what uses them.
#[derive(Default)]
struct Parts {
    open: Vec<Open>,
    /// Names that stand for queries, with their parts, innermost last.
    named: Vec<(String, u64)>,
}

/// A query that is being read.
struct Open {
    parts: u64,
    /// Names of its WITH that are not read yet, the next one last.
    to_name: Vec<String>,
    /// How many names there were before it.
    named_before: usize,
}

impl Parts {
    fn add(&mut self, more: u64) -> ControlFlow<()> {
        let Some(open) = self.open.last_mut() else {
            return ControlFlow::Continue(());
        };
        open.parts = open.parts.saturating_add(more);
        match open.parts > PARTS_MAX {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}

impl Visitor for Parts {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let names = query.with.iter().flat_map(|with| &with.cte_tables);
        let names = names.map(|cte| name_of(&cte.alias.name));
        self.open.push(Open {
            parts: 1,
            to_name: names.rev().collect(),
            named_before: self.named.len(),
        });
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        let Some(Open {
            parts,
            named_before,
            ..
        }) = self.open.pop()
        else {
            return ControlFlow::Continue(());
        };
        self.named.truncate(named_before);
        match self.open.last_mut().and_then(|outer| outer.to_name.pop()) {
            Some(name) => {
                self.named.push((name, parts));
                ControlFlow::Continue(())
            }
            None => self.add(parts),
        }
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        let name = match relation.0.as_slice() {
            [part] => part.as_ident().map(name_of),
            _ => None,
        };
        let mut named = self.named.iter().rev();
        let parts = named.find(|(known, _)| Some(known) == name.as_ref());
        self.add(parts.map_or(1, |(_, parts)| *parts))
    }
}

/// Refuses a plan whose expressions would become too large.
pub(crate) fn check_terms(plan: &LogicalPlan) -> Result<()> {
    plan.apply_with_subqueries(|node| {
        // A query inside of an expression counts for itself.
        if let LogicalPlan::Subquery(subquery) = node {
            terms_of(&subquery.subquery)?;
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    terms_of(plan).map(drop)
}

fn too_complex(detail: String) -> DataFusionError {
    DataFusionError::External(Box::new(Failure::new(ErrorCode::TooComplex, detail)))
}

/// Terms of each column of a plan's rows.
fn terms_of(plan: &LogicalPlan) -> Result<Vec<u64>> {
    let inputs = plan.inputs();
    let mut below = Vec::new();
    for input in &inputs {
        below.push(terms_of(input)?);
    }
    let width = plan.schema().fields().len();
    let of = |exprs: &[Expr], input: &LogicalPlan, terms: &[u64]| -> Result<Vec<u64>> {
        exprs
            .iter()
            .map(|expr| expanded(expr, input, terms))
            .collect()
    };
    let mut terms = match (plan, inputs.as_slice(), below.as_slice()) {
        (LogicalPlan::Projection(projection), [input], [terms]) => {
            of(&projection.expr, input, terms)?
        }
        (LogicalPlan::Aggregate(aggregate), [input], [terms]) => {
            let mut columns = of(&aggregate.group_expr, input, terms)?;
            columns.resize(width, 1);
            columns
        }
        (LogicalPlan::Union(_), _, [first, rest @ ..]) => {
            let mut columns = first.clone();
            for other in rest {
                let pairs = columns.iter_mut().zip(other);
                pairs.for_each(|(most, terms)| *most = (*most).max(*terms));
            }
            columns
        }
        (_, _, below) => below.concat(),
    };
    // What a node adds to its input's columns counts once; where it drops some, the order is kept.
    terms.resize(width, 1);
    Ok(terms)
}

/// Terms of an expression over the columns of an input.
fn expanded(expr: &Expr, input: &LogicalPlan, terms: &[u64]) -> Result<u64> {
    let mut sum: u64 = 0;
    expr.apply(|part| {
        let column = match part {
            Expr::Column(column) => input.schema().maybe_index_of_column(column),
            _ => None,
        };
        let more = column.and_then(|at| terms.get(at).copied()).unwrap_or(1);
        sum = sum.saturating_add(more);
        Ok(TreeNodeRecursion::Continue)
    })?;
    match sum > TERMS_MAX {
        true => Err(too_complex(format!(
            "a column has more than {TERMS_MAX} terms once each name in it stands for its expression"
        ))),
        false => Ok(sum),
    }
}
