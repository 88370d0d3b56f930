//! Rewrites files together, drops what has outlived its TTL, and deletes what nobody refers to.
//!
//! What to rewrite is decided elsewhere, purely (`auxo_sst::compaction`); here it is done: read the
//! inputs from old to young, leave out what deletes hit, merge, write, commit, swap. A failed
//! compaction leaves its inputs as they were; its outputs are garbage of this term.
//!
//! Never here: which files belong together, when an object may be deleted.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use auxo_proto::schema::TabletSpec;
use auxo_sst::compaction::{self, Options, Plan};
use auxo_sst::entry::FileEntry;
use auxo_sst::garbage::{GarbageError, Sweeper};
use auxo_sst::manifest::Manifest;
use auxo_sst::manifest_store::ManifestStore;
use auxo_sst::merge::{self, MergeSource};
use auxo_sst::names;
use tokio::time::Instant;

use crate::committer::NotCommitted;
use crate::deletes::Deletes;
use crate::flush::{self, Flight, FlushError, Output};
use crate::shard::Parts;
use crate::{read, select};

/// How often garbage is looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(600);

impl Parts {
    /// Compacts and deletes until the shard stops.
    pub(crate) async fn keep_compacting(self: Arc<Self>) {
        let every = Duration::from_millis(self.settings.compact_every_ms.max(1));
        let folder = names::shard_folder(self.shard);
        let manifests = ManifestStore::new(Arc::clone(&self.store), folder);
        let options = Options::default();
        let mut sweeper = Sweeper::new(Arc::clone(&self.store), manifests.clone(), self.shard);
        let mut swept = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(every) => {}
            }
            let worked = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                worked = self.compact_all(&options) => worked,
            };
            match worked {
                Ok(files) => {
                    self.compacted.fetch_add(files as u64, Ordering::Relaxed);
                }
                Err(error @ FlushError::NotCommitted(NotCommitted::Deposed(_))) => {
                    return self.heed(&error).await;
                }
                Err(error) => {
                    tracing::error!(shard = %self.shard, %error, "compaction failed, inputs stay");
                }
            }
            if swept.elapsed() >= SWEEP_EVERY {
                swept = Instant::now();
                if let Err(error) = self.sweep(&mut sweeper, &manifests).await {
                    tracing::warn!(shard = %self.shard, %error, "garbage not deleted");
                }
            }
        }
    }

    /// Carries out every plan there is, until there is none.
    ///
    /// * returns: number of files that were rewritten or dropped.
    pub(crate) async fn compact_all(&self, options: &Options) -> Result<usize, FlushError> {
        let mut done = self.drop_expired().await?;
        loop {
            let (_, manifest) = self.committer.newest().await;
            let plans = compaction::pick(&manifest.files, options, self.clock.now_ms());
            let Some(plan) = plans.into_iter().next() else {
                return Ok(done);
            };
            done += plan.inputs.len();
            self.compact(&plan, &manifest).await?;
        }
    }

    /// Carries out a plan for files of a manifest.
    async fn compact(&self, plan: &Plan, manifest: &Manifest) -> Result<(), FlushError> {
        let own = self.committer.bump().await?;
        let version = self.current.get();
        // What the files were written by: a newer schema waits for the flush of its first rows.
        let written_by = manifest
            .tablets
            .iter()
            .find(|known| known.id == plan.tablet);
        let (Some(tablet), true) = (written_by, version.tablets.contains_key(&plan.tablet)) else {
            return self.forget(&plan.inputs).await;
        };
        let fields = flush::fields_of(tablet, |column| {
            plan.inputs
                .iter()
                .any(|input| input.columns.contains(&column.id))
        });
        let spec = Arc::new(read::everything(&fields));
        let deletes = Deletes::of(plan.tablet, &version.deletes);
        let sources = plan.inputs.iter().map(|input| {
            let spec = Arc::new(auxo_sst::predicate::ScanSpec {
                range: input.range,
                ..auxo_sst::predicate::ScanSpec::clone(&spec)
            });
            let rows = self.files.scan(Arc::new(input.clone()), spec);
            MergeSource {
                rows: select::without_deleted(
                    rows,
                    deletes.after(input.seq_max, (input.t_min, input.t_max)),
                ),
                first_key: input.first_key.clone(),
            }
        });
        let mode = tablet.table.options.merge_mode;
        let merged = merge::merge(sources.collect(), mode, &fields);
        let ulid = || self.ulid();
        let flight = Flight::new(&self.in_flight);
        let target = self.target(own, &ulid, &flight);
        let cut: TabletSpec = TabletSpec {
            range: plan.range,
            ..TabletSpec::clone(tablet)
        };
        let output = Output {
            target,
            tablet: &cut,
            segment_start: plan.segment_start,
            segment_ns: plan.segment_ns,
            seq_min: plan.seq_min,
            seq_max: plan.seq_max,
            is_final: plan.is_final,
            cut_bytes: usize::try_from(plan.cut_bytes).unwrap_or(flush::FILE_BYTES),
        };
        let began = Instant::now();
        let written = flush::write_files(merged, &fields, &output).await;
        let replaced = self.replace(&plan.inputs, written?);
        flight.until_decided(replaced).await?;
        let rows: u64 = plan.inputs.iter().map(|input| input.rows).sum();
        tracing::info!(
            shard = %self.shard,
            tablet = %plan.tablet,
            rule = ?plan.rule,
            files = plan.inputs.len(),
            rows,
            ms = began.elapsed().as_millis() as u64,
            "compacted",
        );
        Ok(())
    }

    /// Files whose rows have all outlived their table's TTL leave.
    async fn drop_expired(&self) -> Result<usize, FlushError> {
        let (_, manifest) = self.committer.newest().await;
        let version = self.current.get();
        let ttl_ms = |file: &FileEntry| version.tablets.get(&file.tablet)?.table.options.ttl_ms;
        let now_ms = self.clock.now_ms();
        let expired: Vec<FileEntry> = compaction::expired(&manifest.files, ttl_ms, now_ms)
            .cloned()
            .collect();
        let count = expired.len();
        if count > 0 {
            self.forget(&expired).await?;
        }
        Ok(count)
    }

    async fn forget(&self, files: &[FileEntry]) -> Result<(), FlushError> {
        self.replace(files, Vec::new()).await
    }

    /// Commits `outputs` in place of `inputs`, unless one of the inputs has left meanwhile.
    async fn replace(
        &self,
        inputs: &[FileEntry],
        outputs: Vec<FileEntry>,
    ) -> Result<(), FlushError> {
        let now_ms = self.clock.now_ms();
        let gone: HashSet<&str> = inputs.iter().map(|input| input.key.as_str()).collect();
        let (number, manifest) = self
            .committer
            .commit(|before| {
                let leaves = |file: &&FileEntry| gone.contains(file.key.as_str());
                let leaving = before.files.iter().filter(leaves).count();
                (leaving == inputs.len()).then(|| {
                    let kept = before.files.iter().filter(|file| !leaves(file)).cloned();
                    let mut retired = before.retired.clone();
                    retired.extend(
                        inputs
                            .iter()
                            .cloned()
                            .map(|file| flush::retire(file, now_ms)),
                    );
                    let files = kept.chain(outputs).collect();
                    Manifest {
                        files,
                        retired,
                        ..before.clone()
                    }
                })
            })
            .await?;
        self.install(number, &manifest);
        Ok(())
    }

    /// Deletes garbage, forgets what has rested in `retired`, removes old manifests.
    async fn sweep(
        &self,
        sweeper: &mut Sweeper,
        manifests: &ManifestStore,
    ) -> Result<(), GarbageError> {
        let now_ms = self.clock.now_ms();
        let own = self.committer.own().term;
        let in_flight = || self.in_flight.lock().clone();
        let garbage = sweeper.find(own, in_flight, now_ms).await?;
        let objects = garbage.objects.len();
        let store = |error| GarbageError::Read(auxo_sst::manifest_store::ReadError::Store(error));
        let deleted = sweeper.delete(&garbage).await.map_err(store)?;
        if objects > 0 {
            tracing::info!(shard = %self.shard, objects, deleted, "garbage deleted");
        }
        if !garbage.settled.is_empty() {
            let settled: HashSet<&str> = garbage.settled.iter().map(String::as_str).collect();
            let committed = self.committer.commit(|before| {
                let rests = |retired: &&auxo_sst::manifest::Retired| {
                    !settled.contains(retired.key.as_str())
                };
                let retired = before.retired.iter().filter(rests).cloned().collect();
                Some(Manifest {
                    retired,
                    ..before.clone()
                })
            });
            if let Err(error) = committed.await {
                tracing::warn!(shard = %self.shard, %error, "retired files not forgotten");
            }
        }
        manifests.trim(now_ms).await.map_err(store)?;
        Ok(())
    }
}
