//! `time_bucket(width, time [, origin [, zone]])`: the start of the bucket a time lies in.
//!
//! * `width`: an interval, or text such as `5m`, `1h30m`, `1mo`. Widths of months are calendar
//!   months; a width has months or a fixed length, not both.
//! * `origin`: where a bucket begins. Without one, 2000-01-03T00:00 (a Monday) for fixed widths and
//!   2000-01-01 for months, so that weeks begin on Mondays.
//! * `zone`: buckets follow that zone's clock, days of 23 and 25 hours included.
//! * returns: the type of `time`; NULL where width or time are.
//! * source: TimescaleDB's `time_bucket`, for the arguments and the default origin.

use std::str::FromStr;
use std::sync::Arc;

use chrono::{DateTime, Datelike, Months, NaiveDateTime, Offset, TimeZone, Utc};
use datafusion::arrow::array::timezone::Tz;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{
    DataType, Field, FieldRef, Int64Type, IntervalMonthDayNano, IntervalUnit, TimeUnit,
    TimestampNanosecondType,
};
use datafusion::arrow::error::ArrowError;
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::preimage::PreimageResult;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

use super::wrapped;
use crate::duration::parse_interval;

/// The function, for registration.
pub(super) fn udf() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::from(TimeBucket {
        signature: Signature::user_defined(Volatility::Immutable),
    }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct TimeBucket {
    signature: Signature,
}

const NAME: &str = "time_bucket";
const NS_PER_DAY: i64 = 86_400_000_000_000;
/// 2000-01-03T00:00:00Z.
const MONDAY: i64 = 946_857_600_000_000_000;
/// 2000-01-01T00:00:00Z.
const CENTURY: i64 = 946_684_800_000_000_000;

impl ScalarUDFImpl for TimeBucket {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        if !(2..=4).contains(&given.len()) {
            return plan_err!(
                "Function 'time_bucket' takes (width, time [, origin [, zone]]), not {} arguments",
                given.len()
            );
        }
        let text = |ty: &DataType| {
            ty.is_string() || matches!(ty, DataType::Dictionary(_, value) if value.is_string())
        };
        let width = match &given[0] {
            ty if text(ty) || ty.is_null() => DataType::Utf8,
            DataType::Interval(_) | DataType::Duration(_) => {
                DataType::Interval(IntervalUnit::MonthDayNano)
            }
            other => return plan_err!("Function 'time_bucket' has no type {other} as width"),
        };
        let time = match &given[1] {
            DataType::Timestamp(unit, zone) => DataType::Timestamp(*unit, zone.clone()),
            ty if text(ty) || ty.is_null() || matches!(ty, DataType::Date32 | DataType::Date64) => {
                DataType::Timestamp(TimeUnit::Nanosecond, None)
            }
            other => return plan_err!("Function 'time_bucket' has no type {other} as time"),
        };
        let mut types = vec![width, time];
        if let Some(origin) = given.get(2) {
            match origin {
                DataType::Timestamp(_, _) | DataType::Date32 | DataType::Date64 => {}
                ty if text(ty) || ty.is_null() => {}
                other => return plan_err!("Function 'time_bucket' has no type {other} as origin"),
            }
            types.push(DataType::Timestamp(TimeUnit::Nanosecond, None));
        }
        if let Some(zone) = given.get(3) {
            if !text(zone) && !zone.is_null() {
                return plan_err!("Function 'time_bucket' has no type {zone} as zone");
            }
            types.push(DataType::Utf8);
        }
        Ok(types)
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types.get(1) {
            Some(time) => Ok(time.clone()),
            None => plan_err!("Function 'time_bucket' needs a time"),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let types: Vec<DataType> = args
            .arg_fields
            .iter()
            .map(|field| field.data_type().clone())
            .collect();
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        let constants = args.scalar_arguments.iter().enumerate();
        let constants: Option<Vec<ColumnarValue>> = constants
            .map(|(at, value)| match (at, value) {
                (1, _) => Some(ColumnarValue::Scalar(ScalarValue::Null)),
                (_, value) => value.map(|value| ColumnarValue::Scalar(value.clone())),
            })
            .collect();
        if let Some(constants) = constants {
            Bucket::of_args(&constants)?;
        }
        let ty = self.return_type(&types)?;
        Ok(Arc::new(Field::new(self.name(), ty, nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(bucket) = Bucket::of_args(&args.args)? else {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from(
                args.return_type(),
            )?));
        };
        let time = args.args[1].to_array(args.number_rows)?;
        let buckets = bucket.of_array(&time)?;
        match &args.args[1] {
            ColumnarValue::Array(_) => Ok(ColumnarValue::Array(buckets)),
            ColumnarValue::Scalar(_) => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(
                &buckets, 0,
            )?)),
        }
    }

    fn preimage(
        &self,
        args: &[Expr],
        literal: &Expr,
        info: &SimplifyContext,
    ) -> Result<PreimageResult> {
        wrapped::preimage(self.name(), args, literal, info)
    }

    fn output_ordering(&self, input: &[ExprProperties]) -> Result<SortProperties> {
        // With a zone the clock may go back, and buckets with it.
        Ok(match input {
            [_, time] | [_, time, _] => time.sort_properties,
            _ => SortProperties::Unordered,
        })
    }
}

/// The last moment of a unit that is not later than a time.
pub(crate) fn cut_to(time: Expr, unit: TimeUnit) -> Expr {
    udf().call(vec![one(unit), time])
}

/// Whether an expression is such a call.
pub(crate) fn is_cut_to(expr: &Expr, unit: TimeUnit) -> bool {
    match expr {
        Expr::ScalarFunction(call) => {
            call.func.inner().is::<TimeBucket>() && call.args.first() == Some(&one(unit))
        }
        _ => false,
    }
}

/// The width of one of a unit.
fn one(unit: TimeUnit) -> Expr {
    let width = IntervalMonthDayNano::new(0, 0, ns_per_unit(unit));
    Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(width)), None)
}

/// The buckets that a call of `time_bucket`, `date_bin` or `date_trunc` makes, where all arguments
/// but the time are constants.
pub(super) fn bucket_of(function: &str, args: &[Expr]) -> Option<Bucket> {
    let literal = |at: usize| match args.get(at) {
        Some(Expr::Literal(value, _)) if !value.is_null() => Some(value),
        _ => None,
    };
    if function == "date_trunc" {
        let (width, origin) = match literal(0)? {
            ScalarValue::Utf8(Some(unit)) | ScalarValue::Utf8View(Some(unit)) => truncation(unit)?,
            _ => return None,
        };
        return Some(Bucket {
            width,
            origin,
            zone: None,
        });
    }
    let mut constants = Vec::with_capacity(args.len());
    for at in 0..args.len() {
        constants.push(match at {
            1 => ColumnarValue::Scalar(ScalarValue::Int64(Some(0))),
            at => ColumnarValue::Scalar(literal(at)?.clone()),
        });
    }
    let mut bucket = Bucket::of_args(&constants).ok()??;
    if function == "date_bin" && args.len() == 2 {
        bucket.origin = 0;
    }
    bucket.zone.is_none().then_some(bucket)
}

/// Width and origin of a unit that `date_trunc` knows.
fn truncation(unit: &str) -> Option<(Width, i64)> {
    let second = 1_000_000_000;
    Some(match unit.to_lowercase().as_str() {
        "microsecond" => (Width::Ns(1_000), 0),
        "millisecond" => (Width::Ns(1_000_000), 0),
        "second" => (Width::Ns(second), 0),
        "minute" => (Width::Ns(60 * second), 0),
        "hour" => (Width::Ns(3_600 * second), 0),
        "day" => (Width::Ns(NS_PER_DAY), 0),
        "week" => (Width::Ns(7 * NS_PER_DAY), MONDAY),
        "month" => (Width::Months(1), CENTURY),
        "quarter" => (Width::Months(3), CENTURY),
        "year" => (Width::Months(12), CENTURY),
        _ => return None,
    })
}

/// The width of a bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Width {
    Months(i64),
    Ns(i64),
}

/// How times are put into buckets; all times in nanoseconds since 1970.
pub(super) struct Bucket {
    width: Width,
    origin: i64,
    zone: Option<Tz>,
}

impl Bucket {
    /// `None` where the width is NULL; an origin or a zone that is NULL is as if not given.
    fn of_args(args: &[ColumnarValue]) -> Result<Option<Self>> {
        let constant = |at: usize| match args.get(at) {
            Some(ColumnarValue::Array(_)) => {
                plan_err!("width, origin and zone of time_bucket are constants")
            }
            Some(ColumnarValue::Scalar(value)) if !value.is_null() => Ok(Some(value)),
            _ => Ok(None),
        };
        let width = match constant(0)? {
            None => return Ok(None),
            Some(ScalarValue::IntervalMonthDayNano(Some(interval))) => width(NAME, *interval)?,
            Some(value) => match value
                .try_as_str()
                .flatten()
                .map(|text| (text, parse_interval(text)))
            {
                Some((_, Some(interval))) => width(NAME, interval)?,
                Some((text, None)) => {
                    return plan_err!("'{text}' is no width such as 5m or 1h30m");
                }
                None => return plan_err!("time_bucket has no width {value}"),
            },
        };
        let origin = match constant(2)? {
            Some(origin) => nanoseconds(origin)?,
            None => match width {
                Width::Months(_) => CENTURY,
                Width::Ns(_) => MONDAY,
            },
        };
        let zone = match constant(3)?.and_then(|zone| zone.try_as_str().flatten()) {
            Some(zone) => match Tz::from_str(zone) {
                Ok(zone) => Some(zone),
                Err(_) => return plan_err!("'{zone}' is no time zone such as Europe/Berlin"),
            },
            None => None,
        };
        Ok(Some(Self {
            width,
            origin,
            zone,
        }))
    }

    /// The times of one bucket as literals of the column's type: those whose bucket begins at the
    /// given time, or none, before the next bucket, where no bucket begins there.
    pub(super) fn range(
        &self,
        begin: &ScalarValue,
        ty: &DataType,
    ) -> Option<(ScalarValue, ScalarValue)> {
        let DataType::Timestamp(unit, None) = ty else {
            return None;
        };
        let per_unit = ns_per_unit(*unit);
        let aligned = match self.width {
            Width::Ns(width) => width % per_unit == 0,
            Width::Months(_) => true,
        };
        if !aligned || self.origin % per_unit != 0 {
            return None;
        }
        let begin = nanoseconds(begin).ok()?;
        let start = self.start_local(begin)?;
        let next = match self.width {
            Width::Ns(width) => start.checked_add(width)?,
            Width::Months(width) => {
                let months = Months::new(u32::try_from(width).ok()?);
                DateTime::<Utc>::from_timestamp_nanos(start)
                    .checked_add_months(months)?
                    .timestamp_nanos_opt()?
            }
        };
        let first = if start == begin { start } else { next };
        let literal = |ns: i64| {
            ScalarValue::TimestampNanosecond(Some(ns), None)
                .cast_to(ty)
                .ok()
        };
        Some((literal(first)?, literal(next)?))
    }

    /// Refuses a time, counted in the unit, whose bucket begins before the first time that can be told.
    pub(super) fn check(&self, time: i64, unit: TimeUnit) -> Result<(), ArrowError> {
        match time.checked_mul(ns_per_unit(unit)) {
            Some(ns) => self.start_local(ns).map(drop).ok_or_else(out_of_range),
            None => Ok(()),
        }
    }

    fn of_array(&self, time: &ArrayRef) -> Result<ArrayRef> {
        let DataType::Timestamp(unit, zone) = time.data_type() else {
            return exec_err!("time_bucket takes timestamps, not {}", time.data_type());
        };
        let (unit, zone) = (*unit, zone.clone());
        let per_unit = ns_per_unit(unit);
        if let (Width::Ns(width), None) = (self.width, self.zone)
            && width % per_unit == 0
            && self.origin % per_unit == 0
        {
            return self.of_fixed(time, width / per_unit, self.origin / per_unit);
        }
        let wanted = DataType::Timestamp(TimeUnit::Nanosecond, None);
        let plain = cast(time, &DataType::Timestamp(unit, None))?;
        let ns = cast(&plain, &wanted)?;
        let ns = ns.as_primitive::<TimestampNanosecondType>();
        let buckets: PrimitiveArray<TimestampNanosecondType> =
            ns.try_unary(|time| self.start(time).ok_or_else(out_of_range))?;
        let buckets = cast(&buckets, &DataType::Timestamp(unit, None))?;
        Ok(cast(&buckets, &DataType::Timestamp(unit, zone))?)
    }

    /// Buckets of fixed width straight on the stored numbers, in the unit of the column.
    fn of_fixed(&self, time: &ArrayRef, width: i64, origin: i64) -> Result<ArrayRef> {
        let stored = cast(time, &DataType::Int64)?;
        let stored = stored.as_primitive::<Int64Type>();
        // Times mostly rise: the bucket of the row before is tried first.
        let (mut start, mut end) = (0, 0);
        let mut buckets = Vec::with_capacity(stored.len());
        for (row, &time) in stored.values().iter().enumerate() {
            if (time < start || time >= end) && stored.is_valid(row) {
                let since = i128::from(time) - i128::from(origin);
                let begin = since.div_euclid(width.into()) * i128::from(width) + i128::from(origin);
                start = i64::try_from(begin).map_err(|_| out_of_range())?;
                end = start.saturating_add(width);
            }
            buckets.push(start);
        }
        let nulls = stored.nulls().cloned();
        let buckets = PrimitiveArray::<Int64Type>::new(buckets.into(), nulls);
        Ok(cast(&buckets, time.data_type())?)
    }

    /// Start of the bucket; `None` beyond what a timestamp can hold.
    fn start(&self, time: i64) -> Option<i64> {
        let Some(zone) = &self.zone else {
            return self.start_local(time);
        };
        let utc = DateTime::<Utc>::from_timestamp_nanos(time).naive_utc();
        let offset = |utc: &NaiveDateTime| {
            i64::from(zone.offset_from_utc_datetime(utc).fix().local_minus_utc()) * 1_000_000_000
        };
        let local = self.start_local(time.checked_add(offset(&utc))?)?;
        let wall = DateTime::<Utc>::from_timestamp_nanos(local).naive_utc();
        // A wall time that the clock skips or shows twice: the earlier instant, as the clock of the
        // rows before had it.
        let instant = match zone.offset_from_local_datetime(&wall).earliest() {
            Some(known) => {
                local.checked_sub(i64::from(known.fix().local_minus_utc()) * 1_000_000_000)?
            }
            None => local.checked_sub(offset(&utc))?,
        };
        Some(instant)
    }

    fn start_local(&self, time: i64) -> Option<i64> {
        match self.width {
            Width::Ns(width) => {
                let number = i128::from(time)
                    .checked_sub(self.origin.into())?
                    .div_euclid(width.into());
                i64::try_from(number * i128::from(width) + i128::from(self.origin)).ok()
            }
            Width::Months(width) => self.start_months(time, width),
        }
    }

    fn start_months(&self, time: i64, width: i64) -> Option<i64> {
        let origin = DateTime::<Utc>::from_timestamp_nanos(self.origin);
        let instant = DateTime::<Utc>::from_timestamp_nanos(time);
        let months = |when: &DateTime<Utc>| i64::from(when.year()) * 12 + i64::from(when.month0());
        let number = (months(&instant) - months(&origin)).div_euclid(width);
        let start = |number: i64| {
            let shift = u32::try_from(number.checked_mul(width)?.unsigned_abs()).ok()?;
            match number < 0 {
                true => origin.checked_sub_months(Months::new(shift)),
                false => origin.checked_add_months(Months::new(shift)),
            }
        };
        // The origin's day in the month may lie behind the time's.
        let begun = start(number)?;
        let begun = if begun > instant {
            start(number - 1)?
        } else {
            begun
        };
        begun.timestamp_nanos_opt()
    }
}

fn nanoseconds(time: &ScalarValue) -> Result<i64> {
    match time.cast_to(&DataType::Timestamp(TimeUnit::Nanosecond, None))? {
        ScalarValue::TimestampNanosecond(Some(ns), _) => Ok(ns),
        _ => plan_err!("origin of time_bucket is a time, not {time}"),
    }
}

fn ns_per_unit(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    }
}

fn out_of_range() -> ArrowError {
    ArrowError::ArithmeticOverflow("bucket begins before the first time that can be told".into())
}

/// Refuses a width that is none, in the name of a function that takes one.
pub(super) fn check_width(function: &str, interval: IntervalMonthDayNano) -> Result<()> {
    width(function, interval).map(drop)
}

fn width(function: &str, interval: IntervalMonthDayNano) -> Result<Width> {
    let ns = i64::from(interval.days)
        .checked_mul(NS_PER_DAY)
        .and_then(|days| days.checked_add(interval.nanoseconds));
    match (interval.months, ns) {
        (0, Some(ns)) if ns > 0 => Ok(Width::Ns(ns)),
        (months, Some(0)) if months > 0 => Ok(Width::Months(months.into())),
        (months, _) if months != 0 => {
            plan_err!("the width of {function} is months or a fixed length, not both")
        }
        _ => plan_err!("the width of {function} is more than nothing"),
    }
}
