//! A member that listens: the same API for clients of other processes.

use auxo_etcd::Server;
use etcd_client::{Client, ConnectOptions};

use crate::{config, soon};

#[tokio::test]
async fn clients_of_both_kinds_see_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut settings = config(dir.path());
    settings.client_urls = vec![format!("http://{address}")];
    let server = Server::start(settings, Some(listener), 7).await.unwrap();
    let mut near = crate::client(&server).await;
    let options = ConnectOptions::new().with_require_leader(true);
    let mut far = Client::connect([&address], Some(options)).await.unwrap();

    let mut watching = far.watch("k", None).await.unwrap();
    assert!(soon(watching.message()).await.unwrap().unwrap().created());
    near.put("k", "v", None).await.unwrap();
    let told = soon(watching.message()).await.unwrap().unwrap();
    assert_eq!(told.events()[0].kv().unwrap().value(), b"v");
    assert_eq!(far.get("k", None).await.unwrap().kvs()[0].value(), b"v");

    let members = far.member_list().await.unwrap();
    let member = &members.members()[0];
    assert_eq!(member.name(), "default");
    assert_eq!(member.client_urls(), [format!("http://{address}")]);
    let status = far.status().await.unwrap();
    assert_eq!(status.version(), "3.5.30");
    assert_eq!(status.leader(), member.id());
    assert!(status.raft_used_db_size() > 0 && status.raft_applied_index() > 0);
    assert!(
        far.alarm(
            etcd_client::AlarmAction::Get,
            etcd_client::AlarmType::None,
            None,
        )
        .await
        .unwrap()
        .alarms()
        .is_empty()
    );

    server.stop().await;
    // The stream ends with the server, whether it says so or not.
    let end = soon(watching.message()).await;
    assert!(!matches!(end, Ok(Some(_))), "{end:?}");
}
