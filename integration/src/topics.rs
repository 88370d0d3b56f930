//! The topics behind the shards of a cluster, as Kafka's own administrators see and change them.
//!
//! Never here: a record of ours that is read or written.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rdkafka::ClientConfig;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigEntry, ConfigSource, NewTopic, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::wait;

/// Begins the names of the topics of a cluster that is called as by default.
const PREFIX: &str = "auxo.auxo.";

/// Name of the topic on which nodes check the service.
pub const CHECK: &str = "auxo.auxo.check";

/// How long a broker may take to answer.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// The topic of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Brokers that have it.
    pub copies: usize,
    /// First offset that is there.
    pub first: u64,
    /// Offset behind the last one.
    pub end: u64,
}

/// The topic of each shard.
///
/// * errors: a second topic of a shard, more partitions than one, no answer.
pub async fn of_shards(bootstrap: &str) -> Result<BTreeMap<u64, Topic>> {
    let bootstrap = bootstrap.to_owned();
    tokio::task::spawn_blocking(move || topics(&bootstrap)).await?
}

fn topics(bootstrap: &str) -> Result<BTreeMap<u64, Topic>> {
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .create()?;
    let metadata = client.fetch_metadata(None, ANSWER_TIME)?;
    let mut topics = BTreeMap::new();
    for topic in metadata.topics() {
        let name = topic.name();
        let Some((shard, _)) = name.strip_prefix(PREFIX).and_then(|of| of.split_once('.')) else {
            continue;
        };
        let [partition] = topic.partitions() else {
            bail!("{name} has {} partitions", topic.partitions().len());
        };
        let (first, end) = client.fetch_watermarks(name, 0, ANSWER_TIME)?;
        let topic = Topic {
            name: name.to_owned(),
            copies: partition.replicas().len(),
            first: first.try_into()?,
            end: end.try_into()?,
        };
        let shard = shard.parse().with_context(|| name.to_owned())?;
        let other = topics.insert(shard, topic);
        ensure!(other.is_none(), "shard {shard} has two topics");
    }
    Ok(topics)
}

/// Changes topics.
pub struct Administrator(AdminClient<DefaultClientContext>);

impl Administrator {
    /// One that comes straight to the brokers.
    pub fn new(bootstrap: &str) -> Result<Self> {
        let mut config = ClientConfig::new();
        Ok(Self(config.set("bootstrap.servers", bootstrap).create()?))
    }

    /// What was set for a topic, without what follows from defaults.
    pub async fn settings(&self, topic: &str) -> Result<BTreeMap<String, String>> {
        let asked = [ResourceSpecifier::Topic(topic)];
        let mut answers = self.0.describe_configs(&asked, &options()).await?;
        let resource = answers.pop().context("an answer")?;
        let resource = resource.map_err(|code| anyhow!("{topic}: {code}"))?;
        let set = resource.entries.into_iter().filter(is_set);
        Ok(set
            .filter_map(|entry| Some((entry.name, entry.value?)))
            .collect())
    }

    /// Gives a topic these settings in place of those that were set.
    pub async fn set(&self, topic: &str, settings: &BTreeMap<String, String>) -> Result<()> {
        let mut change = AlterConfig::new(ResourceSpecifier::Topic(topic));
        for (name, value) in settings {
            change = change.set(name, value);
        }
        let mut answers = self.0.alter_configs([&change], &options()).await?;
        let changed = answers.pop().context("an answer")?;
        changed.map_err(|(_, code)| anyhow!("{topic}: {code}"))?;
        Ok(())
    }

    /// Makes a topic of one partition.
    pub async fn make(
        &self,
        topic: &str,
        copies: usize,
        settings: &BTreeMap<String, String>,
    ) -> Result<()> {
        let mut new = NewTopic::new(topic, 1, TopicReplication::Fixed(copies.try_into()?));
        for (name, value) in settings {
            new = new.set(name, value);
        }
        let mut answers = self.0.create_topics([&new], &options()).await?;
        let made = answers.pop().context("an answer")?;
        made.map_err(|(_, code)| anyhow!("{topic}: {code}"))?;
        Ok(())
    }

    /// Deletes a topic and makes it again at once, with the same settings.
    pub async fn remake(&self, topic: &Topic) -> Result<()> {
        let settings = self.settings(&topic.name).await?;
        let mut answers = self.0.delete_topics(&[&topic.name], &options()).await?;
        let deleted = answers.pop().context("an answer")?;
        deleted.map_err(|(_, code)| anyhow!("{}: {code}", topic.name))?;
        // Until every broker has let it go the name is taken.
        wait::until("the topic is made again", ANSWER_TIME, || {
            self.make(&topic.name, topic.copies, &settings)
        })
        .await
    }
}

fn is_set(entry: &ConfigEntry) -> bool {
    entry.source == ConfigSource::DynamicTopic
}

fn options() -> AdminOptions {
    let options = AdminOptions::new().request_timeout(Some(ANSWER_TIME));
    options.operation_timeout(Some(ANSWER_TIME))
}
