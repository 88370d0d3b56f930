//! The flusher of a shard: takes cuts of its memtable and brings them into files, by size, by age and
//! by request.
//!
//! Never here: what a flush writes and in which order (flush), the handle that callers hold (shard).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use auxo_sst::manifest::Manifest;
use auxo_wal_adapters::Offset;
use tokio::sync::oneshot;

use crate::committer::{NotCommitted, Own};
use crate::flush::{self, Flight, FlushError, Target};
use crate::leader::Command;
use crate::shard::Parts;
use crate::state::Cut;

impl Parts {
    /// Flushes every pending cut. Dropped half-way, it is taken up by the next call.
    pub(crate) async fn flush_cuts(&self) -> Result<(), FlushError> {
        let _one_at_a_time = self.flushing.lock().await;
        loop {
            let Some(cut) = self.cuts.lock().front().cloned() else {
                return Ok(());
            };
            match self.flush_one(&cut).await {
                Ok(()) => {
                    *self.flush_refused.lock() = None;
                    self.store_full.store(false, Ordering::Relaxed);
                }
                Err(FlushError::ClaimedAgain) => {}
                Err(error) => {
                    self.heed(&error).await;
                    *self.flush_refused.lock() = error.stays().then(|| error.to_string());
                    self.store_full.store(error.no_room(), Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
    }

    /// Tells the appending task if a failed commit shows that somebody else leads.
    pub(crate) async fn heed(&self, error: &FlushError) {
        if let FlushError::NotCommitted(NotCommitted::Deposed(term)) = error {
            let _ = self.commands.send(Command::Deposed(*term)).await;
        }
    }

    /// Flushes the oldest cut. Called again after it was dropped half-way, it finds what was
    /// committed; once the cut has left the queue, only the log remains to be truncated.
    async fn flush_one(&self, cut: &Cut) -> Result<(), FlushError> {
        let own = self.committer.bump().await?;
        let version = self.current.get();
        let ulid = || self.ulid();
        let flight = Flight::new(&self.in_flight);
        let target = self.target(own, &ulid, &flight);
        let files = flush::write_cut(cut, &version, target).await?;
        let mut batches = self.flushed_batches.lock().await;
        for applied in &cut.batches {
            batches.insert(applied.tenant, applied.id, applied.body_hash, applied.seq);
        }
        let table = batches.to_manifest();
        drop(batches);
        let now_ms = self.clock.now_ms();
        let commit = self.committer.commit(|before| {
            let due = before.flushed < cut.until;
            due.then(|| flush::flushed_manifest(before, cut, files, table, now_ms))
        });
        let committed = flight.until_decided(commit).await;
        let (number, manifest) =
            committed.map_err(|error| FlushError::of_commit(error, own, self.committer.own()))?;
        self.install(number, &manifest);
        self.cuts.lock().pop_front();
        self.unflushed.fetch_sub(cut.log_bytes, Ordering::Relaxed);
        tracing::info!(shard = %self.shard, manifest = number, flushed = cut.until, "flushed");
        let _ = self.commands.try_send(Command::Mark(number));
        self.truncate(cut.until).await;
        Ok(())
    }

    /// Where files go that are written under a claim.
    pub(crate) fn target<'a>(
        &'a self,
        own: Own,
        ulid: &'a (dyn Fn() -> ulid::Ulid + Send + Sync),
        flight: &'a Flight<'a>,
    ) -> Target<'a> {
        Target {
            store: &self.store,
            shard: self.shard,
            own,
            ulid,
            flight,
        }
    }

    /// Takes a committed manifest over, for readers who come from now on.
    pub(crate) fn install(&self, number: u64, manifest: &Manifest) {
        let freed = self
            .current
            .edit(|version| version.install(number, manifest));
        self.budget.sub(freed);
    }

    /// Cuts the log below a committed `flushed`. A failure is made good by the next flush.
    ///
    /// The leader may have claimed again since the commit: the new claim is bumped first.
    async fn truncate(&self, below: Offset) {
        let why = match self.committer.bump().await {
            Err(error) => error.to_string(),
            Ok(_) => match self.region.truncate(below).await {
                Ok(()) => return,
                Err(error) => error.to_string(),
            },
        };
        tracing::warn!(shard = %self.shard, why, "log not truncated, asked again next time");
    }

    pub(crate) fn ulid(&self) -> ulid::Ulid {
        ulid::Ulid::from_parts(self.clock.now_ms().max(0) as u64, self.random.next_u128())
    }

    /// Flushes by size, age and request until the shard stops; a failure is tried again.
    pub(crate) async fn keep_flushing(self: Arc<Self>) {
        let age = Duration::from_millis(self.settings.flush_age_ms);
        let mut pause = Duration::from_millis(200);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = self.flush_wanted.notified() => {}
                () = tokio::time::sleep(age) => {}
            }
            let (reply, answer) = oneshot::channel();
            if self.commands.send(Command::Cut(reply)).await.is_err() {
                return;
            }
            if answer.await.is_err() {
                return;
            }
            let flushed = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                flushed = self.flush_cuts() => flushed,
            };
            match flushed {
                Ok(()) => pause = Duration::from_millis(200),
                Err(FlushError::NotCommitted(NotCommitted::Deposed(_) | NotCommitted::Stopped)) => {
                    return;
                }
                Err(error) => {
                    tracing::error!(shard = %self.shard, %error, "flush failed, tried again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(10));
                    self.flush_wanted.notify_one();
                }
            }
        }
    }

    /// Whether the shard should flush by itself now.
    pub(crate) fn after_apply(&self) {
        self.applied.notify_waiters();
        if self.unflushed.load(Ordering::Relaxed) >= self.settings.flush_bytes {
            self.flush_wanted.notify_one();
        }
    }
}
