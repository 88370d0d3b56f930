//! Sources and faults: text in, text out.

use super::Config;
use super::load::{Origin, Sources, keys_of, load, tree_of};
use crate::environment::Environment;

/// Loads one file with this text, called `auxo.toml` in every message.
fn load_text(
    text: &str,
    variables: &[(&str, &str)],
    flags: &[(&str, &str)],
) -> Result<super::load::Loaded, String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("auxo.toml");
    std::fs::write(&file, text).unwrap();
    let sources = Sources {
        only_file: Some(file),
        environment: Environment::of(variables.iter().copied()),
        flags: flags
            .iter()
            .map(|(key, text)| ("--set".to_owned(), (*key).to_owned(), (*text).to_owned()))
            .collect(),
    };
    let prefix = format!("{}/", directory.path().display());
    load(&sources).map_err(|faults| faults.to_string().replace(&prefix, ""))
}

fn check_faults(text: &str, expected: &str) {
    assert_eq!(load_text(text, &[], &[]).unwrap_err(), expected);
}

#[test]
fn a_fault_names_its_file_line_and_column() {
    check_faults(
        "# one\ncluster = \"eu\"\n\n[wal]\nbrokes = \"kafka://b1\"\n",
        "auxo.toml:5:1: unknown key \"wal.brokes\"; did you mean \"wal.url\"?",
    );
    check_faults(
        "[memory]\nbudget = 60\n",
        "auxo.toml:2:10: bad value for \"memory.budget\": invalid type: integer `60`, expected a string",
    );
    check_faults(
        "limits.body_bytes = \"16\"\n",
        "auxo.toml:1:21: bad value for \"limits.body_bytes\": \"16\" is not a size: a whole number and B, KiB, MiB, GiB or TiB, like 64MiB",
    );
    check_faults(
        "zone = é\n",
        "auxo.toml:1:8: string values must be quoted, expected literal string",
    );
}

#[test]
fn all_faults_are_told_at_once() {
    check_faults(
        "zones = \"a\"\n[walls]\nurl = \"memory://\"\n[log]\nformat = \"xml\"\n[store]\nurl = \"ftp://x\"\n",
        "auxo.toml:2:2: unknown key \"walls\"; did you mean \"wal\"?\n\
         auxo.toml:1:1: unknown key \"zones\"; did you mean \"zone\"?\n\
         auxo.toml:5:10: bad value for \"log.format\": unknown variant `xml`, expected `text` or `json`\n\
         auxo.toml:7:7: bad value for \"store.url\": unknown scheme \"ftp\": use local://, memory://, s3://",
    );
    check_faults(
        "wal = \"memory://\"\nnode = 2026-01-01\n",
        "auxo.toml:2:8: \"node\" cannot hold this datetime\n\
         auxo.toml:1:7: \"wal\" is a section; it has no value of its own",
    );
}

#[test]
fn what_contradicts_is_a_fault() {
    check_faults(
        "[flush]\nunflushed_bytes = \"2GiB\"\n[listen]\npublic = []\n",
        "\"listen.public\" is empty: nobody could connect\n\
         \"flush.unflushed_bytes\" is 2GiB, above \"flush.unflushed_bytes_max\", which is 1GiB",
    );
    check_faults(
        "[limits]\nconnections = 0\n[meta]\nshards = 0\n[client]\nurl = \"https://node\"\n",
        "\"limits.connections\" is 0: nobody could connect\n\
         \"meta.shards\" is 0: rows would have no place\n\
         \"client.url\" is \"https://node\", which does not begin with http://",
    );
    check_faults(
        "[log]\nlevel = \"inof\"\n",
        "auxo.toml:2:9: bad value for \"log.level\": \"inof\" is not a level: error, warn, info, debug or trace, or MODULE=LEVEL,…",
    );
    check_faults(
        "[listen]\nadvertised = \"node:http\"\n",
        "\"listen.advertised\" is \"node:http\", which is no HOST:PORT",
    );
    let load = |text: &str| load_text(text, &[], &[]);
    assert!(load("[listen]\nadvertised = \"node.example.org:7401\"\n").is_ok());
}

#[test]
fn a_server_of_buckets_is_checked_before_it_is_asked() {
    check_faults(
        "[store]\nurl = \"s3://Rows\"\nendpoint = \"s3.example.org\"\n",
        "auxo.toml:3:12: bad value for \"store.endpoint\": a server begins with https:// or http://\n\
         auxo.toml:2:7: bad value for \"store.url\": \"Rows\" is no bucket: 3 to 63 of a-z, 0-9, '.' and '-'",
    );
    check_faults(
        "[store]\nurl = \"s3://rows\"\nendpoint = \"http://s3.example.org\"\n",
        "\"store.endpoint\" is http://s3.example.org: rows and signatures would travel in the open; \
         use https://, or set \"store.allow_http\"",
    );
    check_faults(
        "[store]\nurl = \"memory://\"\nendpoint = \"https://s3.example.org\"\nrequest_timeout = \"0s\"\n",
        "\"store.endpoint\" is set, but \"store.url\" is memory://, which is no bucket\n\
         \"store.request_timeout\" is 0: no request would be answered",
    );
    let near = "[store]\nurl = \"s3://rows/eu\"\nendpoint = \"http://127.0.0.1:9000\"\n";
    let loaded = load_text(near, &[("AUXO_STORE__VIRTUAL_HOSTED", "true")], &[]).unwrap();
    assert!(loaded.config.store.virtual_hosted);
    assert_eq!(
        loaded.config.store.url.bucket().unwrap().to_string(),
        "rows/eu"
    );
}

#[test]
fn a_literal_secret_is_refused_and_not_repeated() {
    let said = load_text("[client]\ntoken = \"auxo_canary\"\n", &[], &[]).unwrap_err();
    assert!(said.starts_with("auxo.toml:2:9: bad value for \"client.token\": a secret is named"));
    assert!(!said.contains("canary"), "{said}");
}

#[test]
fn a_later_source_wins_and_is_remembered() {
    let text = "cluster = \"file\"\nzone = \"file\"\nnode = \"file\"\n";
    let variables = [
        ("AUXO_ZONE", "variable"),
        ("AUXO_NODE", "variable"),
        ("HOME", "/root"),
    ];
    let loaded = load_text(text, &variables, &[("node", "flag")]).unwrap();
    assert_eq!(loaded.config.cluster, "file");
    assert_eq!(loaded.config.zone, "variable");
    assert_eq!(loaded.config.node, "flag");
    assert!(
        matches!(loaded.origin("cluster"), Origin::File(_, at) if at.line == 1 && at.column == 11)
    );
    assert_eq!(loaded.origin("zone").to_string(), "environment AUXO_ZONE");
    assert_eq!(loaded.origin("node").to_string(), "flag --set");
    assert_eq!(loaded.origin("data_dir"), &Origin::Default);
}

#[test]
fn variables_and_flags_have_the_type_of_their_key() {
    let variables = [
        ("AUXO_WAL__URL", "memory://"),
        ("AUXO_LISTEN__PUBLIC", "127.0.0.1:1, 127.0.0.1:2"),
        ("AUXO_LIMITS__STATEMENTS_QUEUED", "3"),
    ];
    let loaded = load_text("", &variables, &[("limits.line_bytes", "1KiB")]).unwrap();
    assert_eq!(loaded.config.wal.url.as_str(), "memory://");
    assert_eq!(loaded.config.listen.public.len(), 2);
    assert_eq!(loaded.config.limits.statements_queued, 3);
    assert_eq!(loaded.config.limits.line_bytes.0, 1024);
    let said = load_text(
        "",
        &[
            ("AUXO_WAL__BROKES", "x"),
            ("AUXO_LIMITS__RESULT_ROWS", "many"),
        ],
        &[("lgo.level", "info")],
    );
    assert_eq!(
        said.unwrap_err(),
        "environment AUXO_WAL__BROKES: unknown key \"wal.brokes\"; did you mean \"wal.url\"?\n\
         flag --set: unknown key \"lgo.level\"; did you mean \"log.level\"?\n\
         environment AUXO_LIMITS__RESULT_ROWS: bad value for \"limits.result_rows\": invalid type: string \"many\", expected u64"
    );
}

#[test]
fn variables_of_others_with_our_prefix_are_left_alone() {
    let variables = [
        ("AUXO_PORT", "tcp://10.0.0.1:7400"),
        ("AUXO_TOKEN", "x"),
        ("AUXO_CACHE", "/c"),
    ];
    assert!(load_text("", &variables, &[]).is_ok());
}

#[test]
fn defaults_follow_the_data_directory() {
    let loaded = load_text("data_dir = \"/var/lib/auxo\"\n", &[], &[]).unwrap();
    assert_eq!(loaded.config.wal.url.as_str(), "local:///var/lib/auxo/wal");
    assert_eq!(
        loaded.config.store.url.as_str(),
        "local:///var/lib/auxo/store"
    );
    assert_eq!(
        loaded.config.cache.dir.to_str(),
        Some("/var/lib/auxo/cache")
    );
    assert!(!loaded.config.node.is_empty());
}

#[test]
fn the_documented_example_is_read() {
    let text = r#"
cluster = "eu"
node = "c1"
zone = "eu-west-1a"
data_dir = "/var/lib/auxo"
[listen]
public = ["0.0.0.0:7400"]
internal = ["10.0.0.5:7401"]
[meta]
members = ["m1:7401", "m2:7401", "m3:7401"]
[wal]
url = "kafka://b1:9092,b2:9092,b3:9092"
[store]
url = "s3://bucket/prefix"
region = "eu-west-1"
credentials = "env"
[memory]
budget = "60%"
[cache]
dir = "/var/cache/auxo"
size = "200GiB"
"#;
    let loaded = load_text(text, &[], &[]).unwrap();
    assert_eq!(loaded.config.meta.members.len(), 3);
    assert_eq!(loaded.config.cache.size.to_string(), "200GiB");
}

#[test]
fn a_file_that_was_named_must_exist() {
    let sources = Sources {
        only_file: Some("/no/such/auxo.toml".into()),
        ..Sources::default()
    };
    let said = load(&sources).unwrap_err().to_string();
    assert!(said.starts_with("/no/such/auxo.toml: "), "{said}");
}

/// Keys that have no row of their own in the documentation.
fn missing_from(page: &str) -> Vec<String> {
    let keys = keys_of(&tree_of(&Config::default())).into_iter();
    let keys = keys.map(|(key, _)| key);
    keys.filter(|key| !page.contains(&format!("\n| `{key}` |")))
        .collect()
}

#[test]
fn every_key_has_its_row() {
    let page = include_str!("../../docs/configuration.md");
    assert_eq!(missing_from(page), Vec::<String>::new());
    let without = page.replace("\n| `wal.url` |", "\n| wal |");
    assert_eq!(missing_from(&without), ["wal.url"]);
}
