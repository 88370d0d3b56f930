//! Threads on which statements are planned and run, apart from those that serve connections.
//!
//! A function may work on one row for as long as it likes, and nothing can interrupt it. On threads of its
//! own it keeps nobody else from being heard: the statement is answered at its deadline, other requests
//! go on, and what it occupies among the running statements is given back when the thread is.
//!
//! Never here: what runs.

use std::future::Future;
use std::sync::Arc;

use auxo_proto::error::Failure;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::runtime::{Builder, EnterGuard, Handle, Runtime};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use crate::run::{panicked, too_late};

/// What a statement occupies for as long as a thread works for it.
pub type Slot = Arc<dyn Send + Sync>;

/// Items that are made ahead of whoever takes them.
const AHEAD: usize = 1;

/// Where statements run.
#[derive(Debug)]
pub struct Threads {
    handle: Handle,
    /// Its own, or that of whoever made it.
    runtime: Option<Runtime>,
}

impl Threads {
    /// Threads for statements alone.
    ///
    /// * `stack_bytes`: of each; planning recurses.
    /// * errors: the system gives no more threads.
    pub fn start(count: usize, stack_bytes: usize) -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(count.max(1))
            .thread_name("statements")
            .thread_stack_size(stack_bytes)
            .enable_all()
            .build()?;
        Ok(Self {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }

    /// Those of the caller: one process then runs everything under one clock.
    ///
    /// * panics: outside of a tokio runtime.
    pub fn shared() -> Self {
        Self {
            handle: Handle::current(),
            runtime: None,
        }
    }

    /// What is spawned while the guard lives goes there.
    pub(crate) fn enter(&self) -> EnterGuard<'_> {
        self.handle.enter()
    }

    /// Has work done there, waited for until the deadline.
    ///
    /// * errors: `TIMEOUT`, `INTERNAL` if it panics.
    /// * effects: dropping the future, or the deadline, ends the work where it next waits.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        deadline: Instant,
        slot: Slot,
        work: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<T, Failure> {
        let work = async move {
            let _slot = slot;
            work.await
        };
        let done = AbortOnDropHandle::new(self.handle.spawn(work));
        match timeout_at(deadline, done).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => Err(panicked()),
            Err(_) => Err(too_late()),
        }
    }

    /// A stream whose items are made there; a failure is the last.
    ///
    /// * effects: dropping it ends the work where it next waits.
    pub(crate) fn stream<T: Send + 'static>(
        &self,
        deadline: Instant,
        slot: Slot,
        mut items: BoxStream<'static, Result<T, Failure>>,
    ) -> BoxStream<'static, Result<T, Failure>> {
        let (sender, receiver) = mpsc::channel(AHEAD);
        let work = async move {
            let _slot = slot;
            while let Some(item) = items.next().await {
                if sender.send(item).await.is_err() {
                    return;
                }
            }
        };
        let work = AbortOnDropHandle::new(self.handle.spawn(work));
        let taken = stream::unfold(Some((receiver, work)), move |state| async move {
            let (mut receiver, work) = state?;
            match timeout_at(deadline, receiver.recv()).await {
                Ok(Some(Ok(item))) => Some((Ok(item), Some((receiver, work)))),
                Ok(Some(failure)) => Some((failure, None)),
                Ok(None) => match work.await {
                    Ok(()) => None,
                    Err(_) => Some((Err(panicked()), None)),
                },
                Err(_) => Some((Err(too_late()), None)),
            }
        });
        taken.boxed()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A thread that does not come back must not keep the process.
            runtime.shutdown_background();
        }
    }
}
