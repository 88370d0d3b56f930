//! A statement's hold on another node: questions in order over one stream, parts of its plan beside it.
//!
//! Dropping the hold ends the stream, and with it whatever the other node keeps for the statement.
//!
//! Never here: asking twice.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use arrow_flight::decode::{DecodedFlightData, DecodedPayload, FlightDataDecoder};
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{FlightData, FlightDescriptor};
use async_trait::async_trait;
use auxo_proto::error::{ErrorCode, Failure};
use auxo_proto::ids::TabletId;
use auxo_proto::pb::node::hold_reply::What as Reply;
use auxo_proto::pb::node::hold_request::What as Question;
use auxo_proto::pb::node::reading_client::ReadingClient;
use auxo_proto::pb::node::{
    Find, Found, Fragment, FragmentDone, HoldOpen, HoldReply, HoldRequest, Pin, Pinned,
};
use auxo_query::fragment::{PLAN_FORMAT, Part, PartStream, Peer, SentPart};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future, stream};
use prost::Message;
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::MESSAGE_BYTES_MAX;
use super::places::Freshness;
use super::status::{failure, gone, of_status};

/// Time for a node to take the first question.
const OPEN_TIME: Duration = Duration::from_secs(2);

/// A hold of one statement on one node.
pub(crate) struct Hold {
    node: String,
    channel: Channel,
    deadline: Instant,
    /// `None` while a question is under way, and for ever after one was given up.
    line: Mutex<Option<Line>>,
    pinned: OnceLock<Pinned>,
}

/// Both ends of the stream.
struct Line {
    questions: mpsc::Sender<HoldRequest>,
    answers: Streaming<HoldReply>,
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl Hold {
    /// Opens a hold.
    ///
    /// * topology: number of the one the statement was planned by.
    /// * errors: `NO_LEADER` if the node does not answer.
    pub(crate) async fn open(
        node: String,
        channel: Channel,
        topology: u64,
        deadline: Instant,
        freshness: Freshness,
    ) -> Result<Self, Failure> {
        let left = deadline.saturating_duration_since(Instant::now());
        let open = HoldOpen {
            topology,
            deadline_ms: left.as_millis().max(1) as u64,
            eventual: freshness == Freshness::Eventual,
        };
        let (questions, asked) = mpsc::channel(1);
        let first = HoldRequest {
            what: Some(Question::Open(open)),
        };
        questions
            .try_send(first)
            .unwrap_or_else(|_| unreachable!("a new queue has room"));
        let mut client = ReadingClient::new(channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let opened = client.hold(ReceiverStream::new(asked));
        let answers = match timeout(OPEN_TIME.min(left), opened).await {
            Ok(Ok(answers)) => answers.into_inner(),
            Ok(Err(status)) => return Err(of_status(&status, &node)),
            Err(_) => return Err(gone(&node, "no connection in time")),
        };
        Ok(Self {
            node,
            channel,
            deadline,
            line: Mutex::new(Some(Line { questions, answers })),
            pinned: OnceLock::new(),
        })
    }

    /// Has snapshots of tablets taken.
    pub(crate) async fn pin(&self, tablets: &[TabletId]) -> Result<(), Failure> {
        let pin = Pin {
            tablets: tablets.iter().map(|tablet| tablet.0).collect(),
        };
        match self.ask(Question::Pin(pin)).await? {
            Reply::Pinned(pinned) => {
                self.pinned.get_or_init(|| pinned);
                Ok(())
            }
            reply => Err(self.confused(reply)),
        }
    }

    /// Whether it broke: whatever it held is lost.
    pub(crate) async fn broken(&self) -> bool {
        self.line.lock().await.is_none()
    }

    async fn ask(&self, what: Question) -> Result<Reply, Failure> {
        let mut place = self.line.lock().await;
        let broken = || gone(&self.node, "the statement's hold on it broke");
        let mut line = place.take().ok_or_else(broken)?;
        let question = HoldRequest { what: Some(what) };
        let answered = async {
            line.questions.send(question).await.map_err(|_| broken())?;
            match line.answers.message().await {
                Ok(Some(answer)) => Ok(answer),
                Ok(None) => Err(broken()),
                Err(status) => Err(of_status(&status, &self.node)),
            }
        };
        let answer = timeout_at(self.deadline, answered).await.map_err(|_| {
            let detail = format!("node {} did not answer in the statement's time", self.node);
            Failure::new(ErrorCode::Timeout, detail)
        })??;
        *place = Some(line);
        match answer.what {
            Some(Reply::Refused(refusal)) => Err(failure(refusal)),
            Some(reply) => Ok(reply),
            None => Err(gone(&self.node, "it answers in words of another version")),
        }
    }

    fn confused(&self, reply: Reply) -> Failure {
        let detail = format!("node {} answers another question: {reply:?}", self.node);
        Failure::new(ErrorCode::Internal, detail)
    }
}

#[async_trait]
impl Peer for Hold {
    fn name(&self) -> &str {
        &self.node
    }

    fn plans(&self) -> bool {
        let pinned = self.pinned.get();
        pinned.is_some_and(|pinned| pinned.plan_format == PLAN_FORMAT)
    }

    async fn find(&self, find: Find) -> Result<Found, Failure> {
        match self.ask(Question::Find(find)).await? {
            Reply::Found(found) => Ok(found),
            reply => Err(self.confused(reply)),
        }
    }

    fn run(self: Arc<Self>, part: SentPart, partition: u32, schema: SchemaRef) -> PartStream {
        let hold = self.pinned.get().map(|pinned| pinned.hold.clone());
        let fragment = Fragment {
            hold: hold.unwrap_or_default(),
            partition,
            part: Some(part),
        };
        let opened = async move {
            let command = FlightDescriptor::new_cmd(fragment.encode_to_vec());
            let first = FlightData::new().with_descriptor(command);
            let mut client = FlightServiceClient::new(self.channel.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX);
            let exchange = client.do_exchange(stream::iter([first])).await;
            let messages = exchange.map_err(|status| of_status(&status, &self.node))?;
            let done = Arc::new(OnceLock::new());
            let last = Arc::clone(&done);
            let messages = messages.into_inner().try_filter_map(move |message| {
                // Rows have a header; what a part took stands alone.
                let rows = match message.data_header.is_empty() {
                    true => {
                        last.get_or_init(|| message.app_metadata);
                        None
                    }
                    false => Some(message),
                };
                future::ready(Ok(rows))
            });
            let messages = messages.map_err(|status| FlightError::Tonic(Box::new(status)));
            let arriving = Arriving {
                hold: self,
                schema,
                messages: FlightDataDecoder::new(messages),
                done,
                over: false,
            };
            Ok(stream::unfold(arriving, |mut arriving| async move {
                let part = arriving.next().await?;
                Some((part, arriving))
            }))
        };
        stream::once(opened).try_flatten().boxed()
    }
}

/// Parts on their way from another node.
struct Arriving {
    hold: Arc<Hold>,
    schema: SchemaRef,
    messages: FlightDataDecoder,
    /// What the part took, once it has ended.
    done: Arc<OnceLock<Bytes>>,
    over: bool,
}

impl Arriving {
    async fn next(&mut self) -> Option<Result<Part, Failure>> {
        while !self.over {
            let taken = match self.messages.next().await {
                Some(Ok(message)) => self.take(message),
                Some(Err(FlightError::Tonic(status))) => Err(of_status(&status, &self.hold.node)),
                Some(Err(error)) => Err(self.wrong(&error)),
                None => self.ended().map(Some),
            };
            match taken {
                Ok(None) => {}
                Ok(Some(part)) => {
                    self.over = matches!(part, Part::Done(_));
                    return Some(Ok(part));
                }
                Err(failure) => {
                    self.over = true;
                    return Some(Err(failure));
                }
            }
        }
        None
    }

    fn wrong(&self, what: &dyn fmt::Display) -> Failure {
        let detail = format!("rows from node {}: {what}", self.hold.node);
        Failure::new(ErrorCode::Internal, detail)
    }

    /// What the part took; a stream that ends without a word on it was cut.
    fn ended(&self) -> Result<Part, Failure> {
        let done = self.done.get().cloned();
        let done = done.ok_or_else(|| gone(&self.hold.node, "a stream of rows was cut"))?;
        let done = FragmentDone::decode(done).map_err(|error| self.wrong(&error))?;
        Ok(Part::Done(done))
    }

    fn take(&self, message: DecodedFlightData) -> Result<Option<Part>, Failure> {
        let DecodedPayload::RecordBatch(batch) = message.payload else {
            return Ok(None);
        };
        let bytes = message.inner.data_body.len() + message.inner.data_header.len();
        // Names of columns and what else stands beside their types is this node's to say.
        let batch = batch.with_schema(Arc::clone(&self.schema));
        let batch = batch.map_err(|error| self.wrong(&error))?;
        Ok(Some(Part::Rows(batch, bytes as u64)))
    }
}
