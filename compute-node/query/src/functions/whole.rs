//! What an INSERT puts into an integer column, a time or a FLOAT, where the query gives it as a wider
//! float or a DECIMAL.
//!
//! A cast would cut off what stands behind the point, or make infinity of what is too large; here a value
//! goes in as it is (to a FLOAT's precision) or is refused by its column's name.

use std::sync::Arc;

use auxo_proto::error::{ErrorCode, Failure};
use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::compute::kernels::cmp::distinct;
use datafusion::arrow::datatypes::{DataType, Float32Type, Float64Type};
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::expr::{Alias, Cast, ScalarFunction};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, LogicalPlan, Projection, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Values, Volatility,
};

use crate::failure::shortened;
use crate::semantics::type_name;

/// The query of an INSERT with checks in the place of such casts.
///
/// * `input`: the plan that gives a table's columns, as DataFusion makes it.
pub(crate) fn check_casts(input: LogicalPlan) -> Result<LogicalPlan> {
    let LogicalPlan::Projection(projection) = input else {
        return Ok(input);
    };
    let Projection { expr, input, .. } = projection;
    let input = Arc::new(of_inner_values(Arc::unwrap_or_clone(input))?);
    let input = match Arc::unwrap_or_clone(input) {
        LogicalPlan::Values(values) => LogicalPlan::Values(of_values(values, &expr)?),
        other => other,
    };
    let schema = Arc::clone(input.schema());
    let expr = expr.into_iter().map(|expr| match expr {
        Expr::Alias(alias) => {
            let checked = checked(*alias.expr, &alias.name, &schema);
            Expr::Alias(Alias {
                expr: Box::new(checked),
                ..alias
            })
        }
        expr => expr,
    });
    let projection = Projection::try_new(expr.collect(), Arc::new(input))?;
    Ok(LogicalPlan::Projection(projection))
}

/// The planner casts the rows of every VALUES below an INSERT as if they went straight into the table.
fn of_inner_values(input: LogicalPlan) -> Result<LogicalPlan> {
    if matches!(input, LogicalPlan::Values(_)) {
        return Ok(input);
    }
    let none = DFSchema::empty();
    let checked = input.transform_down_with_subqueries(|node| {
        let LogicalPlan::Values(mut values) = node else {
            return Ok(Transformed::no(node));
        };
        for row in &mut values.values {
            for (value, field) in row.iter_mut().zip(values.schema.fields()) {
                *value = checked(std::mem::take(value), field.name(), &none);
            }
        }
        Ok(Transformed::yes(LogicalPlan::Values(values)))
    })?;
    Ok(checked.data)
}

/// Rows are cast where they stand; which column each goes to is told by those who take from them.
fn of_values(values: Values, taken: &[Expr]) -> Result<Values> {
    let Values {
        schema,
        values: mut rows,
    } = values;
    let none = DFSchema::empty();
    for taken in taken {
        if let Expr::Alias(alias) = taken
            && let Expr::Column(column) = alias.expr.as_ref()
            && let Some(at) = schema.maybe_index_of_column(column)
        {
            for row in &mut rows {
                let value = std::mem::take(&mut row[at]);
                row[at] = checked(value, &alias.name, &none);
            }
        }
    }
    Ok(Values {
        schema,
        values: rows,
    })
}

fn checked(expr: Expr, column: &str, schema: &DFSchema) -> Expr {
    match expr {
        Expr::Cast(Cast { expr, field }) if narrows(field.data_type()) => {
            let given = expr.get_type(schema);
            match given {
                // What is whole now may be widened by another branch of it later.
                Ok(ty) if ty.is_numeric() => {
                    let function = Whole {
                        column: column.to_owned(),
                        ty: field.data_type().clone(),
                        signature: Signature::any(1, Volatility::Immutable),
                    };
                    let function = Arc::new(ScalarUDF::from(function));
                    Expr::ScalarFunction(ScalarFunction::new_udf(function, vec![*expr]))
                }
                _ => Expr::Cast(Cast { expr, field }),
            }
        }
        expr => expr,
    }
}

/// Types into which a cast may lose more than digits.
fn narrows(ty: &DataType) -> bool {
    ty.is_integer() || matches!(ty, DataType::Float32 | DataType::Timestamp(_, _))
}

/// Values of whatever type a query came to, as a column's: branches of CASE and UNION widen each other after
/// the casts of an INSERT were placed.
///
/// * errors: names the column and the first value that does not fit, as [`check_casts`] has it.
pub(crate) fn fitted(column: &str, given: &ArrayRef, ty: &DataType) -> Result<ArrayRef, Failure> {
    if given.data_type() == ty {
        return Ok(Arc::clone(given));
    }
    let unfit = |code, value: &str| {
        let detail = format!("column {column} is {}, {value} does not fit", type_name(ty));
        Failure::new(code, detail)
    };
    let of_type = || {
        let given = type_name(given.data_type());
        unfit(ErrorCode::TypeMismatch, &format!("a value of type {given}"))
    };
    let number = given.data_type().is_numeric();
    if number && narrows(ty) {
        let function = Whole {
            column: column.to_owned(),
            ty: ty.clone(),
            signature: Signature::any(1, Volatility::Immutable),
        };
        return function.of_array(given).map_err(|error| match error {
            DataFusionError::External(inner) => match inner.downcast::<Failure>() {
                Ok(failure) => *failure,
                Err(_) => of_type(),
            },
            _ => of_type(),
        });
    }
    let stored = cast(given, ty).map_err(|_| of_type())?;
    let nulls = given.logical_nulls();
    let had_value = |row| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
    let lost = (0..given.len()).find(|&row| stored.is_null(row) && had_value(row));
    match lost {
        None => Ok(stored),
        Some(row) => {
            let value = array_value_to_string(given, row).unwrap_or_default();
            Err(unfit(ErrorCode::ValueOutOfRange, &shortened(&value)))
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Whole {
    column: String,
    ty: DataType,
    signature: Signature,
}

impl Whole {
    fn of_array(&self, given: &ArrayRef) -> Result<ArrayRef> {
        let stored = match self.ty {
            // A time is a count of its unit.
            DataType::Timestamp(_, _) => cast(given, &DataType::Int64)?,
            _ => cast(given, &self.ty)?,
        };
        let lost = match self.ty {
            DataType::Float32 => infinite(given, &stored)?,
            _ => {
                let back = cast(&stored, given.data_type())?;
                distinct(given, &back)?.values().set_indices().next()
            }
        };
        let Some(row) = lost else {
            return Ok(cast(&stored, &self.ty)?);
        };
        let value = array_value_to_string(given, row)?;
        let (column, ty) = (&self.column, type_name(&self.ty));
        let failure = match stored.is_null(row) || self.ty == DataType::Float32 {
            true => {
                let detail = format!("column {column} is {ty}, {value} does not fit");
                Failure::new(ErrorCode::ValueOutOfRange, detail)
            }
            false => {
                let detail = format!("column {column} is {ty}, {value} is not whole");
                Failure::new(ErrorCode::TypeMismatch, detail)
            }
        };
        Err(DataFusionError::External(Box::new(failure)))
    }
}

/// The first row whose value became infinite and was not.
fn infinite(given: &ArrayRef, stored: &ArrayRef) -> Result<Option<usize>> {
    let given = cast(given, &DataType::Float64)?;
    let given = given.as_primitive::<Float64Type>();
    let stored = stored.as_primitive::<Float32Type>();
    let mut rows = 0..stored.len();
    Ok(rows.find(|&row| {
        stored.is_valid(row) && stored.value(row).is_infinite() && given.value(row).is_finite()
    }))
}

impl ScalarUDFImpl for Whole {
    fn name(&self) -> &str {
        "whole"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.ty.clone())
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match &args.args[0] {
            ColumnarValue::Array(given) => self.of_array(given).map(ColumnarValue::Array),
            ColumnarValue::Scalar(given) => {
                let stored = self.of_array(&given.to_array()?)?;
                ScalarValue::try_from_array(&stored, 0).map(ColumnarValue::Scalar)
            }
        }
    }
}
