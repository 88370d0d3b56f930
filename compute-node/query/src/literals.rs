//! What a parsed statement says, said such that DataFusion's planner understands it rightly.
//!
//! 1. A number that is compared with a DECIMAL becomes a DECIMAL of its own digits; the planner would
//!    make a float of it. Which numbers those are is told by names: the other side names a column that
//!    is DECIMAL in a table of the statement, or one that no table has, an alias.
//! 2. A cast in a select list is named as it is written; the planner names it as what is cast, and
//!    stumbles where both are asked for.
//!
//! Statements without a DECIMAL column are not looked at for the first. What a name means is told by the
//! tables of the statement alone.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use auxo_proto::schema::{ColumnType, TableInfo};
use datafusion::sql::parser::Statement as Parsed;
use datafusion::sql::sqlparser::ast::{
    self, BinaryOperator, CastKind, ExactNumberInfo, Expr, Ident, SelectItem, UnaryOperator, Value,
    ValueWithSpan, VisitMut, VisitorMut, visit_expressions,
};

use crate::number::{DIGITS_MAX, Number, with_point};

/// Rewrites a statement that names these tables.
pub(crate) fn clarify(parsed: &mut Parsed, tables: &[Arc<TableInfo>]) {
    match parsed {
        Parsed::Statement(statement) => {
            let mut columns = Columns::of(tables);
            let ControlFlow::Continue(()) = statement.visit(&mut columns);
        }
        Parsed::Explain(explain) => clarify(&mut explain.statement, tables),
        _ => {}
    }
}

/// A number with its sign; `None` for every other expression.
pub(crate) fn number(expr: &Expr) -> Option<(Number, &ValueWithSpan)> {
    let (mut expr, mut negative) = (expr, false);
    loop {
        match expr {
            Expr::Nested(inner) => expr = inner,
            Expr::UnaryOp { op, expr: inner } => {
                match op {
                    UnaryOperator::Minus => negative = !negative,
                    UnaryOperator::Plus => {}
                    _ => return None,
                }
                expr = inner;
            }
            Expr::Value(value) => {
                return match &value.value {
                    Value::Number(digits, _) => Some((Number::read(digits, negative)?, value)),
                    _ => None,
                };
            }
            _ => return None,
        }
    }
}

/// A name as the planner reads it: as written in quotes, else in lower case.
pub(crate) fn name_of(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

/// Columns of the statement's tables by name.
struct Columns {
    /// Whether a column of that name is DECIMAL somewhere.
    decimal: HashMap<String, bool>,
    /// Most digits before the point, and behind it, of any DECIMAL; `None` without one.
    digits: Option<(usize, usize)>,
}

impl Columns {
    fn of(tables: &[Arc<TableInfo>]) -> Self {
        let mut decimal = HashMap::new();
        let mut digits = None;
        for column in tables.iter().flat_map(|table| &table.schema.columns) {
            let is_decimal = decimal.entry(column.name.clone()).or_insert(false);
            if let ColumnType::Decimal { precision, scale } = column.ty {
                *is_decimal = true;
                let (before, behind) = digits.unwrap_or((0, 0));
                let scale = usize::try_from(scale).unwrap_or(0);
                let whole = usize::from(precision).saturating_sub(scale);
                digits = Some((whole.max(before), scale.max(behind)));
            }
        }
        Self { decimal, digits }
    }

    fn may_be_decimal(&self, expr: &Expr) -> bool {
        let found = visit_expressions(expr, |expr| {
            let ident = match expr {
                Expr::Identifier(ident) => Some(ident),
                Expr::CompoundIdentifier(idents) => idents.last(),
                _ => None,
            };
            match ident.map(|ident| self.decimal.get(&name_of(ident))) {
                Some(Some(true) | None) => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
        found.is_break()
    }

    /// Makes DECIMALs of the numbers in an expression that is a term of numbers.
    fn make_exact(&self, expr: &mut Expr) {
        match expr {
            Expr::Nested(inner) => self.make_exact(inner),
            Expr::BinaryOp { left, op, right } if is_arithmetic(op) => {
                self.make_exact(left);
                self.make_exact(right);
            }
            expr => {
                let exact = number(expr).and_then(|(number, value)| self.exact(&number, value));
                if let Some(exact) = exact {
                    *expr = exact;
                }
            }
        }
    }

    /// The number as a DECIMAL; `None` where an integer does, or where it and the columns have no
    /// type in common.
    fn exact(&self, number: &Number, value: &ValueWithSpan) -> Option<Expr> {
        let (before, behind) = self.digits?;
        let (precision, scale) = number.precision_and_scale();
        let integer = number.integer();
        let small = integer.is_some_and(|integer| i64::try_from(integer).is_ok());
        let common = before.max(precision - scale) + behind.max(scale);
        if small || common > DIGITS_MAX {
            return None;
        }
        let text = with_point(number.scaled(scale)?, scale);
        let text = Value::SingleQuotedString(text).with_span(value.span);
        Some(Expr::Cast {
            kind: CastKind::Cast,
            expr: Box::new(Expr::Value(text)),
            data_type: ast::DataType::Decimal(ExactNumberInfo::PrecisionAndScale(
                precision as u64,
                scale as i64,
            )),
            array: false,
            format: None,
        })
    }
}

fn is_arithmetic(op: &BinaryOperator) -> bool {
    matches!(
        op,
        BinaryOperator::Plus
            | BinaryOperator::Minus
            | BinaryOperator::Multiply
            | BinaryOperator::Divide
            | BinaryOperator::Modulo
    )
}

fn is_comparison(op: &BinaryOperator) -> bool {
    matches!(
        op,
        BinaryOperator::Eq
            | BinaryOperator::NotEq
            | BinaryOperator::Lt
            | BinaryOperator::LtEq
            | BinaryOperator::Gt
            | BinaryOperator::GtEq
    )
}

/// What a comparison compares with each other; nothing for every other expression.
fn compared(expr: &mut Expr) -> Vec<&mut Expr> {
    match expr {
        Expr::BinaryOp { left, op, right } if is_comparison(op) => vec![left, right],
        Expr::IsDistinctFrom(left, right) | Expr::IsNotDistinctFrom(left, right) => {
            vec![left, right]
        }
        Expr::Between {
            expr, low, high, ..
        } => vec![expr, low, high],
        Expr::InList { expr, list, .. } => std::iter::once(expr.as_mut()).chain(list).collect(),
        _ => Vec::new(),
    }
}

impl VisitorMut for Columns {
    type Break = std::convert::Infallible;

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        let mut sides = compared(expr);
        if self.digits.is_some() && sides.iter().any(|side| self.may_be_decimal(side)) {
            sides.iter_mut().for_each(|side| self.make_exact(side));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &mut ast::Query) -> ControlFlow<Self::Break> {
        if let (ast::SetExpr::Select(select), Some(order)) =
            (query.body.as_ref(), &mut query.order_by)
            && let ast::OrderByKind::Expressions(order) = &mut order.kind
        {
            for ast::OrderByExpr { expr, .. } in order {
                let written = |item: &SelectItem| match item {
                    SelectItem::UnnamedExpr(item) => alias_of(item),
                    _ => None,
                };
                if let Some(alias) = alias_of(expr)
                    && select
                        .projection
                        .iter()
                        .filter_map(written)
                        .any(|item| item == alias)
                {
                    *expr = Expr::Identifier(alias);
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut ast::Select) -> ControlFlow<Self::Break> {
        for item in &mut select.projection {
            if let SelectItem::UnnamedExpr(expr) = item
                && let Some(alias) = alias_of(expr)
            {
                let none = Expr::Value(Value::Null.with_empty_span());
                let expr = std::mem::replace(expr, none);
                *item = SelectItem::ExprWithAlias { expr, alias };
            }
        }
        ControlFlow::Continue(())
    }
}

/// What a cast is called; `None` for every other expression.
fn alias_of(expr: &Expr) -> Option<Ident> {
    match expr {
        Expr::Cast { .. } => Some(Ident::with_quote('"', expr.to_string())),
        _ => None,
    }
}
