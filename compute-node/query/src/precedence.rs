//! What stands behind `IS [NOT] DISTINCT FROM` belongs to it as far as it binds tighter.
//!
//! The parser (sqlparser 0.62) takes all the rest for the right side, so that `a IS DISTINCT FROM b AND c`
//! would be `a IS DISTINCT FROM (b AND c)`. Here such a right side is taken apart again: OR, AND and NOT
//! bind looser, and IS as tight, from the left. What is in parentheses stays.

use std::convert::Infallible;
use std::ops::ControlFlow;

use datafusion::sql::parser::Statement as Parsed;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, UnaryOperator, Value, VisitMut, VisitorMut,
};

/// Rewrites a statement that was just parsed.
pub(crate) fn mend(parsed: &mut Parsed) {
    match parsed {
        Parsed::Statement(statement) => {
            let ControlFlow::Continue(()) = statement.visit(&mut Operators);
        }
        Parsed::Explain(explain) => mend(&mut explain.statement),
        _ => {}
    }
}

struct Operators;

impl VisitorMut for Operators {
    type Break = Infallible;

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Infallible> {
        if let Some(operator) = Operator::of(expr) {
            lift(expr, operator);
        }
        ControlFlow::Continue(())
    }
}

/// Operators by how tight they bind, the loosest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Operator {
    Or,
    And,
    Not,
    Is,
}

impl Operator {
    fn of(expr: &Expr) -> Option<Self> {
        match expr {
            Expr::BinaryOp { op, .. } if *op == BinaryOperator::Or => Some(Self::Or),
            Expr::BinaryOp { op, .. } if *op == BinaryOperator::And => Some(Self::And),
            Expr::UnaryOp { op, .. } if *op == UnaryOperator::Not => Some(Self::Not),
            Expr::IsDistinctFrom(..)
            | Expr::IsNotDistinctFrom(..)
            | Expr::IsNull(_)
            | Expr::IsNotNull(_)
            | Expr::IsTrue(_)
            | Expr::IsNotTrue(_)
            | Expr::IsFalse(_)
            | Expr::IsNotFalse(_)
            | Expr::IsUnknown(_)
            | Expr::IsNotUnknown(_) => Some(Self::Is),
            _ => None,
        }
    }

    /// Whether what stands behind this one ends where the operator of `behind` comes.
    fn ends_at(self, behind: &Expr) -> bool {
        match Self::of(behind) {
            // It begins a term, whatever stands before.
            None | Some(Self::Not) => false,
            Some(Self::Is) => self == Self::Is,
            Some(other) => other < self,
        }
    }
}

/// `l IS DISTINCT FROM (r AND x)` to `(l IS DISTINCT FROM r) AND x`, and its like.
fn lift(expr: &mut Expr, operator: Operator) {
    let Some(last) = last_operand(expr) else {
        return;
    };
    if !operator.ends_at(last) {
        return;
    }
    let mut outer = take(last);
    let mut first = &mut outer;
    while operator.ends_at(first) {
        first = first_operand(first);
    }
    if let Some(last) = last_operand(expr) {
        std::mem::swap(last, first);
    }
    *first = take(expr);
    *expr = outer;
}

fn take(expr: &mut Expr) -> Expr {
    std::mem::replace(expr, Expr::Value(Value::Null.with_empty_span()))
}

/// The operand behind an operator; `None` of one that has none.
fn last_operand(expr: &mut Expr) -> Option<&mut Expr> {
    match expr {
        Expr::BinaryOp { right, .. } => Some(right),
        Expr::UnaryOp { expr, .. } => Some(expr),
        Expr::IsDistinctFrom(_, right) | Expr::IsNotDistinctFrom(_, right) => Some(right),
        _ => None,
    }
}

/// The operand before an operator; the expression itself where it has none.
fn first_operand(expr: &mut Expr) -> &mut Expr {
    match expr {
        Expr::BinaryOp { left, .. }
        | Expr::IsDistinctFrom(left, _)
        | Expr::IsNotDistinctFrom(left, _) => left,
        Expr::IsNull(inner)
        | Expr::IsNotNull(inner)
        | Expr::IsTrue(inner)
        | Expr::IsNotTrue(inner)
        | Expr::IsFalse(inner)
        | Expr::IsNotFalse(inner)
        | Expr::IsUnknown(inner)
        | Expr::IsNotUnknown(inner) => inner,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::parser::DFParser;

    use super::*;

    /// A condition with parentheses around everything that an operator binds.
    fn grouped(condition: &str) -> String {
        let mut parsed = DFParser::parse_sql(&format!("SELECT {condition}")).unwrap();
        let mut parsed = parsed.pop_front().unwrap();
        mend(&mut parsed);
        let Parsed::Statement(statement) = &mut parsed else {
            panic!("no statement: {parsed}");
        };
        struct Parentheses;
        impl VisitorMut for Parentheses {
            type Break = Infallible;
            fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Infallible> {
                if Operator::of(expr).is_some() {
                    *expr = Expr::Nested(Box::new(take(expr)));
                }
                ControlFlow::Continue(())
            }
        }
        let ControlFlow::Continue(()) = statement.visit(&mut Parentheses);
        statement
            .to_string()
            .replace("SELECT ", "")
            .replace("DISTINCT FROM", "DF")
    }

    #[test]
    fn is_distinct_from_takes_what_binds_tighter() {
        let table = [
            ("a IS DISTINCT FROM b", "(a IS DF b)"),
            ("a IS DISTINCT FROM b + 1 = c", "(a IS DF b + 1 = c)"),
            ("a IS DISTINCT FROM b AND c", "((a IS DF b) AND c)"),
            (
                "a IS NOT DISTINCT FROM b OR c AND d",
                "((a IS NOT DF b) OR (c AND d))",
            ),
            (
                "a IS DISTINCT FROM b AND c OR d",
                "(((a IS DF b) AND c) OR d)",
            ),
            (
                "x AND a IS DISTINCT FROM b OR c",
                "((x AND (a IS DF b)) OR c)",
            ),
            (
                "x OR a IS DISTINCT FROM b AND c",
                "(x OR ((a IS DF b) AND c))",
            ),
            (
                "NOT a IS DISTINCT FROM b AND c",
                "((NOT (a IS DF b)) AND c)",
            ),
            (
                "NOT NOT a IS DISTINCT FROM b OR c",
                "((NOT (NOT (a IS DF b))) OR c)",
            ),
            ("a IS DISTINCT FROM b IS NULL", "((a IS DF b) IS NULL)"),
            (
                "a IS DISTINCT FROM b IS DISTINCT FROM c",
                "((a IS DF b) IS DF c)",
            ),
            (
                "a IS DISTINCT FROM NOT b AND c",
                "((a IS DF (NOT b)) AND c)",
            ),
            (
                "a IS DISTINCT FROM (b AND c) AND d",
                "((a IS DF ((b AND c))) AND d)",
            ),
            (
                "a IS DISTINCT FROM b AND c IS NOT DISTINCT FROM d OR e IS DISTINCT FROM f AND g",
                "(((a IS DF b) AND (c IS NOT DF d)) OR ((e IS DF f) AND g))",
            ),
            (
                "a IS NULL AND NOT b OR c IS TRUE",
                "(((a IS NULL) AND (NOT b)) OR (c IS TRUE))",
            ),
        ];
        for (written, expected) in table {
            assert_eq!(grouped(written), expected, "{written}");
        }
    }
}
