//! Tests through the crate's own door: text in, text out, over tables that lie in memory.

mod hostile;
pub(crate) mod memory_table;
pub(crate) mod nodes;
mod property;
mod queries;
mod texts;

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, Decimal128Array, Float64Array, Int16Array, Int64Array, RecordBatch, StringArray,
    UInt64Array,
};
use auxo_proto::clock::Clock;
use auxo_proto::error::Failure;
use auxo_proto::ids::TenantId;
use auxo_proto::schema::{ColumnKind, ColumnType};
use auxo_proto::topology::Catalog;
use futures::TryStreamExt;
use tokio::time::Instant;

use crate::{Answer, Limits, Params, Query, QueryConfig, QueryPlan, Scope, Statement, Threads};
use memory_table::{MemoryTable, NS, Tables, column};

pub(crate) const TENANT: TenantId = TenantId(7);

/// 2026-01-01T00:00:00Z.
pub(crate) const DAY: i64 = 1_767_225_600_000_000_000;

/// A table of three hosts in two data centres, one row a minute for two hours, in four tablets.
pub(crate) fn sample() -> MemoryTable {
    let columns = vec![
        column(1, "host", ColumnKind::Tag, ColumnType::String),
        column(2, "dc", ColumnKind::Tag, ColumnType::String),
        column(3, "ts", ColumnKind::Time, NS),
        column(4, "usage", ColumnKind::Field, ColumnType::Float64),
        column(5, "n", ColumnKind::Field, ColumnType::Int64),
        column(6, "note", ColumnKind::Field, ColumnType::String),
    ];
    let mut keys = Vec::new();
    let (mut usage, mut n, mut note) = (Vec::new(), Vec::new(), Vec::new());
    for minute in 0..120_i64 {
        for host in 0..3_i64 {
            let dc = (host > 0).then(|| format!("dc{}", host % 2));
            keys.push((
                vec![Some(format!("web{host}")), dc],
                DAY + minute * 60_000_000_000,
            ));
            usage.push((minute % 7 != 0).then_some((minute * 3 + host) as f64 / 2.0));
            n.push(minute * 10 + host);
            note.push((minute % 50 == 0).then(|| format!("note {minute}")));
        }
    }
    let fields: [ArrayRef; 3] = [
        Arc::new(Float64Array::from(usage)),
        Arc::new(Int64Array::from(n)),
        Arc::new(StringArray::from(note)),
    ];
    MemoryTable::new(1, "cpu", columns, 4, &keys, &fields)
}

/// Three rows of the largest and smallest numbers; the column of their times is called `time`.
pub(crate) fn extremes() -> MemoryTable {
    let field = |id, name, ty| column(id, name, ColumnKind::Field, ty);
    let decimal = ColumnType::Decimal {
        precision: 18,
        scale: 2,
    };
    let columns = vec![
        column(1, "host", ColumnKind::Tag, ColumnType::String),
        column(2, "time", ColumnKind::Time, NS),
        field(3, "d", decimal),
        field(4, "i", ColumnType::Int64),
        field(5, "s", ColumnType::Int16),
        field(6, "u", ColumnType::UInt64),
        field(7, "f", ColumnType::Float64),
    ];
    let keys: Vec<_> = (0..3)
        .map(|at| (vec![Some(format!("h{at}"))], DAY + at))
        .collect();
    let d = vec![123_456_789_012_345_678, 900_719_925_474_099_301, -5];
    let d = Decimal128Array::from(d)
        .with_precision_and_scale(18, 2)
        .unwrap();
    let fields: [ArrayRef; 5] = [
        Arc::new(d),
        Arc::new(Int64Array::from(vec![i64::MAX, 1, i64::MIN])),
        Arc::new(Int16Array::from(vec![i16::MAX, 5, -3])),
        Arc::new(UInt64Array::from(vec![u64::MAX, 1, 0])),
        Arc::new(Float64Array::from(vec![1.5, 90.0, 0.1])),
    ];
    MemoryTable::new(2, "dd", columns, 1, &keys, &fields)
}

/// A query engine over tables in memory.
pub(crate) struct Bench {
    pub(crate) query: Arc<Query>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) tables: Tables,
}

impl Bench {
    pub(crate) fn new(tables: Tables) -> Self {
        Self::with_config(tables, &QueryConfig::default())
    }

    pub(crate) fn with_config(tables: Tables, config: &QueryConfig) -> Self {
        let clock = Clock::from_fn(|| DAY + 3_600_000_000_000);
        let threads = Threads::start(2, 16 << 20).unwrap();
        Self {
            query: Arc::new(Query::new(config, clock, threads).unwrap()),
            catalog: Arc::new(Catalog::new(tables.topology())),
            tables,
        }
    }

    pub(crate) fn prepare(&self, text: &str) -> Result<Statement, Failure> {
        self.prepare_with(text, &Params::None)
    }

    pub(crate) fn prepare_with(&self, text: &str, params: &Params) -> Result<Statement, Failure> {
        let scope = Scope {
            catalog: &self.catalog,
            tenant: TENANT,
            database: "main",
        };
        self.query.prepare(scope, text, params)
    }

    pub(crate) async fn start(&self, text: &str) -> Result<Answer, Failure> {
        let Statement::Query(plan) = self.prepare(text)? else {
            panic!("{text} is no query");
        };
        self.run(*plan).await
    }

    pub(crate) async fn run(&self, plan: QueryPlan) -> Result<Answer, Failure> {
        let snapshots = self.tables.snapshots();
        self.query
            .execute(plan, snapshots, limits(), Arc::new(()))
            .await
    }

    pub(crate) async fn collect(&self, plan: QueryPlan) -> Result<Vec<RecordBatch>, Failure> {
        self.run(plan).await?.batches.try_collect().await
    }

    pub(crate) async fn rows(&self, text: &str) -> Result<Vec<RecordBatch>, Failure> {
        self.start(text).await?.batches.try_collect().await
    }
}

pub(crate) fn limits() -> Limits {
    Limits {
        deadline: Instant::now() + Duration::from_secs(60),
        rows: 1_000_000,
        bytes: 256 << 20,
    }
}

/// Waits for what other threads do.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), waited).await;
    assert!(waited.is_ok(), "{what}");
}

/// A failure on one line.
pub(crate) fn show(failure: &Failure) -> String {
    let place = failure.position.map_or("nowhere".into(), |position| {
        format!(
            "{}:{} (byte {})",
            position.line, position.column, position.offset
        )
    });
    let hint = failure
        .hint
        .as_deref()
        .map_or(String::new(), |hint| format!(" [{hint}]"));
    format!(
        "{} at {place}: {}{hint}",
        failure.code.text(),
        failure.detail
    )
}
