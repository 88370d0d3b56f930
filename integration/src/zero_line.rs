//! The zero line: plain DataFusion over our own Parquet files, in this process.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use datafusion::execution::context::SessionContext;
use datafusion::prelude::{ParquetReadOptions, SessionConfig};

use crate::queries::Query;

/// A table `cpu` over every file below the store's directory.
pub struct ZeroLine(SessionContext);

impl ZeroLine {
    /// Opens the files of a stopped or quiet node.
    pub async fn open(store: &Path, partitions: usize) -> Result<Self> {
        let config = SessionConfig::new().with_target_partitions(partitions);
        let context = SessionContext::new_with_config(config);
        let mut files = Vec::new();
        let mut folders = vec![store.to_owned()];
        while let Some(at) = folders.pop() {
            for entry in std::fs::read_dir(&at).with_context(|| at.display().to_string())? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|kind| kind == "parquet") {
                    files.push(path.display().to_string());
                }
            }
        }
        let table = context
            .read_parquet(files, ParquetReadOptions::default())
            .await?;
        context.register_table("cpu", table.into_view())?;
        Ok(Self(context))
    }

    /// Runs a query and returns how many rows it had.
    pub async fn rows(&self, query: &Query) -> Result<usize> {
        let batches = self.0.sql(&query.sql).await?.collect().await;
        let batches = batches.with_context(|| query.name)?;
        Ok(batches.iter().map(|batch| batch.num_rows()).sum())
    }

    /// The context, for questions of one's own.
    pub fn context(&self) -> Arc<SessionContext> {
        Arc::new(self.0.clone())
    }
}
