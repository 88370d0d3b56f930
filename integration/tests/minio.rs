//! What only the second server of buckets has: TLS, buckets in the server's name, keys of few rights.

#![allow(
    clippy::unwrap_used,
    reason = "functions that tests share, where the lint does not see that they are of tests"
)]

use std::time::Duration;

use anyhow::{Result, bail};
use integration::servers::authority::Authority;
use integration::servers::s3::{Product, S3Server, Setup};
use integration::{binary, disk, standalone, wait};
use serde_json::json;
use tempfile::TempDir;

/// Longest time for anything that should happen soon.
const SOON: Duration = Duration::from_secs(60);

/// A server with the bucket `rows`.
async fn started(change: impl FnOnce(&mut Setup)) -> S3Server {
    let mut setup = Setup::new(Product::Minio);
    change(&mut setup);
    let server = setup.start().await.unwrap();
    server.make_bucket("rows").await.unwrap();
    server
}

/// A node that is not started yet, and its folder.
fn node(config: String) -> (standalone::Setup, TempDir) {
    let folder = disk::folder("far").unwrap();
    let mut setup = standalone::Setup::new(&binary::beside().unwrap(), folder.path());
    setup.config = config;
    (setup, folder)
}

/// Whether sorted files lie in the bucket, as its server keeps them.
fn has_files(server: &S3Server) -> Result<()> {
    let mut folders = vec![server.data().join("rows")];
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(&at)? {
            let path = entry?.path();
            if path.to_string_lossy().contains("/sst/") {
                return Ok(());
            }
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    bail!("no file yet")
}

/// A node with these settings brings rows into the bucket and finds them there again.
async fn keeps_rows(server: &S3Server, setup: &mut standalone::Setup) {
    setup.config.push_str("[flush]\nage = \"200ms\"\n");
    let mut node = setup.start().await.unwrap();
    let lines = "cpu,host=a n=1i 1\ncpu,host=b n=2i 2\n".to_owned();
    let answer = node.http.write("main", lines).await.unwrap();
    assert_eq!(answer.status, 204, "{}", answer.body);
    let written = wait::until("a file is written", SOON, || async { has_files(server) });
    written.await.unwrap();
    assert!(node.terminate(SOON).await.unwrap().success());
    let node = setup.start().await.unwrap();
    let found = node.http.sql("SELECT host, n FROM cpu ORDER BY host").await;
    assert_eq!(
        found.unwrap(),
        [[json!("a"), json!(1)], [json!("b"), json!(2)]]
    );
}

/// A node that does not start says why, and the doctor finds the same.
async fn is_named(setup: &standalone::Setup, why: &str) {
    let said = setup.refusal().await.unwrap();
    assert!(said.contains(why), "{said}");
    let (state, seen) = &setup.examined().unwrap()["store"];
    assert!(state == "broken" && seen.contains(why), "{state}: {seen}");
}

/// Makes this authority one that the process trusts.
fn trust(authority: &Authority, setup: &mut standalone::Setup) {
    let file = setup.folder.join("trusted.pem");
    std::fs::write(&file, authority.pem()).unwrap();
    let file = file.display().to_string();
    setup.environment.push(("SSL_CERT_FILE", file));
}

#[tokio::test]
async fn a_certificate_is_trusted_where_that_is_told_and_named_where_it_is_not() {
    let authority = Authority::new().unwrap();
    let certificate = authority.certificate(2100).unwrap();
    let server = started(|setup| setup.certificate = Some(certificate)).await;
    let (mut setup, _folder) = node(server.config("rows/eu"));
    is_named(
        &setup,
        "store.url s3://rows/eu: the store cannot be checked: ",
    )
    .await;
    is_named(&setup, "invalid peer certificate: UnknownIssuer").await;

    trust(&authority, &mut setup);
    assert_eq!(setup.examined().unwrap()["store"].0, "ok");
    keeps_rows(&server, &mut setup).await;
}

#[tokio::test]
async fn a_certificate_whose_time_is_over_is_named() {
    let authority = Authority::new().unwrap();
    let certificate = authority.certificate(2020).unwrap();
    let server = started(|setup| setup.certificate = Some(certificate)).await;
    let (mut setup, _folder) = node(server.config("rows/eu"));
    trust(&authority, &mut setup);
    is_named(&setup, "invalid peer certificate: certificate expired").await;
}

#[tokio::test]
async fn a_bucket_is_found_in_the_servers_name() {
    // Nobody knows that name here. The server itself takes what is sent to it as to a proxy, and finds
    // the bucket in the name alone.
    let far = |server: &S3Server| {
        let named = server.endpoint().replace("127.0.0.1", "s3.test");
        let store = server.config_through(&named, "rows/eu");
        let (mut setup, folder) =
            node(format!("{store}virtual_hosted = true\nallow_http = true\n"));
        let proxy = server.endpoint().to_owned();
        setup.environment.push(("HTTP_PROXY", proxy));
        (setup, folder)
    };
    let server = started(|setup| setup.domain = Some("s3.test".to_owned())).await;
    let (mut setup, _folder) = far(&server);
    keeps_rows(&server, &mut setup).await;

    let by_path = started(|_| ()).await;
    let (setup, _folder) = far(&by_path);
    let said = setup.refusal().await.unwrap();
    assert!(said.contains("The specified bucket is not valid"), "{said}");
}

/// The rights that docs/s3.md asks for, below one prefix, without those that are left out.
fn policy(left_out: &str) -> String {
    let actions = ["s3:PutObject", "s3:GetObject", "s3:DeleteObject"];
    let actions: Vec<&str> = actions.into_iter().filter(|one| *one != left_out).collect();
    let mut statements = vec![json!({
        "Effect": "Allow", "Action": actions, "Resource": "arn:aws:s3:::rows/eu/*"
    })];
    if left_out != "s3:ListBucket" {
        statements.push(json!({
            "Effect": "Allow", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::rows",
            "Condition": {"StringLike": {"s3:prefix": "eu/*"}}
        }));
    }
    json!({"Version": "2012-10-17", "Statement": statements}).to_string()
}

#[tokio::test]
async fn the_rights_that_are_asked_for_suffice_and_each_is_missed() {
    let server = started(|_| ()).await;
    let root = server.credentials().display().to_string();
    let lent = async |policy: &str, bucket: &str| {
        let keys = server.lend(policy).await.unwrap().display().to_string();
        let config = server.config(bucket).replace(&root, &keys);
        (node(config), format!("store.credentials file:{keys}"))
    };
    let ((mut setup, _folder), _) = lent(&policy(""), "rows/eu").await;
    keeps_rows(&server, &mut setup).await;

    let rights = [
        "s3:PutObject",
        "s3:GetObject",
        "s3:DeleteObject",
        "s3:ListBucket",
    ];
    let elsewhere = (policy(""), "rows/us");
    let missing = rights.map(|right| (policy(right), "rows/eu"));
    for (policy, bucket) in missing.into_iter().chain([elsewhere]) {
        let ((setup, _folder), keys) = lent(&policy, bucket).await;
        is_named(
            &setup,
            &format!("{keys}: the store refuses the credentials, or a right"),
        )
        .await;
    }
}
