//! The one thread that keeps the clients of a service: it finds out whether the service is away,
//! replaces producers, takes back what readers do not need any more, and at the end closes all.
//!
//! It blocks on Kafka, and nothing else waits for it but `close`.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::time::Instant;

use super::clients::{Clients, Errand, Reach};

/// How long a broker may take to show that the service is there.
const PROBE_WITHIN: Duration = Duration::from_millis(500);

/// How often a service that is away is tried.
const PROBE_EVERY: Duration = Duration::from_millis(250);

/// How often idle readers are looked for, and missing producers tried again.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// How long a reader keeps its place when nobody reads.
const IDLE: Duration = Duration::from_secs(10);

/// How long the end waits for those who still ask or read.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

pub(super) fn start(
    clients: Arc<Clients>,
    errands: Receiver<Errand>,
) -> std::io::Result<JoinHandle<()>> {
    let name = "wal-kafka-keeper".to_owned();
    let builder = std::thread::Builder::new().name(name);
    builder.spawn(move || {
        let keeper = Keeper { clients, errands };
        keeper.run();
        keeper.close();
    })
}

struct Keeper {
    clients: Arc<Clients>,
    errands: Receiver<Errand>,
}

impl Keeper {
    fn run(&self) {
        let (mut probed, mut swept) = (Instant::now(), Instant::now());
        loop {
            let away = *self.clients.reach.borrow() == Reach::Away;
            let pause = if away { PROBE_EVERY } else { SWEEP_EVERY };
            let suspect = match self.errands.recv_timeout(pause) {
                Ok(Errand::Suspect) => {
                    self.clients.signals.suspicion_taken();
                    true
                }
                Ok(Errand::Replace { slot, generation }) => {
                    self.replace(slot, Some(generation));
                    false
                }
                Ok(Errand::Release(released)) => {
                    released.release();
                    false
                }
                Err(RecvTimeoutError::Timeout) => false,
                Ok(Errand::Close) | Err(RecvTimeoutError::Disconnected) => return,
            };
            if (away && probed.elapsed() >= PROBE_EVERY) || (suspect && !away) {
                self.probe();
                probed = Instant::now();
            }
            if swept.elapsed() >= SWEEP_EVERY {
                self.sweep();
                swept = Instant::now();
            }
        }
    }

    fn probe(&self) {
        let found = match self.clients.probe(PROBE_WITHIN) {
            true => Reach::Here,
            false => Reach::Away,
        };
        let before = self.clients.reach.send_replace(found);
        match (before, found) {
            (Reach::Here, Reach::Away) => tracing::warn!("no broker of Kafka answers"),
            (Reach::Away, Reach::Here) => tracing::info!("Kafka answers again"),
            _ => {}
        }
    }

    fn replace(&self, slot: usize, generation: Option<u64>) {
        let clients = &self.clients;
        if let Some(slot) = clients.producers.get(slot) {
            slot.replace(generation, &clients.settings, &clients.signals);
        }
    }

    fn sweep(&self) {
        for slot in 0..self.clients.producers.len() {
            self.replace(slot, None);
        }
        let shelves = {
            let mut shelves = self.clients.shelves.lock();
            shelves.retain(|shelf| shelf.strong_count() > 0);
            shelves.iter().filter_map(Weak::upgrade).collect::<Vec<_>>()
        };
        for shelf in shelves {
            shelf.drop_idle(IDLE);
        }
    }

    fn close(&self) {
        let clients = &self.clients;
        clients.reach.send_replace(Reach::Closed);
        let shelves = std::mem::take(&mut *clients.shelves.lock());
        for shelf in shelves.iter().filter_map(Weak::upgrade) {
            shelf.drop_idle(Duration::ZERO);
        }
        let deadline = Instant::now() + CLOSE_WITHIN;
        let reading = || clients.readers.iter().any(|reader| reader.is_used());
        while reading() && Instant::now() < deadline {
            if let Ok(Errand::Release(released)) = self.errands.recv_timeout(PROBE_EVERY) {
                released.release();
            }
        }
        // Each waits for the threads of its own client.
        std::thread::scope(|scope| {
            for slot in &clients.producers {
                scope.spawn(|| slot.close());
            }
            for reader in &clients.readers {
                scope.spawn(|| reader.close());
            }
            if let Some(admin) = clients.take_admin() {
                while Arc::strong_count(&admin) > 1 && Instant::now() < deadline {
                    let _ = self.errands.recv_timeout(PROBE_EVERY);
                }
                drop(admin);
            }
        });
    }
}
