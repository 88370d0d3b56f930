//! Signals that ask a process to stop.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// SIGINT and SIGTERM, one after the other. From the first call of [`Interrupts::listen`] on they
/// no longer end the process by themselves.
pub(crate) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    /// Takes both signals over; needs a runtime.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The next signal. Cancel-safe: one that comes while nobody waits is seen by the next call.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Waits for `work`, which watches `shutdown`; the first signal asks it to stop, a second one
    /// no longer waits for it. Returns nothing in that case.
    pub(crate) async fn guard<T>(
        mut self,
        shutdown: CancellationToken,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let mut work = std::pin::pin!(work);
        tokio::select! {
            done = &mut work => return Some(done),
            () = self.next() => shutdown.cancel(),
        }
        tokio::select! {
            done = work => Some(done),
            () = self.next() => None,
        }
    }
}

/// Cancels `shutdown` once the standard input ends.
///
/// * effects: a thread of its own waits for that, so that nothing else has to.
pub(crate) fn cancel_at_end_of_input(shutdown: CancellationToken) -> std::io::Result<()> {
    let wait = move || {
        let ended = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        if let Err(error) = ended {
            tracing::warn!(%error, "standard input");
        }
        shutdown.cancel();
    };
    std::thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(wait)
        .map(drop)
}
