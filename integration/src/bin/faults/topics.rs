//! Somebody changes, remakes or empties the topics.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::servers::kafka;
use integration::standalone::{Role, Setup};
use integration::topics::{self, Administrator, CHECK};
use integration::{disk, wait};
use rustix::process::Signal;
use tokio::time::Instant;

use crate::Settings;
use crate::ground::Ground;
use crate::row::Row;

/// How long something that is wrong may take to be found and named.
const NAMED_WITHIN: Duration = Duration::from_secs(60);

/// How long all may take to go on once what was wrong is right again: meta asks again ever more rarely,
/// at least once a minute.
const RECOVERED: Duration = Duration::from_secs(90);

/// Settings under which rows would be lost or refused, and what a node says of each.
const WRONG: [(&str, &str, &str); 5] = [
    (
        "retention.ms",
        "604800000",
        "retention.ms must be -1, is 604800000",
    ),
    (
        "retention.bytes",
        "1000000",
        "retention.bytes must be -1, is 1000000",
    ),
    (
        "cleanup.policy",
        "compact",
        "cleanup.policy must be delete, is compact",
    ),
    (
        "unclean.leader.election.enable",
        "true",
        "unclean.leader.election.enable must be false, is true",
    ),
    (
        "message.timestamp.type",
        "CreateTime",
        "message.timestamp.type must be LogAppendTime, is CreateTime",
    ),
];

/// What a compute node says that does not start on that log.
async fn refusal(settings: &Settings, wal: &str) -> Result<String> {
    let folder = disk::folder("refused")?;
    let mut setup = Setup::new(&settings.binary, folder.path());
    setup.config = format!("{wal}[meta]\nmembers = [\"127.0.0.1:1\"]\n");
    setup.role = Role::Compute;
    let [internal] = integration::servers::ports::free()?;
    setup.internal = Some(internal);
    setup.refusal().await
}

pub(crate) async fn wrong_at_start(settings: &Settings) -> Result<Row> {
    let kafka = kafka::Setup::new(1).start().await?;
    let wal = |weak: bool| {
        let bootstrap = kafka.bootstrap();
        format!("[wal]\nurl = \"kafka://{bootstrap}\"\nallow_weak = {weak}\n")
    };
    let administrator = Administrator::new(&kafka.bootstrap())?;
    let copies = "replication.factor";
    let right = [
        ("message.timestamp.type", "LogAppendTime"),
        ("retention.ms", "-1"),
        ("max.message.bytes", "9437184"),
    ];
    let right = right.map(|(name, value)| (name.to_owned(), value.to_owned()));
    administrator.make(CHECK, 1, &right.into()).await?;
    let right = administrator.settings(CHECK).await?;
    let said = refusal(settings, &wal(false)).await?;
    let mut row = Row::default();
    row.seen
        .push(format!("one copy: {}", said.contains(copies)));
    row.promise(said.contains(copies), || {
        format!("one copy is refused by {copies:?}")
    });
    for (name, value, expected) in WRONG {
        let mut wrong = right.clone();
        wrong.insert(name.to_owned(), value.to_owned());
        administrator.set(CHECK, &wrong).await?;
        let said = refusal(settings, &wal(true)).await?;
        row.seen
            .push(format!("{name}: {}", said.contains(expected)));
        row.promise(said.contains(expected), || {
            format!("the refusal says {expected:?}")
        });
    }
    Ok(row)
}

pub(crate) async fn wrong_at_open(settings: &Settings) -> Result<Row> {
    let mut ground = Ground::start(settings, 1, &["strong"]).await?;
    let administrator = Administrator::new(&ground.cluster.kafka.bootstrap())?;
    let topics = topics::of_shards(&ground.cluster.kafka.bootstrap()).await?;
    let (shard, topic) = topics.first_key_value().context("a topic")?;
    let right = administrator.settings(&topic.name).await?;
    let mut wrong = right.clone();
    let (name, value, expected) = WRONG[4];
    wrong.insert(name.to_owned(), value.to_owned());
    let leader = ground.cluster.leader(*shard, 1).await?;
    let gone = ground.cluster.nodes[leader].http.base().to_owned();
    ground.breaks();
    administrator.set(&topic.name, &wrong).await?;
    ground.cluster.nodes[leader].kill()?;
    let named = wait::until("a node names the setting", NAMED_WITHIN, || {
        let nodes = ground.cluster.nodes.iter();
        let named = nodes.filter(|node| node.log().contains(expected)).count();
        async move {
            ensure!(named > 0, "no log says {expected:?}");
            Ok(())
        }
    });
    let named = named.await;
    administrator.set(&topic.name, &right).await?;
    ground.cluster.nodes[leader] = ground.cluster.setups[leader].start().await?;
    ground.load.moved(ground.cluster.doors());
    let mut row = ground.heals().await?;
    row.promise_done(&named, "who opens the shard names the setting");
    row.promise_clear(Some(&gone));
    row.promise_going_on(RECOVERED);
    Ok(row)
}

pub(crate) async fn remade(settings: &Settings) -> Result<Row> {
    let mut ground = Ground::start(settings, 1, &["strong"]).await?;
    let administrator = Administrator::new(&ground.cluster.kafka.bootstrap())?;
    let topics = topics::of_shards(&ground.cluster.kafka.bootstrap()).await?;
    let (shard, topic) = topics.first_key_value().context("a topic")?;
    let leader = ground.cluster.leader(*shard, 0).await?;
    ground.breaks();
    let began = Instant::now();
    administrator.remake(topic).await?;
    let parked = wait::until("the shard is parked", NAMED_WITHIN, || async {
        let shards = ground.cluster.shards(leader).await?;
        let led = shards.iter().find(|led| led.shard == *shard);
        let led = led.context("the shard")?;
        ensure!(!led.served, "it is served still");
        Ok(())
    });
    let parked = parked.await.map(|()| began.elapsed());
    let acked = ground.load.acked();
    tokio::time::sleep(settings.away).await;
    let now = ground.load.acked();
    let mut row = Row {
        broken: began.elapsed(),
        writes: ground.load.told.all(),
        ..Row::default()
    };
    for reads in &ground.reads {
        row.reads.insert(reads.mode(), reads.told());
        for wrong in reads.wrong() {
            row.unkept
                .push(format!("no answer is partial or empty: {wrong}"));
        }
    }
    let log = ground.cluster.nodes[leader].log();
    let says = log.lines().find(|line| line.contains("shard parked"));
    row.seen.push(format!(
        "its leader says: {}",
        says.unwrap_or("nothing").trim()
    ));
    row.promise(says.is_some(), || {
        "the leader says that and why it parked the shard".to_owned()
    });
    row.promise_done(&parked, "the shard is shown as not served");
    let going = acked
        .iter()
        .zip(&now)
        .filter(|(acked, now)| now > acked)
        .count();
    row.seen.push(format!(
        "{going} of {} writers go on, at other shards",
        acked.len()
    ));
    row.promise(going < acked.len() && 2 * going >= acked.len(), || {
        "writers of that shard stand still, and no others".to_owned()
    });
    row.promise_clear(None);
    if !row.unkept.is_empty() {
        ground.keep();
    }
    ground.abandon().await;
    Ok(row)
}

pub(crate) async fn emptied(settings: &Settings) -> Result<Row> {
    let mut ground = Ground::start(settings, 1, &[]).await?;
    ground.breaks();
    for node in &ground.cluster.nodes {
        node.signal(Signal::TERM)?;
    }
    for node in &mut ground.cluster.nodes {
        node.exited(NAMED_WITHIN).await?;
    }
    let topics = topics::of_shards(&ground.cluster.kafka.bootstrap()).await?;
    let empty = topics
        .values()
        .filter(|topic| topic.first == topic.end && topic.end > 0);
    let empty = empty.count();
    let started = ground.cluster.setups.iter().map(Setup::start);
    ground.cluster.nodes = futures::future::try_join_all(started).await?;
    ground.load.moved(ground.cluster.doors());
    let mut row = ground.heals().await?;
    row.seen.push(format!(
        "{empty} of {} logs had nothing left in them",
        topics.len()
    ));
    row.promise(empty == topics.len(), || {
        "whoever ends in peace leaves nothing in the log".to_owned()
    });
    row.promise_going_on(RECOVERED);
    Ok(row)
}
