//! Numbers of a node in the text format of Prometheus.
//!
//! Every metric is named here, `auxo_<room>_<what>_<unit>[_total]`, and listed in
//! docs/metrics.md. No label ever holds a tenant, a table or a text.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::node::Node;

/// Counters that doors raise.
#[derive(Debug, Default)]
pub struct Counters {
    /// Rows acked.
    pub rows_written: AtomicU64,
    /// Lines refused.
    pub lines_refused: AtomicU64,
    /// Writes refused or of unknown outcome.
    pub writes_failed: AtomicU64,
    /// Bytes of bodies of writes, unpacked.
    pub bytes_written: AtomicU64,
    /// Statements carried out.
    pub statements: AtomicU64,
    /// Statements that failed.
    pub statements_failed: AtomicU64,
    /// Rows handed to plans by scans.
    pub rows_scanned: AtomicU64,
    /// Bytes of rows that other nodes sent to queries of this one.
    pub bytes_moved: AtomicU64,
}

/// Every metric: name, kind, meaning.
pub const CATALOGUE: &[(&str, &str, &str)] = &[
    ("auxo_write_rows_total", "counter", "Rows acknowledged"),
    (
        "auxo_write_rejected_total",
        "counter",
        "Lines of line protocol that were refused",
    ),
    (
        "auxo_write_failed_total",
        "counter",
        "Writes refused whole or of unknown outcome",
    ),
    (
        "auxo_write_bytes_total",
        "counter",
        "Bytes of bodies of writes, unpacked",
    ),
    (
        "auxo_query_statements_total",
        "counter",
        "Statements carried out",
    ),
    (
        "auxo_query_failed_total",
        "counter",
        "Statements that failed",
    ),
    (
        "auxo_query_rows_scanned_total",
        "counter",
        "Rows handed to plans by scans",
    ),
    ("auxo_query_running", "gauge", "Statements that run now"),
    (
        "auxo_query_memory_bytes",
        "gauge",
        "Memory that running statements hold",
    ),
    (
        "auxo_memory_memtable_bytes",
        "gauge",
        "Memory that rows not yet in files take",
    ),
    (
        "auxo_memory_memtable_limit_bytes",
        "gauge",
        "Memory that they may take",
    ),
    (
        "auxo_shard_epoch",
        "gauge",
        "Epoch under which the shard is led here",
    ),
    (
        "auxo_shard_ended",
        "gauge",
        "1 when the shard is fenced or parked",
    ),
    (
        "auxo_shard_applied_offset",
        "gauge",
        "First offset of the shard's log that is not applied",
    ),
    (
        "auxo_shard_flushed_offset",
        "gauge",
        "First offset that files do not cover",
    ),
    (
        "auxo_wal_unflushed_bytes",
        "gauge",
        "Bytes of log behind the flushed offset",
    ),
    (
        "auxo_flush_manifest",
        "gauge",
        "Number of the shard's newest manifest",
    ),
    (
        "auxo_compaction_files_total",
        "counter",
        "Files that compaction replaced or that outlived their TTL, since the shard was opened",
    ),
    (
        "auxo_cache_hits_total",
        "counter",
        "Blocks of files read from the own disk",
    ),
    (
        "auxo_cache_misses_total",
        "counter",
        "Blocks of files asked of the bucket",
    ),
    (
        "auxo_cache_damaged_total",
        "counter",
        "Blocks on the own disk that were not what was written",
    ),
    (
        "auxo_cache_unkept_total",
        "counter",
        "Blocks that found no place on the own disk",
    ),
    (
        "auxo_forward_writes_total",
        "counter",
        "Batches handed to the node that leads their shard",
    ),
    (
        "auxo_forward_bytes_total",
        "counter",
        "Bytes of those batches",
    ),
    (
        "auxo_query_moved_bytes_total",
        "counter",
        "Bytes of rows that other nodes sent to queries of this one",
    ),
    (
        "auxo_store_puts_total",
        "counter",
        "Objects written to the bucket; repetitions by the client are not counted, here and below",
    ),
    (
        "auxo_store_gets_total",
        "counter",
        "Reads of objects of the bucket",
    ),
    ("auxo_store_lists_total", "counter", "Lists of the bucket"),
    (
        "auxo_store_deletes_total",
        "counter",
        "Objects deleted from the bucket",
    ),
    ("auxo_store_files", "gauge", "Live files of the shard"),
    (
        "auxo_store_file_bytes",
        "gauge",
        "Bytes of the shard's live files",
    ),
];

/// The page that `/metrics` answers.
pub fn page(node: &Node) -> String {
    let counters = node.counters();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let budget = node.engine().budget();
    let mut page = String::new();
    let cache = node.cache_counts();
    let (asked, (forwarded, forwarded_bytes)) = (node.asked(), node.forwarded());
    let single = [
        ("auxo_store_puts_total", asked.puts),
        ("auxo_store_gets_total", asked.gets),
        ("auxo_store_lists_total", asked.lists),
        ("auxo_store_deletes_total", asked.deletes),
        ("auxo_forward_writes_total", forwarded),
        ("auxo_forward_bytes_total", forwarded_bytes),
        ("auxo_query_moved_bytes_total", count(&counters.bytes_moved)),
        ("auxo_cache_hits_total", cache.hits),
        ("auxo_cache_misses_total", cache.misses),
        ("auxo_cache_damaged_total", cache.damaged),
        ("auxo_cache_unkept_total", cache.unkept),
        ("auxo_write_rows_total", count(&counters.rows_written)),
        ("auxo_write_rejected_total", count(&counters.lines_refused)),
        ("auxo_write_failed_total", count(&counters.writes_failed)),
        ("auxo_write_bytes_total", count(&counters.bytes_written)),
        ("auxo_query_statements_total", count(&counters.statements)),
        (
            "auxo_query_failed_total",
            count(&counters.statements_failed),
        ),
        (
            "auxo_query_rows_scanned_total",
            count(&counters.rows_scanned),
        ),
        ("auxo_query_running", node.running().len() as u64),
        ("auxo_query_memory_bytes", node.query().memory_used() as u64),
        ("auxo_memory_memtable_bytes", budget.used() as u64),
        ("auxo_memory_memtable_limit_bytes", budget.limit() as u64),
    ];
    for (name, value) in single {
        head(&mut page, name);
        line(&mut page, name, None, value);
    }
    let shards: Vec<_> = node
        .engine()
        .shards()
        .iter()
        .map(auxo_engine::Shard::status)
        .collect();
    type Read = fn(&auxo_engine::ShardStatus) -> u64;
    let per_shard: [(&str, Read); 9] = [
        ("auxo_shard_epoch", |shard| shard.term.epoch),
        ("auxo_shard_ended", |shard| shard.ended.is_some().into()),
        ("auxo_shard_applied_offset", |shard| shard.applied),
        ("auxo_shard_flushed_offset", |shard| shard.flushed),
        ("auxo_wal_unflushed_bytes", |shard| shard.unflushed_bytes),
        ("auxo_flush_manifest", |shard| shard.manifest),
        ("auxo_compaction_files_total", |shard| shard.compacted),
        ("auxo_store_files", |shard| shard.files),
        ("auxo_store_file_bytes", |shard| shard.file_bytes),
    ];
    for (name, read) in per_shard {
        head(&mut page, name);
        for shard in &shards {
            line(&mut page, name, Some(shard.shard.0), read(shard));
        }
    }
    page
}

fn head(page: &mut String, name: &str) {
    if let Some((_, kind, help)) = CATALOGUE.iter().find(|(known, _, _)| *known == name) {
        let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }
}

fn line(page: &mut String, name: &str, shard: Option<u64>, value: u64) {
    let _ = match shard {
        Some(shard) => writeln!(page, "{name}{{shard=\"{shard}\"}} {value}"),
        None => writeln!(page, "{name} {value}"),
    };
}
