//! What a user says about Kafka, and the configurations of the clients that follow from it.
//!
//! A property that decides whether an acknowledged frame is kept, found or bounded is ours: a user who
//! sets it is refused by name. Everything else, above all security, is passed through.

use std::collections::BTreeMap;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use serde::{Deserialize, Serialize};

use crate::WalError;
use crate::frame::{HEADER_BYTES, PAYLOAD_BYTES_MAX};

/// Largest record batch, in bytes: room for the longest frame and for what Kafka writes around it.
pub(super) const BATCH_BYTES_MAX: usize = 9 << 20;

/// How to reach Kafka, and the bounds of what waits here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaSettings {
    /// Brokers to begin with, `host:port` separated by commas.
    pub bootstrap: String,
    /// Begins the names of all topics, `auxo.<cluster>.…`; letters, digits, `-` and `_`, at most 64.
    pub cluster: String,
    /// Properties of librdkafka for all clients, such as `security.protocol`.
    pub properties: BTreeMap<String, String>,
    /// Accept fewer than three copies and fewer than two in sync; for tests, nothing survives then.
    pub allow_weak: bool,
    /// Producers; regions are spread over them, and trouble of one region stalls those of its own.
    pub producers: usize,
    /// Consumers; as many reads of one region go on at once.
    pub readers: usize,
    /// Most frames of one region that wait for an acknowledgement.
    pub region_queue_frames: usize,
    /// Most bytes of encoded frames of one region that wait for an acknowledgement.
    pub region_queue_bytes: usize,
    /// Most bytes of encoded frames of all regions together that wait for an acknowledgement.
    pub queue_bytes: usize,
    /// Bytes of one region that are fetched ahead of its reader.
    pub read_ahead_bytes: usize,
}

impl Default for KafkaSettings {
    fn default() -> Self {
        Self {
            bootstrap: "127.0.0.1:9092".to_owned(),
            cluster: "auxo".to_owned(),
            properties: BTreeMap::new(),
            allow_weak: false,
            producers: 4,
            readers: 3,
            region_queue_frames: 1024,
            region_queue_bytes: 32 << 20,
            queue_bytes: 256 << 20,
            read_ahead_bytes: 4 << 20,
        }
    }
}

/// Properties of every client.
const COMMON: [(&str, &str); 7] = [
    // Nobody but `create` makes a topic; a producer's default would.
    ("allow.auto.create.topics", "false"),
    // One broker that hangs stalls a producer for about twice this.
    ("socket.timeout.ms", "5000"),
    ("socket.nagle.disable", "true"),
    // A service that comes back is noticed within a second.
    ("reconnect.backoff.ms", "50"),
    ("reconnect.backoff.max.ms", "1000"),
    ("topic.metadata.refresh.interval.ms", "10000"),
    ("topic.metadata.propagation.max.ms", "5000"),
];

/// Properties of the producers.
const PRODUCER: [(&str, &str); 6] = [
    ("acks", "all"),
    ("enable.idempotence", "true"),
    // Measured as fast as five, and without successes that name no offset.
    ("max.in.flight.requests.per.connection", "1"),
    // The group commit has waited already.
    ("linger.ms", "0"),
    // A zombie's queue is dead after this.
    ("delivery.timeout.ms", "15000"),
    ("request.timeout.ms", "4000"),
];

/// Properties of the consumers.
const CONSUMER: [(&str, &str); 11] = [
    // Nothing is assigned without a group's name; no request of the group follows.
    ("group.id", "auxo"),
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    // Any other value would move a reader in silence.
    ("auto.offset.reset", "error"),
    ("isolation.level", "read_uncommitted"),
    ("check.crcs", "true"),
    ("enable.partition.eof", "true"),
    ("fetch.wait.max.ms", "50"),
    // The default of a second stalls a tail behind a full queue.
    ("fetch.queue.backoff.ms", "20"),
    ("fetch.error.backoff.ms", "100"),
    ("queued.min.messages", "10000"),
];

/// Other names of what is set, and properties that would undo it.
const ALSO_OURS: [&str; 27] = [
    "auto.commit.enable",
    "auto.commit.interval.ms",
    "bootstrap.servers",
    "client.rack",
    "delivery.report.only.error",
    "enable.gapless.guarantee",
    "fetch.max.bytes",
    "fetch.message.max.bytes",
    "fetch.min.bytes",
    "group.instance.id",
    "group.protocol",
    "log.queue",
    "max.in.flight",
    "max.partition.fetch.bytes",
    "message.max.bytes",
    "message.send.max.retries",
    "message.timeout.ms",
    "metadata.broker.list",
    "queue.buffering.max.kbytes",
    "queue.buffering.max.messages",
    "queue.buffering.max.ms",
    "queued.max.messages.kbytes",
    "queuing.strategy",
    "receive.message.max.bytes",
    "request.required.acks",
    "retries",
    "transactional.id",
];

impl KafkaSettings {
    /// * errors: `Misconfigured` names the first setting that is out of its range or not the user's.
    pub fn check(&self) -> Result<(), WalError> {
        let frame = HEADER_BYTES + PAYLOAD_BYTES_MAX;
        let letters = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let owned = self.properties.keys().find(|name| is_ours(name));
        let wrong = if self.bootstrap.is_empty() {
            "bootstrap must name a broker".to_owned()
        } else if !(1..=64).contains(&self.cluster.len()) || !self.cluster.chars().all(letters) {
            "cluster must be 1 to 64 letters, digits, '-' or '_'".to_owned()
        } else if !(4..=64).contains(&self.producers) {
            "producers must be between 4 and 64".to_owned()
        } else if !(1..=16).contains(&self.readers) {
            "readers must be between 1 and 16".to_owned()
        } else if self.region_queue_frames == 0 {
            "region_queue_frames must be at least 1".to_owned()
        } else if self.region_queue_bytes < frame {
            format!("region_queue_bytes must hold the longest frame, {frame} bytes")
        } else if self.queue_bytes < self.region_queue_bytes || self.queue_bytes > 1 << 30 {
            "queue_bytes must be between region_queue_bytes and 1073741824".to_owned()
        } else if !(64 << 10..=64 << 20).contains(&self.read_ahead_bytes) {
            "read_ahead_bytes must be between 65536 and 67108864".to_owned()
        } else if let Some(name) = owned {
            format!("properties: {name} decides whether a frame is kept and cannot be set")
        } else {
            return Ok(());
        };
        Err(WalError::Misconfigured(wrong))
    }

    /// Asks for metadata, offsets and settings, and makes, cuts and deletes topics.
    pub(super) fn admin(&self) -> ClientConfig {
        let mut config = self.client(&[]);
        // Its log would pile up in a queue that nobody reads.
        config.set_log_level(RDKafkaLogLevel::Emerg);
        config
    }

    pub(super) fn producer(&self) -> ClientConfig {
        let mut config = self.client(&PRODUCER);
        // The permits bound what waits; beyond them are only the frames of a producer being replaced.
        let queue_kib = (self.queue_bytes >> 10) + (BATCH_BYTES_MAX >> 10);
        config.set("queue.buffering.max.kbytes", queue_kib.to_string());
        config.set("message.max.bytes", BATCH_BYTES_MAX.to_string());
        config
    }

    pub(super) fn consumer(&self) -> ClientConfig {
        let mut config = self.client(&CONSUMER);
        let ahead = self.read_ahead_bytes;
        config.set("queued.max.messages.kbytes", (ahead >> 10).to_string());
        config.set("max.partition.fetch.bytes", ahead.to_string());
        config
    }

    fn client(&self, own: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("client.id", "auxo");
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        for (name, value) in COMMON.iter().chain(own) {
            config.set(*name, *value);
        }
        config.set("bootstrap.servers", &self.bootstrap);
        config
    }
}

fn is_ours(name: &str) -> bool {
    let mut set = COMMON.iter().chain(&PRODUCER).chain(&CONSUMER);
    set.any(|(ours, _)| *ours == name) || ALSO_OURS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(settings: KafkaSettings) -> String {
        match settings.check() {
            Err(WalError::Misconfigured(what)) => what,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let right = KafkaSettings::default;
        right().check().unwrap();
        let wrong = |change: fn(&mut KafkaSettings)| {
            let mut settings = right();
            change(&mut settings);
            told(settings)
        };
        assert!(wrong(|s| s.bootstrap.clear()).starts_with("bootstrap"));
        assert!(wrong(|s| s.cluster = "a.b".to_owned()).starts_with("cluster"));
        assert!(wrong(|s| s.cluster = "x".repeat(65)).starts_with("cluster"));
        assert!(wrong(|s| s.producers = 3).starts_with("producers"));
        assert!(wrong(|s| s.readers = 0).starts_with("readers"));
        assert!(wrong(|s| s.region_queue_frames = 0).starts_with("region_queue_frames"));
        assert!(wrong(|s| s.region_queue_bytes = 8 << 20).starts_with("region_queue_bytes"));
        assert!(wrong(|s| s.queue_bytes = 9 << 20).starts_with("queue_bytes"));
        assert!(wrong(|s| s.read_ahead_bytes = 0).starts_with("read_ahead_bytes"));
    }

    #[test]
    fn what_decides_about_frames_cannot_be_set_and_the_rest_can() {
        for name in ["acks", "request.required.acks", "check.crcs", "client.rack"] {
            let mut settings = KafkaSettings::default();
            let property = (name.to_owned(), "x".to_owned());
            settings.properties.extend([property]);
            assert!(told(settings).contains(name));
        }
        let mut settings = KafkaSettings::default();
        let secure = ("security.protocol".to_owned(), "plaintext".to_owned());
        settings.properties.extend([secure]);
        settings.check().unwrap();
        let producer = settings.producer();
        assert_eq!(producer.get("security.protocol"), Some("plaintext"));
        assert_eq!(producer.get("acks"), Some("all"));
        assert_eq!(settings.consumer().get("auto.offset.reset"), Some("error"));
    }

    #[test]
    fn librdkafka_knows_every_property() {
        let settings = KafkaSettings::default();
        for config in [settings.admin(), settings.producer(), settings.consumer()] {
            config.create_native_config().unwrap();
        }
    }
}
