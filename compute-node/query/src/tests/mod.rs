//! Tests through the crate's own door: text in, text out, over tables that lie in memory.

mod memory_table;
mod queries;

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use auxo_proto::clock::Clock;
use auxo_proto::error::Failure;
use auxo_proto::ids::TenantId;
use auxo_proto::topology::Catalog;
use futures::TryStreamExt;
use tokio::time::Instant;

use crate::{Answer, Limits, Query, QueryConfig, Statement};
use memory_table::Tables;

pub(crate) const TENANT: TenantId = TenantId(7);

/// 2026-01-01T00:00:00Z.
pub(crate) const DAY: i64 = 1_767_225_600_000_000_000;

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
        self.query.prepare(&self.catalog, TENANT, "main", text)
    }

    pub(crate) async fn start(&self, text: &str) -> Result<Answer, Failure> {
        let Statement::Query(plan) = self.prepare(text)?;
        self.query
            .execute(*plan, self.tables.snapshots(), limits())
            .await
    }

    pub(crate) async fn rows(&self, text: &str) -> Result<Vec<RecordBatch>, Failure> {
        self.start(text).await?.batches.try_collect().await
    }

    /// The answer as an aligned table, or the failure with its place.
    pub(crate) async fn text(&self, text: &str) -> String {
        match self.rows(text).await {
            Ok(batches) => arrow::util::pretty::pretty_format_batches(&batches)
                .unwrap()
                .to_string(),
            Err(failure) => show(&failure),
        }
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
