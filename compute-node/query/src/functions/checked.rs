//! Arithmetic on integers that fails where the result does not fit, and integers as times.
//!
//! DataFusion's operators wrap around. Before a plan is typed, `+`, `-` and `*` of two integers and
//! the sign of one become calls of the function here, which bears the same names in answers; a chain
//! of them becomes one call, however long it is. A whole number that is compared with a time
//! is a count of that time's unit since 1970, as it is where it is inserted, whether it was written or
//! given as a parameter; the planner would count nanoseconds.

use std::sync::Arc;

use datafusion::arrow::compute::kernels::numeric::{add, mul, neg, sub};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue, plan_err};
use datafusion::logical_expr::expr::{InList, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::type_coercion::binary::BinaryTypeCoercer;
use datafusion::logical_expr::{
    Between, BinaryExpr, ColumnarValue, Expr, ExprSchemable, Operator, ReturnFieldArgs,
    ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, cast,
};
use datafusion::physical_expr_common::datum::apply;
use datafusion::sql::sqlparser::ast::BinaryOperator;

/// Puts checked calls in the place of operators, and times in the place of integers.
#[derive(Debug)]
pub(crate) struct Integers;

impl FunctionRewrite for Integers {
    fn name(&self) -> &str {
        "integers"
    }

    fn rewrite(
        &self,
        expr: Expr,
        schema: &DFSchema,
        _: &ConfigOptions,
    ) -> Result<Transformed<Expr>> {
        match expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right })
                if wraps(op) && is_integer(&right, schema) && is_integer(&left, schema) =>
            {
                Ok(Transformed::yes(chained(*left, op, *right)))
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if compares(op) => {
                let left = timed(left, &right, schema);
                let right = timed(right, &left, schema);
                let same = BinaryExpr { left, op, right };
                Ok(Transformed::yes(Expr::BinaryExpr(same)))
            }
            Expr::Negative(inner) if is_integer(&inner, schema) => {
                Ok(Transformed::yes(call(Vec::new(), vec![*inner])))
            }
            Expr::Between(between) => {
                let low = timed(between.low, &between.expr, schema);
                let high = timed(between.high, &between.expr, schema);
                let between = Between {
                    low,
                    high,
                    ..between
                };
                Ok(Transformed::yes(Expr::Between(between)))
            }
            Expr::InList(list) => {
                let values = list.list.into_iter();
                let values = values.map(|value| *timed(Box::new(value), &list.expr, schema));
                let list = InList {
                    list: values.collect(),
                    ..list
                };
                Ok(Transformed::yes(Expr::InList(list)))
            }
            expr => Ok(Transformed::no(expr)),
        }
    }
}

/// In a select list a comparison is typed as soon as it is planned.
impl ExprPlanner for Integers {
    fn plan_binary_op(
        &self,
        raw: RawBinaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>> {
        let compares = matches!(
            raw.op,
            BinaryOperator::Eq
                | BinaryOperator::NotEq
                | BinaryOperator::Lt
                | BinaryOperator::LtEq
                | BinaryOperator::Gt
                | BinaryOperator::GtEq
        );
        if !compares {
            return Ok(PlannerResult::Original(raw));
        }
        let left = *timed(Box::new(raw.left), &raw.right, schema);
        let right = *timed(Box::new(raw.right), &left, schema);
        let op = raw.op;
        Ok(PlannerResult::Original(RawBinaryExpr { op, left, right }))
    }
}

fn wraps(op: Operator) -> bool {
    matches!(op, Operator::Plus | Operator::Minus | Operator::Multiply)
}

/// Whether the operator compares two values.
pub(crate) fn compares(op: Operator) -> bool {
    matches!(
        op,
        Operator::Eq
            | Operator::NotEq
            | Operator::Lt
            | Operator::LtEq
            | Operator::Gt
            | Operator::GtEq
            | Operator::IsDistinctFrom
            | Operator::IsNotDistinctFrom
    )
}

/// Whether the values are integers. What stands inside has been rewritten before, so that a call is
/// one of integers and an operator that is left is none; chains may be too long to look all through.
fn is_integer(expr: &Expr, schema: &DFSchema) -> bool {
    match expr {
        Expr::BinaryExpr(inner) if wraps(inner.op) => false,
        expr if chain_of(expr).is_some() => true,
        expr => expr.get_type(schema).is_ok_and(|ty| ty.is_integer()),
    }
}

/// The operators of a checked call.
fn chain_of(expr: &Expr) -> Option<&Checked> {
    match expr {
        Expr::ScalarFunction(call) => call.func.inner().downcast_ref::<Checked>(),
        _ => None,
    }
}

fn call(ops: Vec<Operator>, args: Vec<Expr>) -> Expr {
    let function = Arc::new(ScalarUDF::from(Checked::new(ops)));
    Expr::ScalarFunction(ScalarFunction::new_udf(function, args))
}

/// `left op right`, on the end of a chain if the left side is one.
fn chained(left: Expr, op: Operator, right: Expr) -> Expr {
    let before = chain_of(&left).map(|chain| chain.ops.clone());
    match (before, left) {
        (Some(mut ops), Expr::ScalarFunction(mut before)) if !ops.is_empty() => {
            ops.push(op);
            before.args.push(right);
            call(ops, before.args)
        }
        (_, left) => call(vec![op], vec![left, right]),
    }
}

/// The value, as a time if it is a whole number and the other side a time: a count of that time's unit.
fn timed(value: Box<Expr>, beside: &Expr, schema: &DFSchema) -> Box<Expr> {
    if matches!(beside, Expr::Literal(..)) || chain_of(beside).is_some() {
        return value;
    }
    let count = match value.as_ref() {
        Expr::Literal(literal, _) => match whole(literal) {
            Some(count) => Some(count),
            None => return value,
        },
        value if is_integer(value, schema) => None,
        _ => return value,
    };
    let Ok(DataType::Timestamp(unit, zone)) = beside.get_type(schema) else {
        return value;
    };
    Box::new(match count {
        Some(count) => Expr::Literal(moment(count, unit, zone), None),
        None => cast(*value, DataType::Timestamp(unit, zone)),
    })
}

/// A whole number; beyond the range of 64 bits, the last one there.
fn whole(literal: &ScalarValue) -> Option<i64> {
    let clamped = |wide: i128| wide.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
    match *literal {
        ScalarValue::Int64(count) => count,
        ScalarValue::UInt64(count) => Some(clamped(count?.into())),
        ScalarValue::Decimal128(count, _, 0) => Some(clamped(count?)),
        // A cast of floats saturates.
        ScalarValue::Float64(Some(count)) if count.fract() == 0.0 => Some(count as i64),
        _ => None,
    }
}

fn moment(count: i64, unit: TimeUnit, zone: Option<Arc<str>>) -> ScalarValue {
    let count = Some(count);
    match unit {
        TimeUnit::Second => ScalarValue::TimestampSecond(count, zone),
        TimeUnit::Millisecond => ScalarValue::TimestampMillisecond(count, zone),
        TimeUnit::Microsecond => ScalarValue::TimestampMicrosecond(count, zone),
        TimeUnit::Nanosecond => ScalarValue::TimestampNanosecond(count, zone),
    }
}

/// The operators of one of the functions here, as text: none for the change of a sign.
pub(crate) fn operators(function: &ScalarUDF) -> Option<String> {
    let checked = function.inner().downcast_ref::<Checked>()?;
    Some(checked.ops.iter().map(Operator::to_string).collect())
}

/// The function of those operators.
pub(crate) fn of_operators(text: &str) -> Option<Arc<ScalarUDF>> {
    let op = |sign| match sign {
        '+' => Some(Operator::Plus),
        '-' => Some(Operator::Minus),
        '*' => Some(Operator::Multiply),
        _ => None,
    };
    let ops: Option<Vec<Operator>> = text.chars().map(op).collect();
    Some(Arc::new(ScalarUDF::from(Checked::new(ops?))))
}

/// Operators put to use from left to right; without any it changes the sign.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Checked {
    name: String,
    ops: Vec<Operator>,
    signature: Signature,
}

impl Checked {
    fn new(ops: Vec<Operator>) -> Self {
        let name = match ops.as_slice() {
            [] => "-".to_owned(),
            ops => ops.iter().map(Operator::to_string).collect(),
        };
        Self {
            name,
            ops,
            signature: Signature::user_defined(Volatility::Immutable),
        }
    }

    /// What the operators make of their arguments in turn.
    fn fold<'a, A, R>(
        &self,
        args: &'a [A],
        first: impl FnOnce(&'a A) -> R,
        step: impl Fn(R, Operator, &'a A) -> Result<R>,
    ) -> Result<R> {
        let Some((begin, rest)) = args
            .split_first()
            .filter(|_| args.len() == self.ops.len() + 1)
        else {
            return plan_err!("{} takes {} arguments", self.name, self.ops.len() + 1);
        };
        let mut result = first(begin);
        for (&op, arg) in self.ops.iter().zip(rest) {
            result = step(result, op, arg)?;
        }
        Ok(result)
    }
}

impl ScalarUDFImpl for Checked {
    fn name(&self) -> &str {
        &self.name
    }

    /// The name that the operators have in answers.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        match (self.ops.is_empty(), args) {
            (true, [value]) => Ok(format!("(- {})", value.schema_name())),
            _ => self.fold(
                args,
                |first| first.schema_name().to_string(),
                |name, op, arg| Ok(format!("{name} {op} {}", arg.schema_name())),
            ),
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        let common = self.return_type(given)?;
        Ok(vec![common; given.len()])
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.fold(types, DataType::clone, |left, op, right| {
            BinaryTypeCoercer::new(&left, &op, right).get_result_type()
        })
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let fields = args.arg_fields.iter();
        let types: Vec<DataType> = fields.map(|field| field.data_type().clone()).collect();
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        let ty = self.return_type(&types)?;
        Ok(Arc::new(Field::new(self.name(), ty, nullable)))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if let ([], [value]) = (self.ops.as_slice(), args.args.as_slice()) {
            return match value {
                ColumnarValue::Array(values) => Ok(ColumnarValue::Array(neg(values)?)),
                ColumnarValue::Scalar(value) => {
                    let negated = neg(&value.to_array()?)?;
                    ScalarValue::try_from_array(&negated, 0).map(ColumnarValue::Scalar)
                }
            };
        }
        self.fold(
            &args.args,
            ColumnarValue::clone,
            |left, op, right| match op {
                Operator::Plus => apply(&left, right, add),
                Operator::Minus => apply(&left, right, sub),
                Operator::Multiply => apply(&left, right, mul),
                other => plan_err!("{other} is not checked"),
            },
        )
    }
}
