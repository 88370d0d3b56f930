//! How much a call would make, before it makes it.
//!
//! Arguments are taken as they come: a call whose size cannot be told from them is let through,
//! because the function itself refuses such arguments.

use std::sync::Arc;

use auxo_proto::error::{ErrorCode, Failure};
use datafusion::catalog::{TableFunction, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{Result, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::Expr;

/// Values that one call may make.
pub(super) const VALUES_MAX: i128 = 1_000_000;
/// Bytes of text that one call may make for a batch.
pub(super) const TEXT_BYTES_MAX: i128 = 64 << 20;

/// Comparisons that one call may make for a batch: a second or so.
pub(super) const PAIRS_MAX: i128 = 1 << 30;

/// The failure of a call that would make too much.
pub(super) fn too_much(function: &str, what: &str, made: i128, limit: i128) -> DataFusionError {
    let detail = format!("{function} would make {made} {what}, the limit is {limit}");
    DataFusionError::External(Box::new(Failure::new(ErrorCode::QueryLimit, detail)))
}

/// Refuses more values than a call may make.
pub(super) fn check_values(function: &str, made: i128) -> Result<()> {
    match made > VALUES_MAX {
        true => Err(too_much(function, "values", made, VALUES_MAX)),
        false => Ok(()),
    }
}

/// Refuses more comparisons than a call may make for a batch.
pub(super) fn check_pairs(function: &str, made: i128) -> Result<()> {
    match made > PAIRS_MAX {
        true => Err(too_much(function, "comparisons", made, PAIRS_MAX)),
        false => Ok(()),
    }
}

/// Nanoseconds, days or plain numbers of a value; all arguments of one call are of one kind.
fn number(value: &ScalarValue) -> Option<i128> {
    const DAY: i128 = 86_400_000_000_000;
    Some(match *value {
        ScalarValue::Int8(value) => value?.into(),
        ScalarValue::Int16(value) => value?.into(),
        ScalarValue::Int32(value) => value?.into(),
        ScalarValue::Int64(value) => value?.into(),
        ScalarValue::UInt8(value) => value?.into(),
        ScalarValue::UInt16(value) => value?.into(),
        ScalarValue::UInt32(value) => value?.into(),
        ScalarValue::UInt64(value) => value?.into(),
        ScalarValue::Date32(value) => i128::from(value?) * DAY,
        ScalarValue::Date64(value) => i128::from(value?) * 1_000_000,
        ScalarValue::TimestampSecond(value, _) => i128::from(value?) * 1_000_000_000,
        ScalarValue::TimestampMillisecond(value, _) => i128::from(value?) * 1_000_000,
        ScalarValue::TimestampMicrosecond(value, _) => i128::from(value?) * 1_000,
        ScalarValue::TimestampNanosecond(value, _) => value?.into(),
        ScalarValue::IntervalYearMonth(value) => i128::from(value?) * 28 * DAY,
        ScalarValue::IntervalDayTime(value) => {
            let value = value?;
            i128::from(value.days) * DAY + i128::from(value.milliseconds) * 1_000_000
        }
        ScalarValue::IntervalMonthDayNano(value) => {
            let value = value?;
            let days = i128::from(value.months) * 28 + i128::from(value.days);
            days * DAY + i128::from(value.nanoseconds)
        }
        _ => return None,
    })
}

/// Values from the first to the second argument in steps of the third, both ends counted.
pub(super) fn series(args: &[ScalarValue]) -> Option<i128> {
    let (start, stop) = match args {
        [stop] => (0, number(stop)?),
        [start, stop, ..] => (number(start)?, number(stop)?),
        [] => return None,
    };
    let step = match args.get(2) {
        Some(step) => number(step)?,
        None => 1,
    };
    if step == 0 {
        return None;
    }
    Some(((stop - start) / step).max(-1) + 1)
}

/// The same table function under the bound.
pub(super) fn bounded(function: &TableFunction) -> Arc<TableFunction> {
    let bounded = Bounded {
        name: function.name().to_owned(),
        inner: Arc::clone(function.function()),
    };
    Arc::new(TableFunction::new(
        function.name().to_owned(),
        Arc::new(bounded),
    ))
}

#[derive(Debug)]
struct Bounded {
    name: String,
    inner: Arc<dyn TableFunctionImpl>,
}

impl TableFunctionImpl for Bounded {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let values: Option<Vec<ScalarValue>> = args
            .exprs()
            .iter()
            .map(|expr| match expr {
                Expr::Literal(value, _) => Some(value.clone()),
                _ => None,
            })
            .collect();
        if let Some(made) = values.and_then(|values| series(&values)) {
            check_values(&self.name, made)?;
        }
        self.inner.call_with_args(args)
    }
}
