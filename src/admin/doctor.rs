//! `auxo admin doctor`: looks for what is broken, on this machine, in the services its configuration
//! names, and in the cluster, and says of each what was seen, what it should be and what to do.
//!
//! Rooms: this file (what a finding is and how all are shown), `machine` (this machine and its
//! services), `cluster` (what nodes and meta say). docs/runbooks.md has a section for each finding.
//!
//! Never here: a repair. What is written is one small file on each disk and in the store, which is
//! removed again, and the topic that Kafka is checked on.

mod cluster;
mod machine;

use std::io::Write as _;

use auxo_client::Client;
use serde_json::{Value, json};

use super::{Layout, write_items};
use crate::config::Config;
use crate::environment::Environment;
use crate::exit::Exit;
use crate::output::Output;

/// Each thing that is looked at: its name, what it should be, what to do if it is not.
const CATALOGUE: [(&str, &str, &str); 13] = [
    (
        "wal",
        "the log of wal.url answers, and its settings keep what it acknowledged",
        "correct the setting that is named, or reach the brokers",
    ),
    (
        "store",
        "the store of store.url creates an object once, lists and deletes it",
        "correct the bucket, the rule or the credentials that are named",
    ),
    (
        "etcd",
        "every member of meta.etcd answers, one leads, and no alarm is raised",
        "start the member, or clear its alarm",
    ),
    (
        "members",
        "every node of meta.members answers",
        "start it, or correct the address",
    ),
    (
        "ports",
        "the addresses below listen can be bound, or are this node's own",
        "end the program that has the port, or choose another",
    ),
    (
        "disk",
        "data_dir has 5 % and 1 GiB free, and keeps 4 KiB within 100 ms",
        "make room, or move data_dir to a faster disk",
    ),
    (
        "files",
        "a process may have 4096 files open",
        "raise the limit: ulimit -n 65536, or LimitNOFILE= of the unit",
    ),
    (
        "node",
        "the node at client.url serves",
        "start it, or see why in its log",
    ),
    (
        "nodes",
        "every node that is not drained or removed is online",
        "start it, or drain it",
    ),
    (
        "clock",
        "all clocks differ by less than 1 s",
        "let the machine's clock follow a time server",
    ),
    (
        "shards",
        "each shard is served by its leader",
        "see auxo admin shard show, and the leader's log",
    ),
    (
        "procedures",
        "no procedure has failed or is stuck",
        "see auxo admin procedure show, and correct what it names",
    ),
    (
        "model",
        "everything in etcd can be read and fits together",
        "see auxo admin meta check",
    ),
];

/// What was found of one of them.
struct Finding {
    name: &'static str,
    state: State,
    /// For people, one line.
    seen: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Sound,
    Broken,
    /// It does not apply here, or could not be looked at; `seen` says why.
    Skipped,
}

impl Finding {
    fn sound(name: &'static str, seen: impl Into<String>) -> Self {
        Self::new(name, State::Sound, seen)
    }

    fn broken(name: &'static str, seen: impl Into<String>) -> Self {
        Self::new(name, State::Broken, seen)
    }

    fn skipped(name: &'static str, why: impl Into<String>) -> Self {
        Self::new(name, State::Skipped, why)
    }

    /// Sound if nothing is wrong, else broken by all that is.
    fn of(name: &'static str, wrong: &[String], sound: impl Into<String>) -> Self {
        match wrong.is_empty() {
            true => Self::sound(name, sound),
            false => Self::broken(name, wrong.join("; ")),
        }
    }

    fn new(name: &'static str, state: State, seen: impl Into<String>) -> Self {
        let seen = seen.into();
        Self { name, state, seen }
    }

    /// As it is shown: what is broken says what to do.
    fn json(&self) -> Value {
        let state = match self.state {
            State::Sound => "ok",
            State::Broken => "broken",
            State::Skipped => "skipped",
        };
        let mut shown = json!({"check": self.name, "state": state, "seen": self.seen});
        let known = CATALOGUE.iter().find(|(name, ..)| *name == self.name);
        if let Some((_, should, help)) = known
            && self.state == State::Broken
        {
            shown["should_be"] = json!(should);
            shown["what_to_do"] = json!(help);
        }
        shown
    }
}

/// Looks at everything and prints what it found.
///
/// * returns: `Unhealthy` if anything is broken.
pub(super) async fn run(
    layout: Layout,
    client: &Client,
    config: &Config,
    environment: &Environment,
) -> anyhow::Result<Exit> {
    let (mut found, of_cluster) = tokio::join!(
        machine::look(config, environment),
        cluster::look(client, config, environment)
    );
    found.extend(of_cluster);
    let broken = found.iter().any(|one| one.state == State::Broken);
    let items: Vec<Value> = found.iter().map(Finding::json).collect();
    let mut output = Output::stdout();
    match layout {
        Layout::Json => {
            let all = json!({"healthy": !broken, "findings": items});
            writeln!(output, "{all}")?;
        }
        Layout::Table => write_items(&items, &mut output)?,
    }
    output.finish()?;
    Ok(match broken {
        true => Exit::Unhealthy,
        false => Exit::Done,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Problems and what to do about them.
    const RUNBOOKS: &str = include_str!("../../docs/runbooks.md");

    #[test]
    fn each_finding_has_a_section_in_the_runbooks() {
        let sections = RUNBOOKS.lines();
        let sections: Vec<&str> = sections
            .filter_map(|line| line.strip_prefix("## "))
            .collect();
        let names: Vec<&str> = CATALOGUE.iter().map(|(name, ..)| *name).collect();
        assert_eq!(sections, names);
    }

    #[test]
    fn what_is_broken_says_what_to_do() {
        let wrong = ["a".to_owned(), "b".to_owned()];
        let shown = Finding::of("files", &wrong, "fine").json();
        assert_eq!(shown["state"], "broken");
        assert_eq!(shown["seen"], "a; b");
        assert!(shown["what_to_do"].as_str().unwrap().contains("ulimit"));
        let shown = Finding::of("files", &[], "fine").json();
        let wanted = json!({"check": "files", "state": "ok", "seen": "fine"});
        assert_eq!(shown, wanted);
    }
}
