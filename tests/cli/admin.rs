//! `auxo admin` and `auxo version --server`.

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
            "/v1/nodes" => r#"{"items":[{"node":"c1","online":true}],"next":"c 2"}"#.to_owned(),
            "/v1/nodes?cursor=c+2" => {
                format!(r#"{{"items":[{{"node":"c2","online":{online}}}],"next":null}}"#)
            }
            "/v1/ready" => {
                let checks = r#"[{"name":"wal","ok":true},{"name":"shards_open","ok":false,"detail":"3/5"}]"#;
                let body = format!(r#"{{"ready":{ready},"checks":{checks}}}"#);
                return answer(if ready { 200 } else { 503 }, JSON, "", &body);
            }
            "/v1/health" => r#"{"node":"c1","version":"9.8.7"}"#.to_owned(),
            "/v1/shards/7" => r#"{"shard":7,"leader":"c1","followers":["c2","c3"]}"#.to_owned(),
            "/v1/tables" => "[]".to_owned(),
            "/v1/procedures" => "7".to_owned(),
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
         node | online\n-----+-------\nc1   | true\nc2   | true\n\n\
         name        | ok    | detail\n------------+-------+-------\nwal         | true  |\nshards_open | false | 3/5\n"
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
    let table = run(&["admin", "table", "show", "a/b"]).expect(0);
    assert_eq!(table.stdout, "name  a/b\n");
    let wrong = run(&["admin", "procedure", "list"]).expect(1);
    assert_eq!(wrong.stderr, "error: v1/procedures answered no list\n");
    let nothing = run(&["admin", "procedure", "show", "812"]).expect(1);
    assert_eq!(nothing.stderr, "error: NOT_FOUND: no such thing\n");
    let version = run(&["version", "--server"]).expect(0);
    assert!(version.stdout.ends_with("\nnode c1 9.8.7\n"), "{version:?}");
}
