//! What `auxo admin doctor` says of real servers that are not set as they must be.

#![allow(
    clippy::unwrap_used,
    reason = "functions that tests share, where the lint does not see that they are of tests"
)]

use integration::servers::etcd::Etcd;
use integration::servers::kafka;
use integration::servers::s3::{self, Product};
use integration::standalone::Setup;
use integration::{binary, disk};

#[tokio::test]
async fn the_setting_the_right_and_the_member_that_are_wrong_are_named() {
    let folder = disk::folder("doctor").unwrap();
    let mut kafka = kafka::Setup::new(1).start().await.unwrap();
    let mut gateway = s3::Setup::new(Product::Versitygw).start().await.unwrap();
    gateway.make_bucket("rows").await.unwrap();
    let mut etcd = Etcd::start(3).await.unwrap();
    let wal = |weak| {
        let brokers = kafka.bootstrap();
        format!("[wal]\nurl = \"kafka://{brokers}\"\nallow_weak = {weak}\n")
    };
    let meta = format!("[meta]\netcd = {:?}\n", etcd.endpoints());
    let sound = format!("{}{}{meta}", wal(true), gateway.config("rows/here"));
    let mut setup = Setup::new(&binary::beside().unwrap(), folder.path());
    setup.config = sound;
    let found = setup.examined().unwrap();
    for name in ["wal", "store", "etcd", "ports"] {
        let (state, seen) = &found[name];
        assert_eq!(state, "ok", "{name}: {seen}");
    }

    let keys = folder.path().join("keys");
    let wrong = "[default]\naws_access_key_id = nobody\naws_secret_access_key = nothing\n";
    std::fs::write(&keys, wrong).unwrap();
    let right = gateway.credentials().display().to_string();
    let store = gateway.config("rows/here");
    let store = store.replace(&right, &keys.display().to_string());
    let dead = etcd.endpoints()[1].clone();
    etcd.kill(1).unwrap();
    let broken = format!("{}{store}{meta}", wal(false));
    setup.config = broken;
    let found = setup.examined().unwrap();
    let parts = [
        ("wal", "replication.factor"),
        ("store", "store.credentials"),
        ("etcd", dead.as_str()),
    ];
    for (name, part) in parts {
        let (state, seen) = &found[name];
        assert_eq!(state, "broken", "{name}: {seen}");
        assert!(seen.contains(part), "{name}: {seen}");
    }
    etcd.stop().await.unwrap();
    gateway.stop().await.unwrap();
    kafka.stop().await.unwrap();
}
