//! A real Kafka as a subject of the suite: one cluster for all cases, reached through proxies.
//!
//! Every user that joins is a client of its own, as another process would be, up to eight of them.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use auxo_proto::random::Random;
use auxo_wal_adapters::conformance::{Adapter, Stop, Subject, Trouble, child};
use auxo_wal_adapters::kafka::{KafkaSettings, KafkaWal};
use auxo_wal_adapters::{Durability, RegionId, Wal, WalError};
use futures::future::join_all;
use integration::proxy::appends::Appends;
use integration::proxy::{Order, Proxy, Speech};
use integration::servers::kafka::{Kafka, Setup};
use integration::wait;
use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

use super::segment;

/// Users with clients of their own; those who join later share theirs.
const USERS: usize = 8;

/// How long users may take to find a broker that was restarted.
const FOUND_WITHIN: Duration = Duration::from_secs(20);

/// A cluster, its proxies, and the name it goes by in reports.
pub(super) struct KafkaAdapter {
    name: &'static str,
    ground: Arc<Ground>,
    /// The program and its first arguments that run the writer that is killed.
    child: Vec<String>,
}

struct Ground {
    kafka: tokio::sync::Mutex<Kafka>,
    proxies: Vec<Proxy>,
    nodes: usize,
    bootstrap: String,
}

impl KafkaAdapter {
    pub(super) async fn start(nodes: u16, child: Vec<String>) -> Result<Self> {
        let mut proxies = Vec::new();
        for _ in 0..nodes {
            proxies.push(Proxy::bind(Speech::Kafka).await?);
        }
        let mut setup = Setup::new(nodes);
        setup.doors = vec![proxies.iter().map(Proxy::port).collect()];
        let kafka = setup.start().await?;
        for (proxy, address) in proxies.iter().zip(kafka.behind(0)) {
            proxy.target(&address);
        }
        let bootstrap: Vec<String> = proxies.iter().map(Proxy::address).collect();
        Ok(Self {
            name: if nodes == 1 { "kafka" } else { "kafka-3" },
            ground: Arc::new(Ground {
                bootstrap: bootstrap.join(","),
                nodes: proxies.len(),
                kafka: tokio::sync::Mutex::new(kafka),
                proxies,
            }),
            child,
        })
    }

    /// Keeps the brokers' files and says where.
    pub(super) async fn keep_files(&self) -> String {
        self.ground.kafka.lock().await.keep_files()
    }

    pub(super) fn bootstrap(&self) -> &str {
        &self.ground.bootstrap
    }

    /// Kills the broker that leads the topic; which one it was.
    pub(super) async fn kill_leader(&self, topic: &str) -> Result<usize> {
        let mut kafka = self.ground.kafka.lock().await;
        let leader = kafka.leader(topic).await?;
        kafka.kill(leader)?;
        Ok(leader)
    }

    /// Stops the processor time of the broker that leads the topic; which one it was.
    pub(super) async fn pause_leader(&self, topic: &str) -> Result<usize> {
        let kafka = self.ground.kafka.lock().await;
        let leader = kafka.leader(topic).await?;
        kafka.pause(leader)?;
        Ok(leader)
    }

    /// Lets a broker that was paused go on.
    pub(super) async fn resume(&self, node: usize) -> Result<()> {
        let mut kafka = self.ground.kafka.lock().await;
        kafka.resume(node)?;
        kafka.ready().await
    }

    /// Starts a broker that was killed and waits until all are there.
    pub(super) async fn restart(&self, node: usize) -> Result<()> {
        let mut kafka = self.ground.kafka.lock().await;
        kafka.restart(node)?;
        kafka.ready().await
    }
}

#[async_trait]
impl Adapter for KafkaAdapter {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn subject(&self, case: u8) -> Result<Arc<dyn Subject>, Stop> {
        Ok(Arc::new(KafkaSubject {
            ground: self.ground.clone(),
            cluster: format!("case-{case}"),
            child: self.child.clone(),
            users: Mutex::default(),
            joined: AtomicUsize::new(0),
        }))
    }
}

struct KafkaSubject {
    ground: Arc<Ground>,
    cluster: String,
    child: Vec<String>,
    users: Mutex<Vec<Arc<KafkaWal>>>,
    joined: AtomicUsize,
}

fn failed(error: anyhow::Error) -> Stop {
    Stop::Failed(format!("{error:#}"))
}

fn not_applicable(why: &str) -> Stop {
    Stop::NotApplicable(why.to_owned())
}

impl KafkaSubject {
    fn settings(&self) -> KafkaSettings {
        KafkaSettings {
            bootstrap: self.ground.bootstrap.clone(),
            cluster: self.cluster.clone(),
            allow_weak: self.ground.nodes == 1,
            ..KafkaSettings::default()
        }
    }

    fn topic(&self, region: RegionId) -> String {
        let RegionId { shard, incarnation } = region;
        format!("auxo.{}.{shard}.{incarnation:x}", self.cluster)
    }

    fn order(&self, order: &Order) {
        for proxy in &self.ground.proxies {
            proxy.order(order.clone());
        }
    }

    /// Kills every broker, has the files changed, and starts them again.
    async fn behind_its_back(
        &self,
        region: RegionId,
        change: impl Fn(&std::path::Path) -> Result<()>,
    ) -> Result<()> {
        let mut kafka = self.ground.kafka.lock().await;
        for node in 0..self.ground.nodes {
            kafka.kill(node)?;
        }
        for node in 0..self.ground.nodes {
            let partition = format!("{}-0", self.topic(region));
            change(&kafka.data(node).join(partition))?;
        }
        self.start_again(&mut kafka).await?;
        drop(kafka);
        let users = self.users.lock().clone();
        for user in users {
            wait::until("a user finds Kafka again", FOUND_WITHIN, || {
                let user = user.clone();
                async move { Ok(user.check().await?) }
            })
            .await?;
        }
        Ok(())
    }

    async fn start_again(&self, kafka: &mut Kafka) -> Result<()> {
        for node in 0..self.ground.nodes {
            kafka.restart(node)?;
        }
        kafka.ready().await
    }

    async fn make_trouble(&self, region: RegionId, trouble: Trouble) -> Result<(), Stop> {
        let topic = self.topic(region);
        let delayed =
            |proxy: &Proxy| matches!(proxy.ordered(), Order::Appends(Appends::HoldSender(_)));
        let appends = |appends| self.order(&Order::Appends(appends));
        match trouble {
            Trouble::Stall => appends(Appends::Hold),
            Trouble::Slow => appends(Appends::HoldTopic(topic)),
            Trouble::Resume | Trouble::LandLate => self.order(&Order::Pass),
            // What follows a delayed frame waits behind it.
            Trouble::Delay | Trouble::LoseReply { .. }
                if self.ground.proxies.iter().any(delayed) => {}
            Trouble::Delay => appends(Appends::HoldSender(topic)),
            Trouble::LoseReply { landed: true } => appends(Appends::LoseAnswers(topic)),
            Trouble::LoseReply { landed: false } => appends(Appends::LoseRequests(topic)),
            Trouble::Refuse => {
                return Err(not_applicable(
                    "what is refused never left this process (cases 4, 6, 21, 27); what a broker refuses is Unknown",
                ));
            }
            Trouble::FullDisk | Trouble::RoomAgain => {
                return Err(not_applicable(
                    "the disk is the broker's, which stops when it is full",
                ));
            }
            Trouble::Tear => {
                return Err(not_applicable(
                    "a torn tail is cut, and a rotten one lost, by the broker's own recovery",
                ));
            }
            Trouble::Rot { at } => {
                let kafka = self.ground.kafka.lock().await;
                for node in 0..self.ground.nodes {
                    let partition = kafka.data(node).join(format!("{topic}-0"));
                    segment::rot(&partition, at).map_err(failed)?;
                }
            }
            Trouble::Cut { to } => {
                let cut = self.behind_its_back(region, |partition| segment::cut(partition, to));
                cut.await.map_err(failed)?;
            }
            Trouble::Hole { width } => {
                let left_out = |partition: &std::path::Path| segment::leave_out(partition, width);
                let hole = self.behind_its_back(region, left_out);
                hole.await.map_err(failed)?;
            }
            Trouble::Away => {
                let mut kafka = self.ground.kafka.lock().await;
                for node in 0..self.ground.nodes {
                    kafka.kill(node).map_err(failed)?;
                }
            }
            Trouble::Back => {
                let mut kafka = self.ground.kafka.lock().await;
                self.start_again(&mut kafka).await.map_err(failed)?;
            }
        }
        Ok(())
    }

    /// A service whose topic for checks is right but for one setting.
    async fn with_wrong(
        &self,
        name: &str,
        value: &str,
        copies: i32,
    ) -> Result<Result<Durability, WalError>> {
        let cluster = format!("wrong-{}", name.replace('.', "-"));
        let topic = format!("auxo.{cluster}.check");
        let mut right = vec![
            ("min.insync.replicas", "2"),
            ("unclean.leader.election.enable", "false"),
            ("cleanup.policy", "delete"),
            ("retention.ms", "-1"),
            ("retention.bytes", "-1"),
            ("max.message.bytes", "9437184"),
            ("message.timestamp.type", "LogAppendTime"),
        ];
        right.retain(|(right, _)| *right != name);
        if name != "replication.factor" {
            right.push((name, value));
        }
        let mut new = NewTopic::new(&topic, 1, TopicReplication::Fixed(copies));
        for (name, value) in right {
            new = new.set(name, value);
        }
        let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
            .set("bootstrap.servers", &self.ground.bootstrap)
            .create()?;
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(10)));
        let made = admin.create_topics([&new], &options).await?.pop();
        let made = made.context("an answer")?;
        made.map_err(|(topic, code)| anyhow::anyhow!("{topic}: {code}"))?;
        let settings = KafkaSettings {
            cluster,
            ..self.settings()
        };
        let wal = KafkaWal::open(settings, Random::seeded(1)).await?;
        let told = wait::until("the topic is shown", FOUND_WITHIN, || async {
            match wal.check().await {
                Err(WalError::Unavailable) => anyhow::bail!("not yet"),
                told => Ok(told),
            }
        });
        let told = told.await?;
        wal.close().await?;
        Ok(told)
    }
}

#[async_trait]
impl Subject for KafkaSubject {
    async fn join(&self) -> Result<Arc<dyn Wal>, Stop> {
        let number = self.joined.fetch_add(1, Ordering::SeqCst);
        if let Some(user) = self.users.lock().get(number % USERS)
            && number >= USERS
        {
            return Ok(user.clone());
        }
        let mut settings = self.settings();
        let name = format!("{}-user-{number}", self.cluster);
        settings.properties.insert("client.id".to_owned(), name);
        let user = Arc::new(KafkaWal::open(settings, Random::from_system()).await?);
        self.users.lock().push(user.clone());
        Ok(user)
    }

    async fn leave(&self) -> Result<(), Stop> {
        self.order(&Order::Pass);
        self.joined.store(0, Ordering::SeqCst);
        let users = std::mem::take(&mut *self.users.lock());
        for ended in join_all(users.iter().map(|user| user.close())).await {
            ended?;
        }
        Ok(())
    }

    async fn trouble(&self, region: RegionId, trouble: Trouble) -> Result<(), Stop> {
        self.make_trouble(region, trouble).await
    }

    async fn misconfigured(&self) -> Result<Vec<(String, Result<Durability, WalError>)>, Stop> {
        let mut told = Vec::new();
        let copies = self.ground.nodes as i32;
        for (name, value) in [
            ("unclean.leader.election.enable", "true"),
            ("cleanup.policy", "compact"),
            ("retention.ms", "604800000"),
            ("retention.bytes", "1000000"),
            ("max.message.bytes", "1048588"),
            ("message.timestamp.type", "CreateTime"),
        ] {
            let answer = self.with_wrong(name, value, copies).await;
            told.push((name.to_owned(), answer.map_err(failed)?));
        }
        let strict = KafkaSettings {
            cluster: "strict".to_owned(),
            allow_weak: false,
            ..self.settings()
        };
        match self.ground.nodes {
            // One broker cannot hold three copies.
            1 => {
                let wal = KafkaWal::open(strict, Random::seeded(1)).await?;
                told.push(("replication.factor".to_owned(), wal.check().await));
                wal.close().await?;
            }
            _ => {
                for (name, value, copies) in [
                    ("replication.factor", "", 2),
                    ("min.insync.replicas", "1", 3),
                ] {
                    let answer = self.with_wrong(name, value, copies).await;
                    told.push((name.to_owned(), answer.map_err(failed)?));
                }
            }
        }
        for property in [
            "acks",
            "enable.idempotence",
            "auto.offset.reset",
            "check.crcs",
        ] {
            let mut settings = self.settings();
            let value = (property.to_owned(), "0".to_owned());
            settings.properties.extend([value]);
            let answer = KafkaWal::open(settings, Random::seeded(1)).await;
            told.push((property.to_owned(), answer.map(|_| Durability::Volatile)));
        }
        Ok(told)
    }

    fn child(&self, region: RegionId) -> Result<Command, Stop> {
        let Some((program, arguments)) = self.child.split_first() else {
            return Err(not_applicable("no program to run the child was given"));
        };
        let place = format!("{}@{}", self.cluster, self.ground.bootstrap);
        let mut command = Command::new(program);
        command.args(arguments);
        command.args(child::arguments("kafka", &place, region));
        Ok(command)
    }

    fn steps(&self) -> Result<usize, Stop> {
        Err(not_applicable(
            "a broker's disk is not ours to record; it does not sync each frame, its copies keep it",
        ))
    }

    async fn after_power_loss(
        &self,
        _steps: usize,
        _torn: Option<&Random>,
    ) -> Result<Arc<dyn Wal>, Stop> {
        Err(not_applicable("a broker's disk is not ours to record"))
    }
}
