//! Joins the pieces of memtables into sorted runs, so that a read sees few of them.
//!
//! Never here: what is worth joining (`memtable::to_join`), or files.

use std::ops::Range;
use std::sync::Arc;

use auxo_proto::ids::TabletId;
use auxo_proto::schema::{Column, TableInfo};
use auxo_sst::SstError;
use auxo_sst::batch::FieldSet;
use futures::TryStreamExt;

use crate::deletes::Deletes;
use crate::memtable::{self, Piece, Sorted};
use crate::read;
use crate::shard::Parts;
use crate::version::Version;

/// Pieces that should become one run.
struct Due {
    tablet: TabletId,
    window: i64,
    table: Arc<TableInfo>,
    pieces: Vec<Arc<Piece>>,
}

impl Parts {
    /// Joins whatever is worth joining after each apply, until the shard stops.
    pub(crate) async fn keep_joining(self: Arc<Self>) {
        loop {
            let applied = self.applied.notified();
            let Some(due) = due(&self.current.get()) else {
                tokio::select! {
                    biased;
                    () = self.stop.cancelled() => return,
                    () = applied => continue,
                }
            };
            let pieces = due.pieces.clone();
            let table = Arc::clone(&due.table);
            match tokio::task::spawn_blocking(move || join(&pieces, &table)).await {
                Ok(Ok(run)) => self.put_run(&due, run),
                Ok(Err(error)) => {
                    tracing::error!(shard = %self.shard, %error, "run not made");
                    return;
                }
                Err(_) => return,
            }
        }
    }

    fn put_run(&self, due: &Due, run: Option<Piece>) {
        let added = run.as_ref().map_or(0, |run| run.bytes);
        let freed: usize = due.pieces.iter().map(|piece| piece.bytes).sum();
        let put = self.current.edit(|version| {
            let here = version.active.tablet(due.tablet).is_some();
            here && version.active.edit(due.tablet, |rows| {
                rows.replace(due.window, &due.pieces, run)
            })
        });
        if put {
            self.budget.add(added);
            self.budget.sub(freed);
        }
    }
}

/// The first window with pieces worth joining.
fn due(version: &Version) -> Option<Due> {
    version.active.tablets().find_map(|(tablet, rows)| {
        let spec = version.tablets.get(&tablet)?;
        let barriers = version.barriers(tablet);
        let (window, range, pieces) = rows.windows().find_map(|(window, pieces)| {
            let range: Range<usize> = memtable::to_join(pieces, &barriers)?;
            Some((window, range, pieces))
        })?;
        let pieces = pieces[range].to_vec();
        Some(Due {
            tablet,
            window,
            table: Arc::clone(&spec.table),
            pieces,
        })
    })
}

/// One run of all rows of the pieces, which are from old to young.
///
/// * effects: takes CPU time in the order of a microsecond per ten rows.
fn join(pieces: &[Arc<Piece>], table: &TableInfo) -> Result<Option<Piece>, SstError> {
    let sorted: Vec<Sorted> = pieces
        .iter()
        .map(|piece| piece.sorted())
        .collect::<Result<_, _>>()?;
    let has = |column: &&Column| {
        sorted
            .iter()
            .any(|run| run.fields.iter().any(|field| field.id == column.id))
    };
    let fields: FieldSet = table.schema.fields().filter(has).cloned().collect();
    let none = Deletes::default();
    let merged = read::merged_pieces(pieces, &fields, &none, table.options.merge_mode);
    let batches: Vec<_> = futures::executor::block_on(merged.try_collect())?;
    let seq_min = pieces
        .iter()
        .map(|piece| piece.seq_min)
        .min()
        .unwrap_or_default();
    let seq_max = pieces
        .iter()
        .map(|piece| piece.seq_max)
        .max()
        .unwrap_or_default();
    Ok(Piece::run(
        Sorted {
            fields,
            batches: batches.into(),
        },
        seq_min,
        seq_max,
    ))
}
