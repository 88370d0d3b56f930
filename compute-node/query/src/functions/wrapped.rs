//! DataFusion's functions with something of ours around them.
//!
//! * A call that makes much of little (`repeat('x', 1000000000)`) is measured before it runs:
//!   what expressions make is not under any memory limit.
//! * So is one that holds all of one argument against all of another (`levenshtein`): nothing interrupts it.
//! * A bucket of `date_bin` or `date_trunc` that begins before the first time that can be told is refused.
//! * A comparison of `date_bin(width, ts)` or `date_trunc(unit, ts)` with a constant becomes a range
//!   of `ts`, so that it prunes as if it had been written that way.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::compute::kernels::length::length;
use datafusion::arrow::compute::{cast, concat, min};
use datafusion::arrow::datatypes::{DataType, FieldRef, Int64Type};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::preimage::PreimageResult;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature,
};

use super::size;
use super::time_bucket;

/// What is put around a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Around {
    /// Bytes of the first argument times the second.
    Repeat,
    /// Characters given by the second argument.
    Pad,
    /// The third argument wherever the second one stands in the first.
    Replace,
    /// The third argument wherever the second one matches the first.
    RegexpReplace,
    /// Values given by the second argument.
    Values,
    /// Values from the first argument to the second.
    Series,
    /// Each character, or value, of the first argument is held against each of the second.
    Pairs,
    /// The start of the bucket that the second argument lies in.
    Bucket,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Wrapped {
    inner: Arc<ScalarUDF>,
    around: Around,
}

/// The function with what belongs around it.
pub(super) fn wrap(function: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    let around = match function.name() {
        "repeat" => Around::Repeat,
        "lpad" | "rpad" => Around::Pad,
        "replace" => Around::Replace,
        "regexp_replace" => Around::RegexpReplace,
        "array_repeat" | "array_resize" => Around::Values,
        "range" | "generate_series" => Around::Series,
        "date_bin" | "date_trunc" => Around::Bucket,
        "levenshtein" | "btrim" | "ltrim" | "rtrim" | "array_has_all" | "array_has_any" => {
            Around::Pairs
        }
        _ => return function,
    };
    Arc::new(ScalarUDF::from(Wrapped {
        inner: function,
        around,
    }))
}

/// What is counted of an argument, one per row; a constant is looked at once, as large as it may be.
fn counted(
    arg: &ColumnarValue,
    rows: usize,
    count: impl Fn(&ArrayRef) -> Option<Vec<i128>>,
) -> Option<Vec<i128>> {
    match arg {
        ColumnarValue::Array(array) => count(array),
        ColumnarValue::Scalar(value) => {
            let one = count(&value.to_array().ok()?)?;
            Some(vec![*one.first()?; rows])
        }
    }
}

/// Numbers of an argument, one per row; `None` where it is no number.
fn numbers(arg: &ColumnarValue, rows: usize) -> Option<Vec<i128>> {
    counted(arg, rows, |array| {
        let wide = cast(array, &DataType::Int64).ok()?;
        let wide = wide.as_primitive::<Int64Type>();
        let of_row = |row| match wide.is_valid(row) {
            true => wide.value(row).max(0).into(),
            false => 0,
        };
        Some((0..wide.len()).map(of_row).collect())
    })
}

/// Bytes of a text argument, one count per row.
fn lengths(arg: &ColumnarValue, rows: usize) -> Option<Vec<i128>> {
    counted(arg, rows, |array| {
        let text = cast(array, &DataType::LargeUtf8).ok()?;
        let text = text.as_string::<i64>();
        let of_row = |row| text.value_length(row).into();
        Some((0..text.len()).map(of_row).collect())
    })
}

/// Bytes of a text or values of a list, one count per row; `None` where it is neither.
fn extents(arg: &ColumnarValue, rows: usize) -> Option<Vec<i128>> {
    let is_list = matches!(
        arg.data_type(),
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(_, _)
    );
    match is_list {
        true => counted(arg, rows, |lists| {
            let counts = ColumnarValue::Array(length(lists.as_ref()).ok()?);
            numbers(&counts, lists.len())
        }),
        false => lengths(arg, rows),
    }
}

impl Wrapped {
    /// Replaces matches, some rows at a time where all of them might make too much: how much it is, is
    /// known only when it is made.
    fn replace(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = |arg: &ColumnarValue| matches!(arg, ColumnarValue::Scalar(_));
        let rows = match args.args.iter().all(constant) {
            true => 1,
            false => args.number_rows,
        };
        let at_most = replaced_at_most(&args.args, rows).unwrap_or_default();
        if at_most.iter().sum::<i128>() <= size::TEXT_BYTES_MAX {
            return self.inner.invoke_with_args(args);
        }
        let (mut start, mut made, mut parts) = (0, 0, Vec::new());
        while start < rows {
            check_text(self.name(), at_most[start])?;
            let mut sum = 0;
            let fits = at_most[start..].iter().take_while(|bytes| {
                sum += **bytes;
                sum <= size::TEXT_BYTES_MAX
            });
            let count = fits.count();
            let slice = args.args.iter().map(|arg| match arg {
                ColumnarValue::Array(array) => ColumnarValue::Array(array.slice(start, count)),
                scalar => scalar.clone(),
            });
            let part = self.inner.invoke_with_args(ScalarFunctionArgs {
                args: slice.collect(),
                number_rows: count,
                ..args.clone()
            })?;
            let part = part.into_array(count)?;
            let lengths = lengths(&ColumnarValue::Array(Arc::clone(&part)), count);
            made += lengths.unwrap_or_default().iter().sum::<i128>();
            check_text(self.name(), made)?;
            parts.push(part);
            start += count;
        }
        let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
        Ok(ColumnarValue::Array(concat(&parts)?))
    }

    fn check(&self, args: &ScalarFunctionArgs) -> Result<()> {
        let (name, rows) = (self.inner.name(), args.number_rows);
        match (self.around, args.args.as_slice()) {
            (Around::Repeat, [text, times, ..]) => {
                let (Some(lengths), Some(times)) = (lengths(text, rows), numbers(times, rows))
                else {
                    return Ok(());
                };
                let made = lengths
                    .iter()
                    .zip(&times)
                    .map(|(length, times)| length * times)
                    .sum();
                check_text(name, made)
            }
            (Around::Pad, [_, length, ..]) => {
                let made = numbers(length, rows).map_or(0, |lengths| lengths.iter().sum());
                check_text(name, made)
            }
            (Around::Replace, [text, from, to]) => {
                let texts = [text, from, to].map(texts);
                let [Some(text), Some(from), Some(to)] = texts else {
                    return Ok(());
                };
                let mut made: i128 = 0;
                for row in 0..rows {
                    let [text, from, to] = [&text, &from, &to].map(|texts| of_row(texts, row));
                    let count = text.matches(from).count() as i128;
                    made += text.len() as i128;
                    made += count * (to.len() as i128 - from.len() as i128);
                    check_text(name, made)?;
                }
                Ok(())
            }
            (Around::Values, [_, count, ..]) => {
                let count = match name {
                    "array_repeat" => count,
                    _ => &args.args[1],
                };
                let made = numbers(count, rows).map_or(0, |counts| counts.iter().sum());
                size::check_values(name, made)
            }
            (Around::Pairs, [one, other]) => {
                let constant = |arg: &ColumnarValue| matches!(arg, ColumnarValue::Scalar(_));
                let rows = match constant(one) && constant(other) {
                    true => 1,
                    false => rows,
                };
                let (Some(one), Some(other)) = (extents(one, rows), extents(other, rows)) else {
                    return Ok(());
                };
                let made = one.iter().zip(&other).map(|(one, other)| one * other).sum();
                size::check_pairs(name, made)
            }
            (Around::Series, series) => {
                let mut made: i128 = 0;
                for row in 0..rows {
                    let scalars = series.iter().map(|arg| match arg {
                        ColumnarValue::Scalar(value) => Ok(value.clone()),
                        ColumnarValue::Array(array) => ScalarValue::try_from_array(array, row),
                    });
                    let scalars = scalars.collect::<Result<Vec<_>>>()?;
                    made += size::series(&scalars).unwrap_or(0);
                    size::check_values(name, made)?;
                }
                Ok(())
            }
            (Around::Bucket, _) => check_earliest(name, args),
            _ => Ok(()),
        }
    }
}

/// Refuses the earliest time whose bucket would begin before the first time that can be told: inside the
/// function that is wrapped to the far end of time, or NULL.
fn check_earliest(function: &str, args: &ScalarFunctionArgs) -> Result<()> {
    let Some(time) = args.args.get(1) else {
        return Ok(());
    };
    let DataType::Timestamp(unit, _) = time.data_type() else {
        return Ok(());
    };
    let constants = args.args.iter().map(|arg| match arg {
        ColumnarValue::Scalar(value) => value.clone(),
        ColumnarValue::Array(_) => ScalarValue::Null,
    });
    let constants: Vec<Expr> = constants.map(|value| Expr::Literal(value, None)).collect();
    let Some(bucket) = time_bucket::bucket_of(function, &constants) else {
        return Ok(());
    };
    let stored = cast(&time.to_array(1)?, &DataType::Int64)?;
    match min(stored.as_primitive::<Int64Type>()) {
        Some(earliest) => Ok(bucket.check(earliest, unit)?),
        None => Ok(()),
    }
}

/// A text argument, one value per row or one for all; `None` where it is no text.
fn texts(arg: &ColumnarValue) -> Option<ArrayRef> {
    let array = match arg {
        ColumnarValue::Array(array) => Arc::clone(array),
        ColumnarValue::Scalar(value) => value.to_array().ok()?,
    };
    cast(&array, &DataType::LargeUtf8).ok()
}

fn of_row(texts: &ArrayRef, row: usize) -> &str {
    let texts = texts.as_string::<i64>();
    let row = if texts.len() == 1 { 0 } else { row };
    match texts.is_valid(row) {
        true => texts.value(row),
        false => "",
    }
}

/// The most bytes that replacing matches can make of each row: a replacement at every place, and for
/// each `\1` in it all of the text once more, for matches do not overlap.
fn replaced_at_most(args: &[ColumnarValue], rows: usize) -> Option<Vec<i128>> {
    let [text, _, to, ..] = args else {
        return None;
    };
    let (text, to) = (texts(text)?, texts(to)?);
    let at_most = (0..rows).map(|row| {
        let (text, to) = (of_row(&text, row), of_row(&to, row));
        let (length, groups) = (text.len() as i128, to.matches('\\').count() as i128);
        (length + 1) * to.len() as i128 + (1 + groups) * length
    });
    Some(at_most.collect())
}

fn check_text(function: &str, made: i128) -> Result<()> {
    match made > size::TEXT_BYTES_MAX {
        true => Err(size::too_much(
            function,
            "bytes",
            made,
            size::TEXT_BYTES_MAX,
        )),
        false => Ok(()),
    }
}

/// The times whose bucket begins at the literal; an empty range before the next bucket where no
/// bucket begins there, which answers every comparison rightly.
pub(super) fn preimage(
    function: &str,
    args: &[Expr],
    literal: &Expr,
    info: &SimplifyContext,
) -> Result<PreimageResult> {
    let range = || {
        let Expr::Literal(value, _) = literal else {
            return None;
        };
        let time = args.get(1)?;
        let ty = info.get_data_type(time).ok()?;
        time_bucket::bucket_of(function, args)?.range(value, &ty)
    };
    Ok(match range() {
        Some((start, end)) => PreimageResult::Range {
            expr: args[1].clone(),
            interval: Box::new(Interval::try_new(start, end)?),
        },
        None => PreimageResult::None,
    })
}

impl ScalarUDFImpl for Wrapped {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.inner.schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let width = args.scalar_arguments.first();
        if let (Around::Bucket, Some(Some(ScalarValue::IntervalMonthDayNano(Some(width))))) =
            (self.around, width)
        {
            time_bucket::check_width(self.name(), *width)?;
        }
        self.inner.return_field_from_args(args)
    }

    fn is_strict(&self) -> bool {
        self.inner.is_strict()
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.inner().coerce_types(types)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.check(&args)?;
        match self.around {
            Around::RegexpReplace => self.replace(args),
            _ => self.inner.invoke_with_args(args),
        }
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        self.inner.simplify(args, info)
    }

    fn preimage(
        &self,
        args: &[Expr],
        literal: &Expr,
        info: &SimplifyContext,
    ) -> Result<PreimageResult> {
        match self.around {
            Around::Bucket => preimage(self.name(), args, literal, info),
            _ => self.inner.preimage(args, literal, info),
        }
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.inner.output_ordering(inputs)
    }

    fn preserves_lex_ordering(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.inner.preserves_lex_ordering(inputs)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}
