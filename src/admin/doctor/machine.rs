//! This machine, and the services that its configuration names, each reached from here as a node
//! would.

use std::fs::File;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use auxo_meta_service::store::connect;
use auxo_proto::pb::meta::AdminCall;
use auxo_proto::pb::meta::meta_client::MetaClient;
use auxo_proto::random::Random;
use etcd_client::{AlarmAction, AlarmType};
use rustix::fs::{FlockOperation, flock, statvfs};
use rustix::process::{Resource, getrlimit};
use tokio::time::Instant;

use super::Finding;
use crate::config::Config;
use crate::environment::Environment;
use crate::services;

/// How long a service may take to answer.
const ANSWER_TIME: Duration = Duration::from_secs(20);
/// How long a member may take to take a connection, or to answer one question.
const REACH_TIME: Duration = Duration::from_secs(3);
/// Least free space, as bytes and as a share of the disk in percent.
const FREE: (u64, u64) = (1 << 30, 5);
/// How long 4 KiB may take to be kept; the middle one of so many tries counts.
const KEPT_WITHIN: Duration = Duration::from_millis(100);
const KEPT_TRIES: usize = 5;
/// Least number of files that a process may have open.
const FILES_MIN: u64 = 4_096;

pub(super) async fn look(config: &Config, environment: &Environment) -> Vec<Finding> {
    let random = Random::from_system();
    let (wal, store, etcd, members) = tokio::join!(
        wal(config, &random),
        store(config, environment, &random),
        etcd(config),
        members(config),
    );
    let (data_dir, runs) = (config.data_dir.clone(), held(&config.data_dir.join("LOCK")));
    let ports = ports(config, runs);
    let disk = tokio::task::spawn_blocking(move || disk(&data_dir, &random));
    let disk = disk.await.unwrap_or_else(|error| {
        Finding::skipped("disk", format!("it could not be looked at: {error}"))
    });
    vec![wal, store, etcd, members, ports, disk, files()]
}

async fn wal(config: &Config, random: &Random) -> Finding {
    let url = &config.wal.url;
    if url.service() != "kafka" {
        return Finding::skipped("wal", format!("{url} is the node's own"));
    }
    let checked = async {
        let (wal, closing) = services::wal(config, random).await?;
        let durability = wal.check().await;
        drop(wal);
        closing.close().await?;
        anyhow::Ok(durability?)
    };
    match tokio::time::timeout(ANSWER_TIME, checked).await {
        Ok(Ok(durability)) => Finding::sound("wal", format!("{url}: {durability:?}")),
        Ok(Err(error)) => Finding::broken("wal", format!("{url}: {error:#}")),
        Err(_) => Finding::broken("wal", format!("{url}: no answer within {ANSWER_TIME:?}")),
    }
}

async fn store(config: &Config, environment: &Environment, random: &Random) -> Finding {
    let url = &config.store.url;
    if url.bucket().is_none() {
        return Finding::skipped("store", format!("{url} is the node's own"));
    }
    let checked = services::store(&config.store, environment, random);
    match tokio::time::timeout(ANSWER_TIME, checked).await {
        Ok(Ok(_)) => Finding::sound("store", url.to_string()),
        Ok(Err(error)) => Finding::broken("store", format!("{error:#}")),
        Err(_) => Finding::broken("store", format!("{url}: no answer within {ANSWER_TIME:?}")),
    }
}

async fn etcd(config: &Config) -> Finding {
    let members = &config.meta.etcd;
    if members.is_empty() {
        return Finding::skipped("etcd", "a meta node brings its own");
    }
    let mut wrong = Vec::new();
    for member in members {
        let asked = async {
            let client = connect(std::slice::from_ref(member)).await?;
            let mut maintenance = client.maintenance_client();
            let status = maintenance.status().await?;
            let alarms = maintenance
                .alarm(AlarmAction::Get, AlarmType::None, None)
                .await?;
            anyhow::Ok((status.leader(), alarms.alarms().len()))
        };
        match tokio::time::timeout(REACH_TIME, asked).await {
            Ok(Ok((0, _))) => wrong.push(format!("{member} knows no leader")),
            Ok(Ok((_, 0))) => {}
            Ok(Ok((_, alarms))) => wrong.push(format!("{member} has {alarms} alarms")),
            Ok(Err(error)) => wrong.push(format!("{member}: {error:#}")),
            Err(_) => wrong.push(format!("{member} does not answer within {REACH_TIME:?}")),
        }
    }
    Finding::of("etcd", &wrong, members.join(", "))
}

async fn members(config: &Config) -> Finding {
    let members = &config.meta.members;
    if members.is_empty() {
        return Finding::skipped("members", "none are configured here");
    }
    let mut wrong = Vec::new();
    for member in members {
        let asked = async {
            let mut client = MetaClient::connect(format!("http://{member}")).await?;
            let status = AdminCall {
                verb: "status".to_owned(),
                target: String::new(),
            };
            // Whatever it says: one that follows only says who leads.
            client.admin(status).await?;
            anyhow::Ok(())
        };
        match tokio::time::timeout(REACH_TIME, asked).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => wrong.push(format!("{member}: {error:#}")),
            Err(_) => wrong.push(format!("{member} does not answer within {REACH_TIME:?}")),
        }
    }
    Finding::of("members", &wrong, members.join(", "))
}

/// Whether a live process holds the data directory.
fn held(lock: &Path) -> bool {
    let Ok(file) = File::open(lock) else {
        return false;
    };
    flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
}

fn ports(config: &Config, runs: bool) -> Finding {
    if runs {
        return Finding::skipped("ports", "the node of data_dir runs and has its own");
    }
    let named = config.listen.public.iter().map(|at| ("listen.public", at));
    let internal = config.listen.internal.iter();
    let named = named.chain(internal.map(|at| ("listen.internal", at)));
    let wrong = named.filter_map(|(key, address): (_, &SocketAddr)| {
        let error = TcpListener::bind(address).err()?;
        Some(format!("{key} {address}: {error}"))
    });
    Finding::of("ports", &wrong.collect::<Vec<_>>(), "they are free")
}

fn disk(data_dir: &Path, random: &Random) -> Finding {
    let shown = data_dir.display();
    if !data_dir.exists() {
        return Finding::skipped("disk", format!("{shown} is not there yet"));
    }
    let looked = || {
        let of = statvfs(data_dir)?;
        let kept = kept_within(data_dir, random)?;
        Ok::<_, io::Error>((of.f_bavail * of.f_frsize, of.f_blocks * of.f_frsize, kept))
    };
    let (free, all, kept) = match looked() {
        Ok(looked) => looked,
        Err(error) => return Finding::broken("disk", format!("{shown}: {error}")),
    };
    let mib = free >> 20;
    let mut wrong = Vec::new();
    if free < FREE.0 || free < all / 100 * FREE.1 {
        wrong.push(format!("{shown} has {mib} MiB free of {}", all >> 20));
    }
    if kept > KEPT_WITHIN {
        wrong.push(format!("{shown} takes {kept:.0?} to keep 4 KiB"));
    }
    let sound = format!("{shown}: {mib} MiB free, keeps 4 KiB in {kept:.1?}");
    Finding::of("disk", &wrong, sound)
}

/// How long the disk takes to keep 4 KiB.
fn kept_within(data_dir: &Path, random: &Random) -> io::Result<Duration> {
    let path = data_dir.join(format!("doctor-{:016x}", random.next_u64()));
    let mut file = File::create_new(&path)?;
    let mut took = Vec::new();
    for _ in 0..KEPT_TRIES {
        let began = Instant::now();
        let kept = file.write_all(&[0; 4_096]).and_then(|()| file.sync_data());
        if let Err(error) = kept {
            // The first error is the one that matters.
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        took.push(began.elapsed());
    }
    std::fs::remove_file(&path)?;
    took.sort();
    Ok(took[KEPT_TRIES / 2])
}

fn files() -> Finding {
    let most = getrlimit(Resource::Nofile).current;
    match most {
        Some(most) if most < FILES_MIN => {
            Finding::broken("files", format!("a process may have {most} open"))
        }
        Some(most) => Finding::sound("files", format!("a process may have {most} open")),
        None => Finding::sound("files", "there is no limit"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn a_port_of_another_is_named_unless_the_node_runs() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let mut config = Config::default();
        config.listen.public = vec![address];
        config.listen.internal = Vec::new();
        let found = ports(&config, false);
        assert_eq!(found.state, State::Broken);
        let wanted = format!("listen.public {address}: ");
        assert!(found.seen.starts_with(&wanted), "{}", found.seen);
        assert_eq!(ports(&config, true).state, State::Skipped);
        drop(taken);
        assert_eq!(ports(&config, false).state, State::Sound);
    }

    #[test]
    fn a_disk_is_measured_and_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let random = Random::seeded(1);
        assert!(kept_within(folder.path(), &random).unwrap() > Duration::ZERO);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let gone = folder.path().join("gone");
        assert_eq!(disk(&gone, &random).state, State::Skipped);
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(disk(&file, &random).state, State::Broken);
    }

    #[tokio::test]
    async fn what_does_not_answer_is_named() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let mut config = Config::default();
        assert_eq!(members(&config).await.state, State::Skipped);
        assert_eq!(etcd(&config).await.state, State::Skipped);
        config.meta.members = vec![address.clone()];
        config.meta.etcd = vec![format!("http://{address}")];
        for found in [members(&config).await, etcd(&config).await] {
            assert_eq!(found.state, State::Broken);
            assert!(found.seen.contains(&address), "{}", found.seen);
        }
    }
}
