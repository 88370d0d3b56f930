//! The services behind which other nodes read the tablets that this one leads: holds, and by Arrow
//! Flight the parts of plans that run under them.
//!
//! * A hold ends with its stream, at its deadline, or when this node stops; its parts end with their
//!   own streams.
//! * Parts run on tasks of their own: a connection that carries other streams never waits for one.
//!
//! Never here: a tablet that is not led here; that is a refusal.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::encode::{DictionaryHandling, FlightDataEncoderBuilder};
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo,
    HandshakeRequest, HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
};
use auxo_engine::Engine;
use auxo_proto::error::{ErrorCode, Failure};
use auxo_proto::ids::TabletId;
use auxo_proto::pb::node::hold_reply::What as Reply;
use auxo_proto::pb::node::hold_request::What as Question;
use auxo_proto::pb::node::reading_server::{Reading, ReadingServer};
use auxo_proto::pb::node::{Fragment, HoldOpen, HoldReply, HoldRequest, Pinned};
use auxo_proto::random::Random;
use auxo_proto::topology::Catalog;
use auxo_query::Query;
use auxo_query::fragment::{Held, PLAN_FORMAT};
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use super::places::Freshness;
use super::status::{refusal, status};
use super::{MESSAGE_BYTES_MAX, places};

/// Statements of other nodes that hold something here; the next one is refused.
const HOLDS_MAX: usize = 1_024;
/// Longest hold, whatever the statement's time.
const HOLD_TIME: Duration = Duration::from_secs(3_600);
/// Longest wait for the topology that a statement was planned by.
const TOPOLOGY_TIME: Duration = Duration::from_millis(1_500);
/// Messages of a part that wait for the network.
const PART_QUEUE: usize = 4;

/// Serves statements of other nodes. Clones share everything.
#[derive(Clone)]
pub struct Door(Arc<Inner>);

struct Inner {
    engine: Engine,
    query: Arc<Query>,
    catalog: watch::Receiver<Arc<Catalog>>,
    random: Random,
    tasks: TaskTracker,
    stop: CancellationToken,
    holds: Mutex<HashMap<Bytes, Held>>,
}

/// A hold in the list; it leaves it when dropped.
struct Listed {
    door: Door,
    number: Bytes,
    held: Held,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.door.0.holds.lock().remove(&self.number);
    }
}

impl Door {
    /// A door to the shards of an engine.
    ///
    /// * effects: holds and parts are served on `tasks` until `stop`.
    pub fn new(
        engine: Engine,
        query: Arc<Query>,
        catalog: watch::Receiver<Arc<Catalog>>,
        random: Random,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self(Arc::new(Inner {
            engine,
            query,
            catalog,
            random,
            tasks,
            stop,
            holds: Mutex::default(),
        }))
    }

    /// The service of holds, for a gRPC server.
    pub fn holds(&self) -> ReadingServer<Self> {
        ReadingServer::new(self.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The service of parts, for a gRPC server.
    pub fn parts(&self) -> FlightServiceServer<Self> {
        FlightServiceServer::new(self.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Number of statements that hold something here.
    pub fn holding(&self) -> usize {
        self.0.holds.lock().len()
    }

    fn list(&self, deadline: Instant, freshness: Freshness) -> Result<Listed, Failure> {
        let engine = self.0.engine.clone();
        let snapshots = places::local(engine, self.0.catalog.clone(), freshness);
        let number: Bytes = self.0.random.next_u128().to_be_bytes().to_vec().into();
        let held = self.0.query.hold(snapshots, deadline);
        let mut holds = self.0.holds.lock();
        if holds.len() >= HOLDS_MAX {
            let detail = "too many statements of other nodes read here";
            return Err(Failure::new(ErrorCode::Busy, detail));
        }
        holds.insert(number.clone(), held.clone());
        Ok(Listed {
            door: self.clone(),
            number,
            held,
        })
    }

    /// Answers the questions of one statement.
    async fn serve(
        &self,
        mut questions: Streaming<HoldRequest>,
        answers: &mpsc::Sender<Result<HoldReply, Status>>,
    ) -> Result<(), Status> {
        let first = questions.message().await?;
        let Some(Question::Open(open)) = first.and_then(|first| first.what) else {
            return Err(Status::invalid_argument("a hold begins with its opening"));
        };
        let HoldOpen {
            topology,
            deadline_ms,
            eventual,
        } = open;
        let freshness = match eventual {
            true => Freshness::Eventual,
            false => Freshness::Strong,
        };
        let time = Duration::from_millis(deadline_ms).min(HOLD_TIME);
        let deadline = Instant::now() + time;
        let listed = self.list(deadline, freshness).map_err(status)?;
        let mut catalog = self.0.catalog.clone();
        let known = catalog.wait_for(|catalog| catalog.topology().number >= topology);
        // In time or not: what this node does not know yet it refuses below.
        let _ = tokio::time::timeout(TOPOLOGY_TIME, known).await.is_ok();
        let questions = async {
            while let Some(question) = questions.message().await? {
                let answer = self.answer(&listed, question).await;
                let reply = HoldReply { what: Some(answer) };
                if answers.send(Ok(reply)).await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        match tokio::time::timeout_at(deadline, questions).await {
            Ok(ended) => ended,
            Err(_) => Err(Status::deadline_exceeded("the statement's time is over")),
        }
    }

    async fn answer(&self, listed: &Listed, question: HoldRequest) -> Reply {
        let held = &listed.held;
        let answered = match question.what {
            Some(Question::Pin(pin)) => {
                let tablets: Vec<TabletId> = pin.tablets.into_iter().map(TabletId).collect();
                let pinned = held.pin(&tablets).await;
                pinned.map(|()| {
                    Reply::Pinned(Pinned {
                        hold: listed.number.clone(),
                        plan_format: PLAN_FORMAT,
                    })
                })
            }
            Some(Question::Find(find)) => {
                let catalog = Arc::clone(&self.0.catalog.borrow());
                held.find(&catalog, &find).await.map(Reply::Found)
            }
            Some(Question::Open(_)) | None => Err(Failure::new(
                ErrorCode::BadRequest,
                "a hold is asked to pin or to find",
            )),
        };
        answered.unwrap_or_else(|failure| {
            let topology = self.0.catalog.borrow().topology().number;
            Reply::Refused(refusal(failure, topology))
        })
    }

    /// Runs a part and sends what comes out of it.
    fn run(&self, fragment: &Fragment) -> Result<BoxStream<'static, Sent>, Failure> {
        let held = self.0.holds.lock().get(&fragment.hold).cloned();
        let held = held.ok_or_else(|| {
            let detail = "the statement holds nothing here any more";
            Failure::new(ErrorCode::NoLeader, detail)
        })?;
        let part = fragment.part.as_ref();
        let part = part.ok_or_else(|| Failure::new(ErrorCode::BadRequest, "no part of a plan"))?;
        let mut running = held.run(part, fragment.partition)?;
        let batches = std::mem::replace(&mut running.batches, stream::empty().boxed());
        let rows = FlightDataEncoderBuilder::new()
            .with_schema(Arc::clone(&running.schema))
            .with_dictionary_handling(DictionaryHandling::Resend)
            .build(batches.map_err(|failure| FlightError::Tonic(Box::new(status(failure)))))
            .map_err(|error| match error {
                FlightError::Tonic(status) => *status,
                error => status(Failure::new(ErrorCode::Internal, error.to_string())),
            });
        let done = stream::once(async move {
            let took = running.took().encode_to_vec();
            Ok(FlightData::new().with_app_metadata(took))
        });
        // Behind a failure nothing is done.
        let sent = rows.chain(done).scan(false, |failed, sent| {
            let go_on = !*failed;
            *failed |= sent.is_err();
            futures::future::ready(go_on.then_some(sent))
        });
        Ok(sent.boxed())
    }
}

/// One message of a part.
type Sent = Result<FlightData, Status>;

#[tonic::async_trait]
impl Reading for Door {
    type HoldStream = ReceiverStream<Result<HoldReply, Status>>;

    async fn hold(
        &self,
        request: Request<Streaming<HoldRequest>>,
    ) -> Result<Response<Self::HoldStream>, Status> {
        let (answers, answered) = mpsc::channel(1);
        let door = self.clone();
        self.0.tasks.spawn(async move {
            let served = tokio::select! {
                () = door.0.stop.cancelled() => Err(Status::unavailable("the node stops")),
                () = answers.closed() => Ok(()),
                served = door.serve(request.into_inner(), &answers) => served,
            };
            if let Err(status) = served {
                // Whoever asked may be gone.
                let _ = answers.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(answered)))
    }
}

/// The status of what this node does not offer.
fn not_offered() -> Status {
    Status::unimplemented("nodes exchange parts of plans and nothing else")
}

#[tonic::async_trait]
impl FlightService for Door {
    type HandshakeStream = BoxStream<'static, Result<HandshakeResponse, Status>>;
    type ListFlightsStream = BoxStream<'static, Result<FlightInfo, Status>>;
    type DoGetStream = BoxStream<'static, Sent>;
    type DoPutStream = BoxStream<'static, Result<PutResult, Status>>;
    type DoActionStream = BoxStream<'static, Result<arrow_flight::Result, Status>>;
    type ListActionsStream = BoxStream<'static, Result<ActionType, Status>>;
    type DoExchangeStream = ReceiverStream<Sent>;

    async fn do_exchange(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        let first = request.into_inner().message().await?;
        let descriptor = first.and_then(|first| first.flight_descriptor);
        let command = descriptor.ok_or_else(|| Status::invalid_argument("no command"))?;
        let fragment = Fragment::decode(command.cmd)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let mut sent = self.run(&fragment).map_err(status)?;
        let (messages, received) = mpsc::channel(PART_QUEUE);
        let stop = self.0.stop.clone();
        self.0.tasks.spawn(async move {
            loop {
                let next = tokio::select! {
                    () = stop.cancelled() => Some(Err(Status::unavailable("the node stops"))),
                    () = messages.closed() => None,
                    next = sent.next() => next,
                };
                let Some(next) = next else {
                    return;
                };
                let last = next.is_err();
                if messages.send(next).await.is_err() || last {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(received)))
    }

    async fn handshake(
        &self,
        _: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        Err(not_offered())
    }

    async fn list_flights(
        &self,
        _: Request<Criteria>,
    ) -> Result<Response<Self::ListFlightsStream>, Status> {
        Err(not_offered())
    }

    async fn get_flight_info(
        &self,
        _: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        Err(not_offered())
    }

    async fn poll_flight_info(
        &self,
        _: Request<FlightDescriptor>,
    ) -> Result<Response<PollInfo>, Status> {
        Err(not_offered())
    }

    async fn get_schema(
        &self,
        _: Request<FlightDescriptor>,
    ) -> Result<Response<SchemaResult>, Status> {
        Err(not_offered())
    }

    async fn do_get(&self, _: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        Err(not_offered())
    }

    async fn do_put(
        &self,
        _: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoPutStream>, Status> {
        Err(not_offered())
    }

    async fn do_action(
        &self,
        _: Request<Action>,
    ) -> Result<Response<Self::DoActionStream>, Status> {
        Err(not_offered())
    }

    async fn list_actions(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<Self::ListActionsStream>, Status> {
        Err(not_offered())
    }
}
