//! The clients of one service: what every region of it shares, and what is asked of Kafka by them.
//!
//! Ways a service is lost and found again: a client that has lost every broker says so; the keeper
//! then asks for metadata, and if there is no answer the service is *away*. While it is, everything
//! is answered `Unavailable` at once, and what was on its way is of unknown outcome. A broker that
//! hangs, or one of several that is gone, does not make the service away.
//!
//! Never here: a blocking call on a thread of the runtime.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak, mpsc};
use std::time::Duration;

use auxo_proto::random::Random;
use parking_lot::{Mutex, RwLock};
use rdkafka::ClientContext;
use rdkafka::TopicPartitionList;
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::FromClientConfig;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use super::lease::{Reader, Released, Shelf};
use super::produce::Slot;
use super::settings::KafkaSettings;
use super::topic;
use crate::load::Load;
use crate::{Offset, WalError};

/// How long Kafka may take to answer a question.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_millis(1500);

/// How long it may take to change something on all brokers.
const CHANGE_WITHIN: Duration = Duration::from_secs(5);

/// Questions that wait for an answer at once, each on a thread of the runtime's pool.
const QUESTIONS: usize = 64;
/// How long a new topic may be unknown to a broker, and the pause between two looks.
const SHOWN_WITHIN: Duration = Duration::from_secs(5);
const SHOWN_PAUSE: Duration = Duration::from_millis(100);

/// Whether the service can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    Here,
    Away,
    /// By us, for good.
    Closed,
}

/// Where a topic lies.
pub(super) struct Placement {
    pub(super) partitions: usize,
    /// Copies of partition 0.
    pub(super) copies: usize,
    /// Broker that leads partition 0.
    pub(super) leader: i32,
}

/// Something for the keeper to do.
pub(super) enum Errand {
    /// A client has lost every broker.
    Suspect,
    /// That producer will never send again.
    Replace { slot: usize, generation: u64 },
    /// A consumer need not fetch that any more.
    Release(Released),
    /// The service is not used any more.
    Close,
}

/// What callbacks of the clients have to say, to the keeper.
pub(super) struct Signals {
    errands: mpsc::Sender<Errand>,
    suspected: AtomicBool,
    /// Rung when a consumer has room for another reader of a region.
    pub(super) freed: Notify,
}

impl Signals {
    pub(super) fn new(errands: mpsc::Sender<Errand>) -> Self {
        Self {
            errands,
            suspected: AtomicBool::new(false),
            freed: Notify::new(),
        }
    }

    /// Queues an errand; gives it back if the keeper is gone.
    pub(super) fn send(&self, errand: Errand) -> Result<(), Errand> {
        self.errands.send(errand).map_err(|unsent| unsent.0)
    }

    /// One suspicion waits at most, however many clients have it.
    fn suspect(&self) {
        if !self.suspected.swap(true, Ordering::SeqCst) {
            // Without a keeper there is nobody left who would be told.
            let _ = self.send(Errand::Suspect);
        }
    }

    pub(super) fn suspicion_taken(&self) {
        self.suspected.store(false, Ordering::SeqCst);
    }
}

/// What the library calls on a client's own threads.
pub(super) struct Callbacks {
    pub(super) signals: Arc<Signals>,
    /// Which producer this is, if it is one.
    pub(super) producer: Option<(usize, u64)>,
}

impl ClientContext for Callbacks {
    fn error(&self, error: KafkaError, reason: &str) {
        match (error.rdkafka_error_code(), self.producer) {
            (Some(RDKafkaErrorCode::AllBrokersDown), _) => self.signals.suspect(),
            (Some(RDKafkaErrorCode::Fatal), Some((slot, generation))) => {
                tracing::error!(slot, reason, "a Kafka producer is replaced");
                let _ = self.signals.send(Errand::Replace { slot, generation });
            }
            _ => tracing::debug!(%error, reason, "Kafka client"),
        }
    }
}

impl ConsumerContext for Callbacks {}

type Admin = AdminClient<DefaultClientContext>;

/// The clients and what they share.
pub(super) struct Clients {
    pub(super) settings: KafkaSettings,
    pub(super) random: Random,
    pub(super) producers: Vec<Slot>,
    pub(super) readers: Vec<Arc<Reader>>,
    /// `None` once closed.
    admin: RwLock<Option<Arc<Admin>>>,
    pub(super) load: Arc<Load>,
    pub(super) reach: watch::Sender<Reach>,
    pub(super) signals: Arc<Signals>,
    /// Where idle readers may hold what they do not need.
    pub(super) shelves: Mutex<Vec<Weak<Shelf>>>,
    questions: Semaphore,
}

impl Clients {
    pub(super) fn new(
        settings: KafkaSettings,
        random: Random,
        signals: Arc<Signals>,
    ) -> Result<Self, WalError> {
        let refused = |error: KafkaError| WalError::Misconfigured(error.to_string());
        let admin = Admin::from_config(&settings.admin()).map_err(refused)?;
        let mut producers = Vec::new();
        for index in 0..settings.producers {
            let slot = Slot::new(index, &settings, &signals).map_err(refused)?;
            producers.push(slot);
        }
        let mut readers = Vec::new();
        for index in 0..settings.readers {
            let reader = Reader::new(index, &settings, &signals)?;
            readers.push(Arc::new(reader));
        }
        Ok(Self {
            load: Arc::new(Load::new(usize::MAX, settings.queue_bytes)),
            settings,
            random,
            producers,
            readers,
            admin: RwLock::new(Some(Arc::new(admin))),
            reach: watch::Sender::new(Reach::Here),
            signals,
            shelves: Mutex::default(),
            questions: Semaphore::new(QUESTIONS),
        })
    }

    /// * errors: `Unavailable` while away, and for good once closed.
    pub(super) fn reachable(&self) -> Result<(), WalError> {
        match *self.reach.borrow() {
            Reach::Here => Ok(()),
            Reach::Away | Reach::Closed => Err(WalError::Unavailable),
        }
    }

    /// Answers `Unavailable` as soon as the service is away.
    pub(super) async fn while_reachable<T>(
        &self,
        work: impl Future<Output = Result<T, WalError>>,
    ) -> Result<T, WalError> {
        let mut reach = self.reach.subscribe();
        tokio::select! {
            biased;
            done = work => done,
            _lost = reach.wait_for(|reach| *reach != Reach::Here) => Err(WalError::Unavailable),
        }
    }

    /// First offset and end of a topic's partition, as its leader says; and when that was asked.
    ///
    /// * errors: `Missing` as far as the broker that was asked knows, `Unavailable`.
    pub(super) async fn marks(&self, topic: &str) -> Result<(Offset, Offset, Instant), WalError> {
        self.while_reachable(async {
            let _one = self.questions.acquire().await;
            let (admin, topic) = (self.admin()?, topic.to_owned());
            let asked = Instant::now();
            let answer = blocking(move || {
                let answer = admin.inner().fetch_watermarks(&topic, 0, ANSWER_WITHIN);
                answer.map_err(|error| unanswered(&error))
            });
            let (low, high) = answer.await?;
            match (Offset::try_from(low), Offset::try_from(high)) {
                (Ok(start), Ok(end)) => Ok((start, end, asked)),
                _ => Err(WalError::Unavailable),
            }
        })
        .await
    }

    /// Where a topic lies; also refreshes what the asking client knows.
    ///
    /// * errors: as for `marks`; `Unavailable` while nobody leads it.
    pub(super) async fn placement(&self, topic: &str) -> Result<Placement, WalError> {
        self.while_reachable(async {
            let _one = self.questions.acquire().await;
            let (admin, topic) = (self.admin()?, topic.to_owned());
            blocking(move || placement(&admin, &topic, ANSWER_WITHIN)).await
        })
        .await
    }

    /// Brokers of the cluster that answer to it.
    pub(super) async fn brokers(&self) -> Result<usize, WalError> {
        let check = topic::check_name(&self.settings.cluster);
        self.while_reachable(async {
            let admin = self.admin()?;
            blocking(move || {
                let metadata = admin.inner().fetch_metadata(Some(&check), ANSWER_WITHIN);
                let metadata = metadata.map_err(|error| unanswered(&error))?;
                Ok(metadata.brokers().len())
            })
            .await
        })
        .await
    }

    /// Whether any broker answers, asked on the keeper's thread.
    pub(super) fn probe(&self, within: Duration) -> bool {
        let check = topic::check_name(&self.settings.cluster);
        match self.admin() {
            Ok(admin) => admin.inner().fetch_metadata(Some(&check), within).is_ok(),
            Err(_) => false,
        }
    }

    /// Effective settings of a topic.
    ///
    /// * errors: as for `marks`; `Misconfigured` if we have no right to see them.
    pub(super) async fn described(&self, topic: &str) -> Result<ConfigResource, WalError> {
        let deadline = Instant::now() + SHOWN_WITHIN;
        loop {
            let resource = self.resource(topic).await?;
            if !resource.entries.is_empty() {
                return Ok(resource);
            }
            // The library shows a refusal as a topic without settings, and so it does with a broker that
            // has not heard of a new topic yet.
            self.placement(topic).await?;
            if Instant::now() >= deadline {
                let hidden = format!("the settings of topic {topic} are not shown to us");
                return Err(WalError::Misconfigured(hidden));
            }
            tokio::time::sleep(SHOWN_PAUSE).await;
        }
    }

    async fn resource(&self, topic: &str) -> Result<ConfigResource, WalError> {
        let resource = self.while_reachable(async {
            let admin = self.admin()?;
            let what = [ResourceSpecifier::Topic(topic)];
            let answers = admin.describe_configs(&what, &options(ANSWER_WITHIN)).await;
            match answers.map_err(|error| unanswered(&error))?.pop() {
                Some(Ok(resource)) => Ok(resource),
                Some(Err(code)) => Err(refusal(code)),
                None => Err(WalError::Unavailable),
            }
        });
        resource.await
    }

    /// Makes a topic; `Ok` if it is there already, as it is.
    pub(super) async fn make_topic(&self, name: &str, copies: usize) -> Result<(), WalError> {
        let settings = topic::settings(copies, topic::mark(self.random.next_u64()));
        let mut topic = NewTopic::new(name, 1, TopicReplication::Fixed(copies as i32));
        for (name, value) in &settings {
            topic = topic.set(name, value);
        }
        self.while_reachable(async {
            let admin = self.admin()?;
            let answers = admin.create_topics([&topic], &options(CHANGE_WITHIN)).await;
            settled(answers, RDKafkaErrorCode::TopicAlreadyExists)
        })
        .await
    }

    /// Deletes a topic; `Ok` if there is none.
    pub(super) async fn delete_topic(&self, name: &str) -> Result<(), WalError> {
        self.while_reachable(async {
            let admin = self.admin()?;
            let answers = admin.delete_topics(&[name], &options(CHANGE_WITHIN)).await;
            settled(answers, RDKafkaErrorCode::UnknownTopicOrPartition)
        })
        .await
    }

    /// Deletes what lies below the bound; the new first offset.
    ///
    /// * errors: `Regressed` for a bound above the end, with an end of 0 that the caller corrects.
    pub(super) async fn delete_records(
        &self,
        topic: &str,
        below: Offset,
    ) -> Result<Offset, WalError> {
        let bound = i64::try_from(below).unwrap_or(i64::MAX);
        let mut list = TopicPartitionList::new();
        let listed = list.add_partition_offset(topic, 0, rdkafka::Offset::Offset(bound));
        listed.map_err(|error| unanswered(&error))?;
        self.while_reachable(async {
            let admin = self.admin()?;
            let answer = admin.delete_records(&list, &options(CHANGE_WITHIN)).await;
            let answer = answer.map_err(|error| unanswered(&error))?;
            // The call succeeds also when the partition's own answer is an error.
            let elements = answer.elements();
            let Some(partition) = elements.first() else {
                return Err(WalError::Unavailable);
            };
            match partition
                .error()
                .map_err(|error| error.rdkafka_error_code())
            {
                Err(Some(RDKafkaErrorCode::OffsetOutOfRange)) => {
                    let (had, now) = (below, 0);
                    Err(WalError::Regressed { had, now })
                }
                Err(Some(code)) => Err(refusal(code)),
                Err(None) => Err(WalError::Unavailable),
                Ok(()) => match partition.offset() {
                    rdkafka::Offset::Offset(start) => Ok(Offset::try_from(start).unwrap_or(0)),
                    _ => Err(WalError::Unavailable),
                },
            }
        })
        .await
    }

    /// Takes the client that asks away; the keeper drops it.
    pub(super) fn take_admin(&self) -> Option<Arc<Admin>> {
        self.admin.write().take()
    }

    fn admin(&self) -> Result<Arc<Admin>, WalError> {
        self.admin.read().clone().ok_or(WalError::Unavailable)
    }
}

fn placement(admin: &Admin, topic: &str, within: Duration) -> Result<Placement, WalError> {
    let metadata = admin.inner().fetch_metadata(Some(topic), within);
    let metadata = metadata.map_err(|error| unanswered(&error))?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let found = found.ok_or(WalError::Missing)?;
    match found.error() {
        None => {}
        Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) => {
            return Err(WalError::Missing);
        }
        Some(code) => return Err(refusal(code.into())),
    }
    match found.partitions() {
        [first, ..] if first.leader() >= 0 => Ok(Placement {
            partitions: found.partitions().len(),
            copies: first.replicas().len(),
            leader: first.leader(),
        }),
        _ => Err(WalError::Unavailable),
    }
}

fn options(within: Duration) -> AdminOptions {
    let options = AdminOptions::new().request_timeout(Some(within));
    options.operation_timeout(Some(within))
}

/// The outcome of a change to one topic, where one refusal means that it was done before.
fn settled(
    answers: KafkaResult<Vec<Result<String, (String, RDKafkaErrorCode)>>>,
    done_before: RDKafkaErrorCode,
) -> Result<(), WalError> {
    match answers.map_err(|error| unanswered(&error))?.pop() {
        Some(Ok(_name)) => Ok(()),
        Some(Err((_, code))) if code == done_before => Ok(()),
        Some(Err((_, code))) => Err(refusal(code)),
        None => Err(WalError::Unavailable),
    }
}

/// A failure of asking.
pub(super) fn unanswered(error: &KafkaError) -> WalError {
    match error.rdkafka_error_code() {
        Some(code) => refusal(code),
        None => {
            tracing::debug!(%error, "Kafka did not answer");
            WalError::Unavailable
        }
    }
}

/// What a broker's refusal, or the library's own, means for the caller.
pub(super) fn refusal(code: RDKafkaErrorCode) -> WalError {
    use RDKafkaErrorCode as Code;
    match code {
        Code::UnknownTopic
        | Code::UnknownPartition
        | Code::UnknownTopicOrPartition
        | Code::UnknownTopicId => WalError::Missing,
        Code::InvalidReplicationFactor => {
            WalError::Misconfigured(format!("replication.factor: {code}"))
        }
        Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::SaslAuthenticationFailed
        | Code::Authentication
        | Code::PolicyViolation
        | Code::InvalidConfig
        | Code::InvalidTopic
        | Code::InvalidRecord
        | Code::UnsupportedVersion
        | Code::UnsupportedForMessageFormat
        | Code::TopicDeletionDisabled => WalError::Misconfigured(code.to_string()),
        Code::MessageSizeTooLarge | Code::InvalidMessageSize | Code::MessageBatchTooLarge => {
            WalError::Misconfigured(format!("max.message.bytes: {code}"))
        }
        _ => {
            tracing::debug!(%code, "Kafka is not ready");
            WalError::Unavailable
        }
    }
}

/// Runs a call that blocks where it may; it ends even when the caller is dropped.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WalError> + Send + 'static,
) -> Result<T, WalError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(died) => Err(std::io::Error::other(died).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_done_before_missing_misconfigured_or_to_be_tried_again() {
        use RDKafkaErrorCode as Code;
        let told = |code| {
            settled(
                Ok(vec![Err(("t".to_owned(), code))]),
                Code::TopicAlreadyExists,
            )
        };
        assert!(told(Code::TopicAlreadyExists).is_ok());
        assert!(matches!(
            told(Code::UnknownTopicOrPartition),
            Err(WalError::Missing)
        ));
        let copies = told(Code::InvalidReplicationFactor)
            .unwrap_err()
            .to_string();
        assert!(copies.contains("replication.factor"), "{copies}");
        assert!(matches!(
            told(Code::TopicAuthorizationFailed),
            Err(WalError::Misconfigured(_))
        ));
        assert!(matches!(
            told(Code::NotController),
            Err(WalError::Unavailable)
        ));
        assert!(matches!(
            settled(Ok(Vec::new()), Code::NoError),
            Err(WalError::Unavailable)
        ));
    }
}
