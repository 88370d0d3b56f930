//! Predicates of a plan as what a scan may leave out.
//!
//! 1. A predicate on tags alone becomes a [`TagFilter`], one on the time column alone a
//!    [`TimeRange`]; both say exactly what the predicate says, so nobody has to look again.
//! 2. A comparison of a field becomes [`FieldBounds`]; it only prunes, and the plan keeps its filter.
//! 3. Of a mixture (`host = 'a' AND v > 1 OR ...`) at least the times are kept that any branch can
//!    accept; that too only prunes.
//! 4. Everything else stays with the plan.
//!
//! Never here: a guess. What cannot be said exactly is never called exact.

use auxo_proto::key;
use auxo_proto::schema::{Column, ColumnKind, ColumnType, TableInfo};
use auxo_sst::predicate::{Bound, FieldBounds, TagFilter, TagTest, TimeRange};
use datafusion::arrow::datatypes::{DataType, TimeUnit as ArrowTimeUnit};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Between, BinaryExpr, Expr, Like, Operator};

/// What a scan may leave out, from any number of predicates that must all hold.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pushed {
    /// Times that matter.
    pub(crate) time: TimeRange,
    /// Series that matter.
    pub(crate) tags: TagFilter,
    /// Field values that matter, for pruning.
    pub(crate) bounds: Vec<FieldBounds>,
}

impl Pushed {
    /// Leaves out nothing.
    pub(crate) fn everything() -> Self {
        Self {
            time: TimeRange::ALL,
            tags: TagFilter::Any,
            bounds: Vec::new(),
        }
    }

    /// What all of the predicates together leave out.
    pub(crate) fn all<'a>(filters: impl IntoIterator<Item = &'a Expr>, table: &TableInfo) -> Self {
        let mut pushed = Self::everything();
        for filter in filters {
            match judge(filter, table) {
                Judged::Exact(part) | Judged::Pruning(part) => pushed.and(part),
                Judged::Unknown => {}
            }
        }
        pushed
    }

    fn and(&mut self, other: Self) {
        self.time = self.time.intersect(other.time);
        self.tags = match (
            std::mem::replace(&mut self.tags, TagFilter::Any),
            other.tags,
        ) {
            (TagFilter::Any, tags) | (tags, TagFilter::Any) => tags,
            (TagFilter::And(mut all), tags) => {
                all.push(tags);
                TagFilter::And(all)
            }
            (left, right) => TagFilter::And(vec![left, right]),
        };
        self.bounds.extend(other.bounds);
    }
}

/// How much of a predicate a scan can take over.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Judged {
    /// All of it.
    Exact(Pushed),
    /// Enough to skip some rows; the plan has to filter the rest.
    Pruning(Pushed),
    /// Nothing.
    Unknown,
}

/// Says how much of one predicate a scan of the table can take over.
pub(crate) fn judge(filter: &Expr, table: &TableInfo) -> Judged {
    if let Some(tags) = tag_filter(filter, table) {
        return Judged::Exact(Pushed {
            tags,
            ..Pushed::everything()
        });
    }
    if let Some(time) = time_range(filter, table) {
        return Judged::Exact(Pushed {
            time,
            ..Pushed::everything()
        });
    }
    if let Some(bounds) = field_bounds(filter, table) {
        return Judged::Pruning(Pushed {
            bounds,
            ..Pushed::everything()
        });
    }
    match times_at_most(filter, table) {
        TimeRange::ALL => Judged::Unknown,
        time => Judged::Pruning(Pushed {
            time,
            ..Pushed::everything()
        }),
    }
}

/// A comparison turned so that the literal stands on the right.
fn comparison(expr: &Expr) -> Option<(&Expr, Operator, &ScalarValue)> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = expr else {
        return None;
    };
    match (left.as_ref(), right.as_ref()) {
        (side, Expr::Literal(value, _)) => Some((side, *op, value)),
        (Expr::Literal(value, _), side) => Some((side, op.swap()?, value)),
        _ => None,
    }
}

/// The table's column that an expression shows, with the type it is cast to, if it is.
fn column<'a, 'e>(
    expr: &'e Expr,
    table: &'a TableInfo,
) -> Option<(&'a Column, Option<&'e DataType>)> {
    match expr {
        Expr::Column(column) => Some((table.schema.by_name(&column.name)?, None)),
        Expr::Cast(cast) => match cast.expr.as_ref() {
            Expr::Column(column) => Some((
                table.schema.by_name(&column.name)?,
                Some(cast.field.data_type()),
            )),
            _ => None,
        },
        _ => None,
    }
}

/// Place in the key of the tag that an expression shows as text.
fn tag(expr: &Expr, table: &TableInfo) -> Option<u32> {
    let (column, cast) = column(expr, table)?;
    let as_text = match cast {
        None | Some(DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) => true,
        Some(DataType::Dictionary(_, value)) => value.is_string(),
        Some(_) => false,
    };
    if column.kind != ColumnKind::Tag || !as_text {
        return None;
    }
    u32::try_from(table.schema.tag_index(column.id)?).ok()
}

fn text(value: &ScalarValue) -> Option<&str> {
    match value {
        ScalarValue::Utf8(text) | ScalarValue::Utf8View(text) | ScalarValue::LargeUtf8(text) => {
            text.as_deref()
        }
        ScalarValue::Dictionary(_, value) => text(value),
        _ => None,
    }
}

fn literal_text(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Literal(value, _) => text(value),
        _ => None,
    }
}

/// The predicate as a question about tags only, saying the same for every row.
pub(crate) fn tag_filter(expr: &Expr, table: &TableInfo) -> Option<TagFilter> {
    let test = |tag, test| Some(TagFilter::Test { tag, test });
    let not = |filter| Some(TagFilter::Not(Box::new(filter)));
    match expr {
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: op @ (Operator::And | Operator::Or),
            right,
        }) => {
            let sides = vec![tag_filter(left, table)?, tag_filter(right, table)?];
            Some(match op {
                Operator::And => TagFilter::And(sides),
                _ => TagFilter::Or(sides),
            })
        }
        Expr::BinaryExpr(_) => {
            let (side, op, value) = comparison(expr)?;
            let (tag, value) = (tag(side, table)?, text(value)?);
            let bytes = || value.as_bytes().to_vec();
            let below = |inclusive| TagTest::Below {
                value: bytes(),
                inclusive,
            };
            let above = |inclusive| TagTest::Above {
                value: bytes(),
                inclusive,
            };
            match op {
                Operator::Eq => test(tag, TagTest::OneOf(vec![bytes()])),
                Operator::NotEq => not(test(tag, TagTest::OneOf(vec![bytes()]))?),
                Operator::Lt => test(tag, below(false)),
                Operator::LtEq => test(tag, below(true)),
                Operator::Gt => test(tag, above(false)),
                Operator::GtEq => test(tag, above(true)),
                Operator::RegexMatch => test(tag, matches(value)?),
                Operator::RegexNotMatch => not(test(tag, matches(value)?)?),
                Operator::RegexIMatch => test(tag, matches(&format!("(?i){value}"))?),
                Operator::RegexNotIMatch => not(test(tag, matches(&format!("(?i){value}"))?)?),
                _ => None,
            }
        }
        Expr::Not(inner) => not(tag_filter(inner, table)?),
        Expr::IsNull(inner) => test(tag(inner, table)?, TagTest::IsNull),
        Expr::IsNotNull(inner) => not(test(tag(inner, table)?, TagTest::IsNull)?),
        Expr::InList(list) => {
            let tag = tag(&list.expr, table)?;
            let mut values = Vec::with_capacity(list.list.len());
            for value in &list.list {
                values.push(literal_text(value)?.as_bytes().to_vec());
            }
            values.sort_unstable();
            values.dedup();
            let filter = test(tag, TagTest::OneOf(values))?;
            if list.negated {
                not(filter)
            } else {
                Some(filter)
            }
        }
        Expr::Between(Between {
            expr,
            negated,
            low,
            high,
        }) => {
            let tag = tag(expr, table)?;
            let (low, high) = (literal_text(low)?, literal_text(high)?);
            let filter = TagFilter::And(vec![
                TagFilter::Test {
                    tag,
                    test: TagTest::Above {
                        value: low.as_bytes().to_vec(),
                        inclusive: true,
                    },
                },
                TagFilter::Test {
                    tag,
                    test: TagTest::Below {
                        value: high.as_bytes().to_vec(),
                        inclusive: true,
                    },
                },
            ]);
            if *negated { not(filter) } else { Some(filter) }
        }
        Expr::Like(Like {
            negated,
            expr,
            pattern,
            escape_char: None | Some('\\'),
            case_insensitive: false,
        }) => {
            let filter = test(tag(expr, table)?, like(literal_text(pattern)?)?)?;
            if *negated { not(filter) } else { Some(filter) }
        }
        Expr::ScalarFunction(call) => {
            let [subject, pattern] = call.args.as_slice() else {
                return None;
            };
            let (tag, pattern) = (tag(subject, table)?, literal_text(pattern)?);
            match call.func.name() {
                "regexp_like" => test(tag, matches(pattern)?),
                "starts_with" => test(tag, TagTest::Prefix(pattern.as_bytes().to_vec())),
                _ => None,
            }
        }
        _ => None,
    }
}

/// A regular expression the engine can run; one that does not compile stays with the plan, which
/// reports it.
fn matches(pattern: &str) -> Option<TagTest> {
    regex::Regex::new(pattern).ok()?;
    Some(TagTest::Matches(pattern.to_owned()))
}

/// SQL's LIKE, in which `\` takes any character as it stands: a value, a prefix, or else a regular
/// expression.
fn like(pattern: &str) -> Option<TagTest> {
    let mut literal = String::new();
    let mut expression = String::from(r"(?s)\A");
    let mut wild = 0;
    let mut chars = pattern.chars().peekable();
    let mut only_prefix = true;
    while let Some(char) = chars.next() {
        let wildcard = matches!(char, '%' | '_');
        let char = match char {
            '\\' => chars.next().unwrap_or('\\'),
            char => char,
        };
        if wildcard {
            wild += 1;
            only_prefix &= char == '%' && chars.peek().is_none();
            expression.push_str(if char == '%' { ".*" } else { "." });
        } else {
            literal.push(char);
            expression.push_str(&regex::escape(char.encode_utf8(&mut [0; 4])));
        }
    }
    expression.push_str(r"\z");
    match wild {
        0 => Some(TagTest::OneOf(vec![literal.into_bytes()])),
        1 if only_prefix => Some(TagTest::Prefix(literal.into_bytes())),
        _ => matches(&expression),
    }
}

/// Unit of a literal or of a cast that leaves the clock alone.
fn utc_unit(ty: &DataType) -> Option<ArrowTimeUnit> {
    match ty {
        DataType::Timestamp(unit, None) => Some(*unit),
        DataType::Timestamp(unit, Some(zone))
            if matches!(zone.as_ref(), "UTC" | "+00:00" | "Z") =>
        {
            Some(*unit)
        }
        _ => None,
    }
}

fn unit_ns(unit: ArrowTimeUnit) -> i128 {
    match unit {
        ArrowTimeUnit::Second => 1_000_000_000,
        ArrowTimeUnit::Millisecond => 1_000_000,
        ArrowTimeUnit::Microsecond => 1_000,
        ArrowTimeUnit::Nanosecond => 1,
    }
}

/// Nanoseconds since 1970 of a timestamp literal.
fn literal_ns(value: &ScalarValue) -> Option<i128> {
    let (value, unit) = match value {
        ScalarValue::TimestampSecond(value, _) => (value, ArrowTimeUnit::Second),
        ScalarValue::TimestampMillisecond(value, _) => (value, ArrowTimeUnit::Millisecond),
        ScalarValue::TimestampMicrosecond(value, _) => (value, ArrowTimeUnit::Microsecond),
        ScalarValue::TimestampNanosecond(value, _) => (value, ArrowTimeUnit::Nanosecond),
        _ => return None,
    };
    Some(i128::from((*value)?) * unit_ns(unit))
}

/// Nanoseconds in one unit of the timestamp column that an expression shows, where the
/// expression still orders as the column does.
fn timestamp_unit(column: &Column, cast: Option<&DataType>) -> Option<i128> {
    let ColumnType::Timestamp(unit) = column.ty else {
        return None;
    };
    let unit = i128::from(unit.ns());
    match cast {
        None => Some(unit),
        Some(cast) => (unit_ns(utc_unit(cast)?) <= unit).then_some(unit),
    }
}

/// Stored times, in nanoseconds, whose shown value (rounded down to `unit`) compares with the
/// literal as the operator says.
fn stored_range(op: Operator, literal: i128, unit: i128) -> Option<(i128, i128)> {
    let floor = literal.div_euclid(unit) * unit;
    let ceil = if floor == literal {
        floor
    } else {
        floor + unit
    };
    let (least, most) = (i128::from(i64::MIN), i128::from(i64::MAX) + 1);
    Some(match op {
        Operator::Eq if floor == literal => (floor, floor + unit),
        Operator::Eq => (0, 0),
        Operator::Lt => (least, ceil),
        Operator::LtEq => (least, floor + unit),
        Operator::Gt => (floor + unit, most),
        Operator::GtEq => (ceil, most),
        _ => return None,
    })
}

const NEVER: TimeRange = TimeRange { start: 0, end: 0 };

fn clamp((start, end): (i128, i128)) -> TimeRange {
    let all = TimeRange::ALL;
    match i64::try_from(start.max(i128::from(i64::MIN))) {
        Ok(start) => TimeRange {
            start,
            end: end.min(all.end),
        },
        Err(_) => NEVER,
    }
}

fn is_time(expr: &Expr, table: &TableInfo) -> Option<i128> {
    let (column, cast) = column(expr, table)?;
    (column.kind == ColumnKind::Time)
        .then(|| timestamp_unit(column, cast))
        .flatten()
}

/// The predicate as a range of times, saying the same for every row.
pub(crate) fn time_range(expr: &Expr, table: &TableInfo) -> Option<TimeRange> {
    match expr {
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::And,
            right,
        }) => Some(time_range(left, table)?.intersect(time_range(right, table)?)),
        Expr::BinaryExpr(_) => {
            let (side, op, value) = comparison(expr)?;
            let unit = is_time(side, table)?;
            stored_range(op, literal_ns(value)?, unit).map(clamp)
        }
        Expr::Between(Between {
            expr,
            negated: false,
            low,
            high,
        }) => {
            let unit = is_time(expr, table)?;
            let (Expr::Literal(low, _), Expr::Literal(high, _)) = (low.as_ref(), high.as_ref())
            else {
                return None;
            };
            let from = stored_range(Operator::GtEq, literal_ns(low)?, unit)?;
            let until = stored_range(Operator::LtEq, literal_ns(high)?, unit)?;
            Some(clamp((from.0, until.1)))
        }
        _ => None,
    }
}

/// A range outside which no row can make the predicate true.
fn times_at_most(expr: &Expr, table: &TableInfo) -> TimeRange {
    if let Some(range) = time_range(expr, table) {
        return range;
    }
    match expr {
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: op @ (Operator::And | Operator::Or),
            right,
        }) => {
            let (left, right) = (times_at_most(left, table), times_at_most(right, table));
            match op {
                Operator::And => left.intersect(right),
                _ if left.is_empty() => right,
                _ if right.is_empty() => left,
                _ => TimeRange {
                    start: left.start.min(right.start),
                    end: left.end.max(right.end),
                },
            }
        }
        Expr::InList(list) if !list.negated => {
            let Some(unit) = is_time(&list.expr, table) else {
                return TimeRange::ALL;
            };
            let mut hull: Option<(i128, i128)> = None;
            for value in &list.list {
                let range = match value {
                    Expr::Literal(value, _) => {
                        literal_ns(value).and_then(|value| stored_range(Operator::Eq, value, unit))
                    }
                    _ => None,
                };
                let Some(range) = range else {
                    return TimeRange::ALL;
                };
                hull = Some(hull.map_or(range, |hull| (hull.0.min(range.0), hull.1.max(range.1))));
            }
            hull.map_or(NEVER, clamp)
        }
        _ => TimeRange::ALL,
    }
}

/// Bounds on fields without which the predicate cannot be true.
///
/// Floats have none: a NaN compares above every number, and no statistic of a file counts it.
fn field_bounds(expr: &Expr, table: &TableInfo) -> Option<Vec<FieldBounds>> {
    match expr {
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::And,
            right,
        }) => {
            let mut bounds = field_bounds(left, table)?;
            bounds.extend(field_bounds(right, table)?);
            Some(bounds)
        }
        Expr::BinaryExpr(_) => {
            let (side, op, value) = comparison(expr)?;
            let (column, cast) = column(side, table)?;
            if column.kind != ColumnKind::Field {
                return None;
            }
            let (least, most) = literal_bounds(column, cast, op, value)?;
            let (min, max) = match op {
                Operator::Eq => (Some(least), Some(most)),
                Operator::Lt | Operator::LtEq => (None, Some(most)),
                Operator::Gt | Operator::GtEq => (Some(least), None),
                _ => return None,
            };
            Some(vec![FieldBounds {
                column: column.id,
                min,
                max,
            }])
        }
        Expr::Between(Between {
            expr,
            negated: false,
            low,
            high,
        }) => {
            let side = |op, value: &Expr| {
                let comparison =
                    Expr::BinaryExpr(BinaryExpr::new(expr.clone(), op, Box::new(value.clone())));
                field_bounds(&comparison, table)
            };
            let mut bounds = side(Operator::GtEq, low)?;
            bounds.extend(side(Operator::LtEq, high)?);
            Some(bounds)
        }
        _ => None,
    }
}

/// Largest float below which every integer has its own float.
const EXACT_INTEGERS: f64 = 9_007_199_254_740_992.0;

/// The literal as bounds in the type the column is stored in: what lies below the first or above
/// the second cannot compare as asked.
fn literal_bounds(
    column: &Column,
    cast: Option<&DataType>,
    op: Operator,
    value: &ScalarValue,
) -> Option<(Bound, Bound)> {
    if let ColumnType::Timestamp(_) = column.ty {
        let unit = timestamp_unit(column, cast)?;
        let (start, end) = stored_range(op, literal_ns(value)?, unit)?;
        let all = (i128::from(i64::MIN), i128::from(i64::MAX));
        let least = i64::try_from(start.clamp(all.0, all.1)).ok()?;
        let most = i64::try_from((end - 1).clamp(all.0, all.1)).ok()?;
        return Some((Bound::I64(least), Bound::I64(most)));
    }
    let signed = column.ty.signed_range().is_some() || column.ty == ColumnType::Date;
    let unsigned = column.ty.unsigned_max().is_some();
    if !signed && !unsigned {
        return None;
    }
    let (least, most) = match value {
        ScalarValue::Float64(Some(float)) if float.abs() < EXACT_INTEGERS => {
            (float.floor() as i128, float.ceil() as i128)
        }
        ScalarValue::Float32(Some(float)) if f64::from(float.abs()) < EXACT_INTEGERS => {
            (float.floor() as i128, float.ceil() as i128)
        }
        _ => {
            let integer = integer(value)?;
            (integer, integer)
        }
    };
    // A cast to a narrower type may fail or wrap; only widening ones order as the column does.
    let widens = match cast {
        None => true,
        Some(DataType::Float64) => true,
        Some(DataType::Int64) => signed || column.ty != ColumnType::UInt64,
        Some(DataType::UInt64) => unsigned,
        Some(_) => false,
    };
    if !widens {
        return None;
    }
    let bound = |integer: i128| {
        if unsigned {
            let clamped = integer.clamp(0, i128::from(u64::MAX));
            u64::try_from(clamped).ok().map(Bound::U64)
        } else {
            let clamped = integer.clamp(i128::from(i64::MIN), i128::from(i64::MAX));
            i64::try_from(clamped).ok().map(Bound::I64)
        }
    };
    Some((bound(least)?, bound(most)?))
}

fn integer(value: &ScalarValue) -> Option<i128> {
    Some(match *value {
        ScalarValue::Int8(value) => value?.into(),
        ScalarValue::Int16(value) => value?.into(),
        ScalarValue::Int32(value) | ScalarValue::Date32(value) => value?.into(),
        ScalarValue::Int64(value) => value?.into(),
        ScalarValue::UInt8(value) => value?.into(),
        ScalarValue::UInt16(value) => value?.into(),
        ScalarValue::UInt32(value) => value?.into(),
        ScalarValue::UInt64(value) => value?.into(),
        _ => return None,
    })
}

/// Values that a filter pins a tag to: every series that passes has one of them.
pub(crate) fn pinned(filter: &TagFilter, tag: u32) -> Option<&[Vec<u8>]> {
    match filter {
        TagFilter::Test {
            tag: tested,
            test: TagTest::OneOf(values),
        } if *tested == tag => Some(values),
        TagFilter::And(all) => all
            .iter()
            .filter_map(|filter| pinned(filter, tag))
            .min_by_key(|values| values.len()),
        _ => None,
    }
}

/// Most combinations of pinned values that are hashed to leave out tablets.
const COMBINATIONS_MAX: usize = 1_024;

/// Partition hashes that a series which passes the filter can have; `None` when any is possible.
pub(crate) fn hashes(filter: &TagFilter, table: &TableInfo) -> Option<Vec<u32>> {
    if table.partition.columns.is_empty() {
        return None;
    }
    let mut combinations: Vec<Vec<&[u8]>> = vec![Vec::new()];
    for &column in &table.partition.columns {
        let tag = u32::try_from(table.schema.tag_index(column)?).ok()?;
        let values = pinned(filter, tag)?;
        if values.len() * combinations.len() > COMBINATIONS_MAX {
            return None;
        }
        combinations = combinations
            .iter()
            .flat_map(|begun| {
                values.iter().map(|value| {
                    let mut longer = begun.clone();
                    longer.push(value.as_slice());
                    longer
                })
            })
            .collect();
    }
    let hash = |values: &Vec<&[u8]>| {
        key::partition_hash(&key::encode(values.iter().map(|value| Some(*value))))
    };
    Some(combinations.iter().map(hash).collect())
}
