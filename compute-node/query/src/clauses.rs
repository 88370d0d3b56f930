//! Clauses that the parser reads and the planner would pass over in silence: an answer that ignores what
//! was asked is a wrong one, so each is refused by its name.
//!
//! Never here: what the planner itself refuses.

use std::ops::ControlFlow;

use auxo_proto::error::{ErrorCode, Failure};
use datafusion::sql::parser::Statement as Parsed;
use datafusion::sql::sqlparser::ast::{
    GroupByExpr, GroupByWithModifier, Query, Select, TableFactor, Visit, Visitor,
};

/// Refuses a statement with a clause that would be passed over.
pub(crate) fn check(parsed: &Parsed) -> Result<(), Failure> {
    let statement = match parsed {
        Parsed::Statement(statement) => statement.as_ref(),
        Parsed::Explain(explain) => return check(&explain.statement),
        _ => return Ok(()),
    };
    match statement.visit(&mut Clauses) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(clause) => {
            let detail = format!("{clause} is not supported");
            Err(Failure::new(ErrorCode::Unsupported, detail))
        }
    }
}

struct Clauses;

/// Goes on unless one of the clauses is there.
fn none_of(clauses: &[(bool, &'static str)]) -> ControlFlow<&'static str> {
    match clauses.iter().find(|(there, _)| *there) {
        Some((_, clause)) => ControlFlow::Break(clause),
        None => ControlFlow::Continue(()),
    }
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

impl Visitor for Clauses {
    type Break = &'static str;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Self::Break> {
        none_of(&[
            (!query.locks.is_empty(), "FOR UPDATE"),
            (query.for_clause.is_some(), "FOR"),
            (query.settings.is_some(), "SETTINGS"),
            (query.format_clause.is_some(), "FORMAT"),
        ])
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Self::Break> {
        if let Some(modifier) = modified(&select.group_by) {
            return ControlFlow::Break(modifier);
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
            } => ControlFlow::Break("TABLESAMPLE"),
            _ => ControlFlow::Continue(()),
        }
    }
}
