//! What the columns of an answer are: name, type in the words of DDL, and whether a column is a
//! tag, the time, or a value.

use arrow::datatypes::{DataType, Field, TimeUnit as ArrowTimeUnit};
use auxo_proto::schema::ColumnKind;
use datafusion::catalog::default_table_source::source_as_provider;
use datafusion::logical_expr::{Expr, LogicalPlan};
use serde::Serialize;

use crate::table::SeriesTable;

/// One column of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AnswerColumn {
    /// As in the statement.
    pub name: String,
    /// Type of its values, in the words of DDL where DDL has one.
    #[serde(rename = "type")]
    pub ty: String,
    /// Whether a row may lack it.
    pub nullable: bool,
    /// What it is for.
    pub semantic: ColumnKind,
}

/// The columns that a plan's answer has.
///
/// * `plan`: as it was written; what its columns are for can be followed there.
/// * `finished`: the same one with its types settled: branches of UNION and CASE widen each other.
pub(crate) fn of_plan(plan: &LogicalPlan, finished: &LogicalPlan) -> Vec<AnswerColumn> {
    let kinds = kinds(plan);
    let fields = finished.schema().fields().iter();
    fields
        .enumerate()
        .map(|(at, field)| AnswerColumn {
            name: field.name().clone(),
            ty: type_name(field.data_type()),
            nullable: field.is_nullable(),
            semantic: kinds.get(at).copied().unwrap_or(ColumnKind::Field),
        })
        .collect()
}

/// The type in the words of DDL; types that DDL lacks by Arrow's name in lower case.
pub fn type_name(ty: &DataType) -> String {
    match ty {
        DataType::Boolean => "bool".into(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "string".into(),
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => "binary".into(),
        DataType::Dictionary(_, value) => type_name(value),
        DataType::Date32 | DataType::Date64 => "date".into(),
        DataType::Timestamp(unit, _) => format!("timestamp({})", unit_name(*unit)),
        DataType::Time32(unit) | DataType::Time64(unit) => format!("time({})", unit_name(*unit)),
        DataType::Duration(unit) => format!("duration({})", unit_name(*unit)),
        DataType::Interval(_) => "interval".into(),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => format!("decimal({precision},{scale})"),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => format!("list({})", type_name(item.data_type())),
        DataType::Struct(fields) => {
            let inner = |field: &std::sync::Arc<Field>| {
                format!("{} {}", field.name(), type_name(field.data_type()))
            };
            let fields: Vec<String> = fields.iter().map(inner).collect();
            format!("struct({})", fields.join(", "))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) => {
                let inner = fields.iter().map(|field| type_name(field.data_type()));
                format!("map({})", inner.collect::<Vec<_>>().join(", "))
            }
            _ => "map".into(),
        },
        other => other.to_string().to_lowercase(),
    }
}

fn unit_name(unit: ArrowTimeUnit) -> &'static str {
    match unit {
        ArrowTimeUnit::Second => "s",
        ArrowTimeUnit::Millisecond => "ms",
        ArrowTimeUnit::Microsecond => "us",
        ArrowTimeUnit::Nanosecond => "ns",
    }
}

/// What each output column of a plan is for, followed down to the tables.
fn kinds(plan: &LogicalPlan) -> Vec<ColumnKind> {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let provider = source_as_provider(&scan.source).ok();
            let table = provider
                .as_ref()
                .and_then(|provider| provider.downcast_ref::<SeriesTable>());
            let fields = scan.projected_schema.fields().iter();
            fields
                .map(|field| {
                    let column = table.and_then(|table| table.info().schema.by_name(field.name()));
                    column.map_or(ColumnKind::Field, |column| column.kind)
                })
                .collect()
        }
        LogicalPlan::Projection(projection) => of_exprs(&projection.expr, &projection.input),
        LogicalPlan::Aggregate(aggregate) => {
            let mut kinds = of_exprs(&aggregate.group_expr, &aggregate.input);
            kinds.resize(aggregate.schema.fields().len(), ColumnKind::Field);
            kinds
        }
        LogicalPlan::Join(join) => {
            let mut kinds = kinds(&join.left);
            kinds.extend(self::kinds(&join.right));
            kinds.resize(join.schema.fields().len(), ColumnKind::Field);
            kinds
        }
        LogicalPlan::Window(window) => {
            let mut kinds = kinds(&window.input);
            kinds.resize(window.schema.fields().len(), ColumnKind::Field);
            kinds
        }
        LogicalPlan::Filter(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Union(_)
        | LogicalPlan::Repartition(_) => match plan.inputs().first() {
            Some(input) => kinds(input),
            None => Vec::new(),
        },
        LogicalPlan::Distinct(distinct) => match distinct {
            datafusion::logical_expr::Distinct::All(input) => kinds(input),
            datafusion::logical_expr::Distinct::On(on) => of_exprs(&on.select_expr, &on.input),
        },
        other => vec![ColumnKind::Field; other.schema().fields().len()],
    }
}

fn of_exprs(exprs: &[Expr], input: &LogicalPlan) -> Vec<ColumnKind> {
    let below = kinds(input);
    exprs
        .iter()
        .map(|expr| of_expr(expr, input, &below))
        .collect()
}

/// Functions that make a time of a time.
const TIME_FUNCTIONS: [&str; 3] = ["date_bin", "date_trunc", "time_bucket"];

fn of_expr(expr: &Expr, input: &LogicalPlan, below: &[ColumnKind]) -> ColumnKind {
    match expr {
        Expr::Column(column) => input
            .schema()
            .maybe_index_of_column(column)
            .and_then(|at| below.get(at).copied())
            .unwrap_or(ColumnKind::Field),
        Expr::Alias(alias) => of_expr(&alias.expr, input, below),
        Expr::Cast(cast) => of_expr(&cast.expr, input, below),
        Expr::ScalarFunction(call) if TIME_FUNCTIONS.contains(&call.func.name()) => {
            let of_time = |arg: &Expr| of_expr(arg, input, below) == ColumnKind::Time;
            if call.args.iter().any(of_time) {
                ColumnKind::Time
            } else {
                ColumnKind::Field
            }
        }
        _ => ColumnKind::Field,
    }
}
