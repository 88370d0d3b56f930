//! What all statements of a node share: DataFusion's session as we want it, memory and spill space.
//!
//! * DataFusion is left without any store: no file and no URL can be opened by a statement.
//! * A statement works on a copy of the session's state; nothing it does can reach another one.
//! * Never here: a tenant's data. What a statement may see comes with its catalogue and snapshots.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use auxo_proto::clock::Clock;
use datafusion::common::Result;
use datafusion::execution::cache::cache_manager::CacheManagerConfig;
use datafusion::execution::context::SessionState;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::object_store::{
    DefaultObjectStoreRegistry, ObjectStoreRegistry, ObjectStoreUrl,
};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::execution::{FunctionRegistry, SessionStateDefaults};
use datafusion::optimizer::{Analyzer, AnalyzerRule, OptimizerRule};
use datafusion::prelude::SessionConfig;
use serde::{Deserialize, Serialize};

use crate::decimals::DecimalsMeetDoubles;
use crate::exact_times::ExactTimes;
use crate::fragment::absorb::Absorb;
use crate::functions;
use crate::memory::NodePool;
use crate::run;
use crate::same_names;
use crate::threads::Threads;
use crate::zeros::OneZero;

/// Sizes of a node's query engine.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueryConfig {
    /// Bytes that all statements may hold together.
    pub memory_bytes: usize,
    /// Bytes that one statement may hold; above it operators spill, and what cannot spill is
    /// refused. 0 means the smaller of 1 GiB and a quarter of `memory_bytes`.
    pub statement_memory_bytes: usize,
    /// Directory for what operators spill; emptied at start. `None` forbids spilling.
    pub spill_dir: Option<PathBuf>,
    /// Bytes that may lie in it.
    pub spill_bytes_max: u64,
    /// Parallel streams of one statement; small scans use one.
    pub partitions: usize,
    /// Bytes that the text of a statement may have.
    pub text_bytes_max: usize,
}

impl Default for QueryConfig {
    fn default() -> Self {
        Self {
            memory_bytes: 1 << 30,
            statement_memory_bytes: 0,
            spill_dir: None,
            spill_bytes_max: 2 << 30,
            partitions: 2,
            text_bytes_max: 256 << 10,
        }
    }
}

impl QueryConfig {
    fn statement_memory(&self) -> usize {
        match self.statement_memory_bytes {
            0 => (self.memory_bytes / 4).min(1 << 30),
            bytes => bytes,
        }
    }
}

/// The query engine of a node.
pub struct Query {
    pub(crate) state: SessionState,
    pub(crate) runtime: Arc<RuntimeEnv>,
    pub(crate) memory: Arc<NodePool>,
    pub(crate) statement_memory: usize,
    pub(crate) clock: Clock,
    pub(crate) text_bytes_max: usize,
    pub(crate) threads: Arc<Threads>,
}

impl Query {
    /// A query engine of the given sizes on threads for statements; `now()` in them is the clock's.
    ///
    /// * errors: the spill directory cannot be emptied or made.
    /// * effects: removes everything in the spill directory. Blocks while it does.
    pub fn new(config: &QueryConfig, clock: Clock, threads: Threads) -> std::io::Result<Self> {
        let other = |error| std::io::Error::other(format!("query engine: {error}"));
        if let Some(dir) = &config.spill_dir {
            empty_dir(dir)?;
        }
        let runtime = runtime(config).map_err(other)?;
        Ok(Self {
            state: state(config, Arc::clone(&runtime)).map_err(other)?,
            runtime,
            memory: Arc::new(NodePool::new(config.memory_bytes)),
            statement_memory: config.statement_memory(),
            clock,
            text_bytes_max: config.text_bytes_max,
            threads: Arc::new(threads),
        })
    }

    /// Bytes that running statements hold now.
    pub fn memory_used(&self) -> usize {
        self.memory.used()
    }
}

/// Leaves a directory that is empty and that only we can enter.
fn empty_dir(dir: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

fn runtime(config: &QueryConfig) -> Result<Arc<RuntimeEnv>> {
    let stores = DefaultObjectStoreRegistry::new();
    stores.deregister_store(ObjectStoreUrl::local_filesystem().as_ref())?;
    let spill = match &config.spill_dir {
        Some(dir) => DiskManagerMode::Directories(vec![dir.clone()]),
        None => DiskManagerMode::Disabled,
    };
    let spill = DiskManagerBuilder::default()
        .with_mode(spill)
        .with_max_temp_directory_size(config.spill_bytes_max);
    RuntimeEnvBuilder::new()
        .with_object_store_registry(Arc::new(stores))
        .with_disk_manager_builder(spill)
        .with_cache_manager(CacheManagerConfig::default())
        .build_arc()
}

fn state(config: &QueryConfig, runtime: Arc<RuntimeEnv>) -> Result<SessionState> {
    let mut session = SessionConfig::new()
        .with_target_partitions(config.partitions.max(1))
        .with_batch_size(8_192)
        .with_collect_statistics(false)
        .with_information_schema(false)
        .with_create_default_catalog_and_schema(false);
    let options = session.options_mut();
    options.execution.enable_recursive_ctes = false;
    options.execution.sort_pushdown_buffer_capacity = 64 << 20;
    // A sort sets this aside for merging what it has spilt, in each of its streams.
    let share = config.statement_memory() / (4 * config.partitions.max(1));
    options.execution.sort_spill_reservation_bytes = share.min(10 << 20);
    options.optimizer.enable_window_topn = true;
    options.sql_parser.collect_spans = true;
    options.explain.show_sizes = false;
    let mut analyzers: Vec<Arc<dyn AnalyzerRule + Send + Sync>> =
        vec![Arc::new(DecimalsMeetDoubles)];
    analyzers.extend(Analyzer::new().rules);
    let mut state = SessionStateBuilder::new()
        .with_config(session)
        .with_runtime_env(runtime)
        .with_expr_planners(functions::planners())
        .with_scalar_functions(functions::scalar())
        .with_higher_order_functions(SessionStateDefaults::default_higher_order_functions())
        .with_aggregate_functions(functions::aggregate())
        .with_window_functions(SessionStateDefaults::default_window_functions())
        .with_table_function_list(functions::table())
        .with_analyzer_rules(analyzers)
        .build();
    state.register_function_rewrite(Arc::new(functions::Integers))?;
    state.register_function_rewrite(Arc::new(functions::PlainTags))?;
    let known = Arc::new(run::task(&state, state.runtime_env().as_ref().clone()));
    let mut rules: Vec<Arc<dyn OptimizerRule + Send + Sync>> =
        vec![Arc::new(ExactTimes), Arc::new(OneZero)];
    rules.extend(state.optimizers().iter().cloned());
    let physical = same_names::guarded(state.physical_optimizers());
    let state = SessionStateBuilder::new_from_existing(state)
        .with_optimizer_rules(rules)
        .with_physical_optimizer_rules(physical)
        .with_physical_optimizer_rule(Arc::new(Absorb::new(known)))
        .build();
    Ok(state)
}
