//! The service behind which writes of other nodes are applied.
//!
//! Never here: forwarding again; a shard that is not led here is a refusal.

use std::sync::Arc;
use std::time::Duration;

use auxo_engine::payload::{self, Batch, Entry};
use auxo_engine::{Engine, WriteError};
use auxo_proto::error::{ErrorCode, Failure, Outcome};
use auxo_proto::ids::ShardId;
use auxo_proto::pb::node::forwarded_answer::Outcome as Answered;
use auxo_proto::pb::node::forwarding_server::{Forwarding, ForwardingServer};
use auxo_proto::pb::node::{ForwardedAnswer, ForwardedDone, ForwardedRefusal, ForwardedWrite};
use auxo_proto::topology::Catalog;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use super::{FORWARD_TIME, MESSAGE_BYTES_MAX};
use crate::write;

/// Writes of one stream that are being applied; the next one waits in the connection.
const IN_FLIGHT: usize = 256;

/// Applies what other nodes forward.
#[derive(Clone)]
pub struct Door {
    engine: Engine,
    catalog: watch::Receiver<Arc<Catalog>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Door {
    /// A door to the shards of an engine.
    ///
    /// * effects: streams are served on `tasks` until `stop`.
    pub fn new(
        engine: Engine,
        catalog: watch::Receiver<Arc<Catalog>>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self {
            engine,
            catalog,
            tasks,
            stop,
        }
    }

    /// The service, for a gRPC server.
    pub fn service(self) -> ForwardingServer<Self> {
        ForwardingServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Answers the writes of one stream, many at a time, until either side ends it.
    async fn serve(
        self,
        mut writes: Streaming<ForwardedWrite>,
        answers: mpsc::Sender<Result<ForwardedAnswer, Status>>,
    ) {
        let room = Arc::new(Semaphore::new(IN_FLIGHT));
        loop {
            let Ok(place) = Arc::clone(&room).acquire_owned().await else {
                return;
            };
            let next = tokio::select! {
                () = self.stop.cancelled() => return,
                () = answers.closed() => return,
                next = writes.message() => next,
            };
            let Ok(Some(write)) = next else {
                return;
            };
            let (door, answers) = (self.clone(), answers.clone());
            self.tasks.spawn(async move {
                let answer = door.apply(write).await;
                // The sender may be gone; the write is settled all the same.
                let _ = answers.send(Ok(answer)).await;
                drop(place);
            });
        }
    }

    async fn apply(&self, forwarded: ForwardedWrite) -> ForwardedAnswer {
        let number = forwarded.number;
        let within = Duration::from_millis(forwarded.deadline_ms).min(FORWARD_TIME);
        let written = match batch(&forwarded) {
            Err(failure) => Err(failure),
            Ok(batch) => {
                let shard = ShardId(forwarded.shard);
                let written = async {
                    match self.engine.shard(shard) {
                        Some(led) => led.write(batch).await,
                        None => Err(WriteError::NotLeader(shard)),
                    }
                };
                let written = tokio::time::timeout(within, written).await;
                written
                    .unwrap_or(Err(WriteError::Unknown))
                    .map_err(write::failure)
            }
        };
        let outcome = match written {
            Ok(written) => Answered::Done(ForwardedDone {
                seq: written.seq.0,
                replayed: written.replayed,
            }),
            Err(failure) => Answered::Refused(ForwardedRefusal {
                code: failure.code.number().into(),
                unknown: failure.outcome == Some(Outcome::Unknown),
                topology: self.catalog.borrow().topology().number,
                retry_after_ms: failure.retry_after_ms.unwrap_or_default(),
                detail: failure.detail,
            }),
        };
        ForwardedAnswer {
            number,
            outcome: Some(outcome),
        }
    }
}

/// The one batch of a message.
fn batch(forwarded: &ForwardedWrite) -> Result<Batch, Failure> {
    let refused = |detail: String| {
        Failure::new(ErrorCode::BadRequest, format!("forwarded write: {detail}"))
            .outcome(Outcome::Rejected)
    };
    let mut payload =
        payload::decode(&forwarded.payload).map_err(|error| refused(error.to_string()))?;
    let Some(batch) = payload.batches.pop().filter(|_| payload.batches.is_empty()) else {
        return Err(refused("a message holds one batch".to_owned()));
    };
    let of_shard = |entry: &Entry| matches!(entry, Entry::CreateTablets(_) | Entry::DropTablets(_));
    match batch.entries.iter().any(of_shard) {
        true => Err(refused("tablets are changed by meta alone".to_owned())),
        false => Ok(batch),
    }
}

#[tonic::async_trait]
impl Forwarding for Door {
    type WriteStream = ReceiverStream<Result<ForwardedAnswer, Status>>;

    async fn write(
        &self,
        request: Request<Streaming<ForwardedWrite>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let (answers, answered) = mpsc::channel(IN_FLIGHT);
        let door = self.clone();
        self.tasks.spawn(door.serve(request.into_inner(), answers));
        Ok(Response::new(ReceiverStream::new(answered)))
    }
}
