//! Tests through the crate's own door: text in, text out, over tables that lie in memory.

mod hostile;
pub(crate) mod memory_table;
mod property;
mod queries;
mod texts;

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use auxo_proto::clock::Clock;
use auxo_proto::error::Failure;
use auxo_proto::ids::TenantId;
use auxo_proto::schema::{ColumnKind, ColumnType};
use auxo_proto::topology::Catalog;
use futures::TryStreamExt;
use tokio::time::Instant;

use crate::{Answer, Limits, Params, Query, QueryConfig, QueryPlan, Scope, Statement};
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

/// A query engine over tables in memory.
pub(crate) struct Bench {
    pub(crate) query: Query,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) tables: Tables,
}

impl Bench {
    pub(crate) fn new(tables: Tables) -> Self {
        Self::with_config(tables, &QueryConfig::default())
    }

    pub(crate) fn with_config(tables: Tables, config: &QueryConfig) -> Self {
        let clock = Clock::from_fn(|| DAY + 3_600_000_000_000);
        Self {
            query: Query::new(config, clock).unwrap(),
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
        self.query.execute(plan, snapshots, limits()).await
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
