//! `auxo admin` and `auxo version --server`.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};

use serde_json::Value;

use crate::process::auxo;
use crate::responder::{Request, Responder, answer, problem};

const JSON: &str = "application/json";

fn path(request: &Request) -> &str {
    request.line.split(' ').nth(1).unwrap()
}

/// A cluster of two nodes, the second online or not.
fn cluster(online: bool, ready: bool) -> Responder {
    Responder::start_bare(move |request| {
        let body = match path(request) {
            "/v1/cluster" => r#"{"cluster":"eu","topology":12,"meta":{"leader":"m1"}}"#.to_owned(),
            "/v1/nodes" => r#"{"items":[{"name":"c1","online":true}],"next":"c 2"}"#.to_owned(),
            "/v1/nodes?cursor=c+2" => {
                format!(r#"{{"items":[{{"name":"c2","online":{online}}}],"next":null}}"#)
            }
            "/v1/ready" => {
                let open = if ready { "5/5" } else { "3/5" };
                let shards = format!(r#"{{"name":"shards_open","ok":{ready},"detail":"{open}"}}"#);
                let checks = format!(r#"[{{"name":"wal","ok":true}},{shards}]"#);
                let body = format!(r#"{{"ready":{ready},"checks":{checks}}}"#);
                return answer(if ready { 200 } else { 503 }, JSON, "", &body);
            }
            "/v1/health" => r#"{"node":"c1","version":"9.8.7"}"#.to_owned(),
            "/v1/shards/7" => r#"{"shard":7,"leader":"c1","followers":["c2","c3"]}"#.to_owned(),
            "/v1/meta/check" => {
                let wrong = r#"{"key":"/auxo/eu/shard/7","what":"there is no node 3"}"#;
                let wrong = if ready { "" } else { wrong };
                format!(r#"{{"whole":{ready},"violations":[{wrong}]}}"#)
            }
            "/v1/tables" => "[]".to_owned(),
            "/v1/procedures" => "7".to_owned(),
            "/v1/procedures/9/retry" => return answer(202, JSON, "", r#"{"procedure":9}"#),
            "/v1/tables/a%2Fb" => r#"{"name":"a/b"}"#.to_owned(),
            _ => return problem(404, r#"{"code":"NOT_FOUND","detail":"no such thing"}"#),
        };
        answer(200, JSON, "", &body)
    })
}

#[test]
fn a_cluster_is_shown_on_one_screen() {
    let node = cluster(true, true);
    let ended = auxo(&["admin", "status", "--url", &node.url])
        .run()
        .expect(0);
    assert_eq!(
        ended.stdout,
        "cluster      eu\ntopology     12\nmeta.leader  m1\n\n\
         name | online\n-----+-------\nc1   | true\nc2   | true\n\n\
         name        | ok   | detail\n------------+------+-------\nwal         | true |\nshards_open | true | 5/5\n"
    );
}

#[test]
fn what_needs_care_ends_with_7() {
    for node in [cluster(false, true), cluster(true, false)] {
        let ended = auxo(&["admin", "status", "-o", "json", "--url", &node.url])
            .run()
            .expect(7);
        let told: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
        assert_eq!(told["healthy"], false);
        assert_eq!(told["nodes"].as_array().unwrap().len(), 2);
    }
}

#[test]
fn things_are_listed_and_shown() {
    let node = cluster(true, true);
    let run = |arguments: &[&str]| auxo(&[arguments, &["--url", &node.url]].concat()).run();
    let shard = run(&["admin", "shard", "show", "7"]).expect(0);
    assert_eq!(
        shard.stdout,
        "shard      7\nleader     c1\nfollowers  c2,c3\n"
    );
    let tables = run(&["admin", "table", "list", "-o", "json"]).expect(0);
    assert_eq!(tables.stdout, "[]\n");
    let tables = run(&["admin", "table", "list"]).expect(0);
    assert_eq!((&*tables.stdout, &*tables.stderr), ("", "there are none\n"));
    let retried = run(&["admin", "procedure", "retry", "9"]).expect(0);
    assert_eq!(retried.stdout, "procedure  9\n");
    let table = run(&["admin", "table", "show", "a/b"]).expect(0);
    assert_eq!(table.stdout, "name  a/b\n");
    let wrong = run(&["admin", "procedure", "list"]).expect(1);
    assert_eq!(wrong.stderr, "error: v1/procedures answered no list\n");
    let nothing = run(&["admin", "procedure", "show", "812"]).expect(1);
    assert_eq!(nothing.stderr, "error: NOT_FOUND: no such thing\n");
    let version = run(&["version", "--server"]).expect(0);
    assert!(version.stdout.ends_with("\nnode c1 9.8.7\n"), "{version:?}");
}

#[test]
fn a_cluster_is_shown_again_and_again() {
    let node = cluster(true, true);
    let watched = auxo(&["admin", "status", "--watch", "--url", &node.url]);
    let (mut running, _directory) = watched.start();
    let screens = BufReader::new(running.child.stdout.take().unwrap()).lines();
    let screens = screens.filter(|line| line.as_ref().unwrap() == "cluster      eu");
    assert_eq!(screens.take(2).count(), 2);
    running.interrupt();
    assert_eq!(running.wait().code, Some(0), "it was asked to end");
}

#[test]
fn what_does_not_hold_is_named_with_its_key() {
    let whole = cluster(true, true);
    let run = |url: &str| auxo(&["admin", "meta", "check", "--url", url]).run();
    run(&whole.url).expect(0);
    let broken = run(&cluster(true, false).url).expect(7);
    assert_eq!(
        broken.stdout,
        "key              | what\n-----------------+-------------------\n\
         /auxo/eu/shard/7 | there is no node 3\n"
    );
}

/// State and sight of each thing that the doctor looked at, and the exit code.
fn examined(arguments: &[&str]) -> (BTreeMap<String, (String, String)>, Option<i32>) {
    let doctor = auxo(&[&["admin", "doctor", "-o", "json"], arguments].concat());
    let doctor = doctor.env("AUXO_LISTEN__PUBLIC", "127.0.0.1:0");
    let ended = doctor.env("AUXO_LISTEN__INTERNAL", "127.0.0.1:0").run();
    let told: Value = serde_json::from_str(&ended.stdout).unwrap();
    let findings = told["findings"].as_array().unwrap().iter().map(|one| {
        let text = |name: &str| one[name].as_str().unwrap().to_owned();
        assert_eq!(one["state"] == "broken", one["what_to_do"].is_string());
        (text("check"), (text("state"), text("seen")))
    });
    (findings.collect(), ended.code)
}

#[test]
fn the_doctor_names_what_is_broken_and_nothing_else() {
    let sound = cluster(true, true);
    let (found, _) = examined(&["--url", &sound.url]);
    // How many files may be open is not ours to say here.
    for (name, (state, seen)) in found.iter().filter(|(name, _)| *name != "files") {
        assert_ne!(state, "broken", "{name}: {seen}");
    }
    let node = cluster(false, false);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = nobody.local_addr().unwrap();
    let setting = |key: &str, value: String| format!("{key}={value}");
    let settings = [
        setting("wal.url", format!("kafka://{nobody}")),
        setting("store.url", "s3://rows".to_owned()),
        setting("store.endpoint", format!("http://{nobody}")),
        setting("meta.etcd", format!("http://{nobody}")),
        setting("meta.members", nobody.to_string()),
    ];
    let mut arguments = vec!["--url", &node.url];
    for setting in &settings {
        arguments.extend(["--setting", setting]);
    }
    let (found, code) = examined(&arguments);
    assert_eq!(code, Some(7));
    let nobody = nobody.to_string();
    let wanted = [
        ("wal", nobody.as_str()),
        ("store", "store.url s3://rows"),
        ("etcd", &nobody),
        ("members", &nobody),
        ("node", "shards_open: 3/5"),
        ("nodes", "c2 is offline"),
        ("model", "/auxo/eu/shard/7: there is no node 3"),
    ];
    for (name, part) in wanted {
        let (state, seen) = &found[name];
        assert_eq!(state, "broken", "{name}: {seen}");
        assert!(seen.contains(part), "{name}: {seen}");
    }
    let (found, code) = examined(&["--url", "http://127.0.0.1:1"]);
    assert_eq!((found["node"].0.as_str(), code), ("broken", Some(7)));
    assert_eq!(found["nodes"].0, "skipped");
}
