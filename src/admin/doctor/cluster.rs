//! What nodes and meta say of the cluster, as any client hears it.

use std::time::Duration;

use auxo_client::Client;
use auxo_proto::clock::Clock;
use serde_json::Value;

use super::Finding;
use crate::admin::list;
use crate::config::Config;
use crate::connection;
use crate::environment::Environment;

/// How far apart clocks may be, in milliseconds.
const SKEW_MS: i64 = 1_000;

/// How long one node may take to tell its time.
const TELL_TIME: Duration = Duration::from_secs(5);

/// Names of what is asked through a node.
const THROUGH_A_NODE: [&str; 5] = ["nodes", "clock", "shards", "procedures", "model"];

pub(super) async fn look(
    client: &Client,
    config: &Config,
    environment: &Environment,
) -> Vec<Finding> {
    let ready = match client.ready().await {
        Ok(ready) => ready,
        Err(error) => {
            let unasked = |name| Finding::skipped(name, "no node can be asked");
            let node = Finding::broken("node", format!("{}: {error}", client.url()));
            return [node]
                .into_iter()
                .chain(THROUGH_A_NODE.map(unasked))
                .collect();
        }
    };
    let checks = ready["checks"].as_array().map_or(&[][..], Vec::as_slice);
    let failed = checks.iter().filter(|check| check["ok"] == false);
    let failed: Vec<String> = failed
        .map(|check| format!("{}: {}", text(&check["name"]), text(&check["detail"])))
        .collect();
    let mut found = vec![Finding::of("node", &failed, client.url())];
    let nodes = list(client, &["v1", "nodes"]).await;
    found.push(match &nodes {
        Ok(nodes) => online(nodes),
        Err(error) => Finding::broken("nodes", format!("{error:#}")),
    });
    found.push(clocks(nodes.as_deref().unwrap_or(&[]), config, environment).await);
    match client.get(&["v1", "cluster"], &[]).await {
        Ok(cluster) => {
            let leaderless = numbers(&cluster["shards"]["not_served"]);
            let leaderless = leaderless
                .iter()
                .map(|id| format!("shard {id} is not served"));
            let all = format!("{} shards are served", cluster["shards"]["all"]);
            found.push(Finding::of("shards", &leaderless.collect::<Vec<_>>(), all));
            let stuck = numbers(&cluster["procedures"]["failed"]);
            let stuck = stuck.iter().map(|id| format!("procedure {id} has failed"));
            let running = format!("{} run", cluster["procedures"]["running"]);
            found.push(Finding::of(
                "procedures",
                &stuck.collect::<Vec<_>>(),
                running,
            ));
        }
        Err(error) => {
            found.push(Finding::broken("shards", format!("{error}")));
            found.push(Finding::skipped("procedures", "meta does not answer"));
        }
    }
    found.push(match client.get(&["v1", "meta", "check"], &[]).await {
        Ok(told) => {
            let violations = told["violations"].as_array();
            let violations = violations.map_or(&[][..], Vec::as_slice).iter();
            let violations =
                violations.map(|one| format!("{}: {}", text(&one["key"]), text(&one["what"])));
            Finding::of("model", &violations.collect::<Vec<_>>(), "it is whole")
        }
        Err(error) => Finding::broken("model", format!("{error}")),
    });
    found
}

/// Whether every node that should be there is.
fn online(nodes: &[Value]) -> Finding {
    let gone = ["drained", "removed"].map(Value::from);
    let missing = nodes
        .iter()
        .filter(|node| node["online"] != true && !gone.contains(&node["state"]));
    let missing = missing.map(|node| format!("{} is offline", text(&node["name"])));
    let all = format!("{} are online", nodes.len());
    Finding::of("nodes", &missing.collect::<Vec<_>>(), all)
}

/// Compares this machine's clock with each node's.
async fn clocks(nodes: &[Value], config: &Config, environment: &Environment) -> Finding {
    let (mut wrong, mut most, mut compared) = (Vec::new(), 0, 0);
    for node in nodes.iter().filter(|node| node["online"] == true) {
        let mut settings = config.client.clone();
        settings.url = format!("http://{}", text(&node["public"]));
        let Some(skew) = skew_ms(&settings, environment).await else {
            continue;
        };
        compared += 1;
        most = most.max(skew.abs());
        if skew.abs() >= SKEW_MS {
            wrong.push(format!(
                "{} is {skew} ms off from here",
                text(&node["name"])
            ));
        }
    }
    match compared {
        0 => Finding::skipped("clock", "no node tells its time"),
        _ => Finding::of(
            "clock",
            &wrong,
            format!("{compared} nodes are at most {most} ms off from here"),
        ),
    }
}

/// How far a node's clock is ahead of this one, beyond what the way there explains.
async fn skew_ms(settings: &crate::config::ClientConfig, environment: &Environment) -> Option<i64> {
    let client = connection::client(settings, environment).ok()?;
    let clock = Clock::system();
    let asked = clock.now_ms();
    let health = tokio::time::timeout(TELL_TIME, client.get(&["v1", "health"], &[]));
    let there = health.await.ok()?.ok()?["now_ms"].as_i64()?;
    let told = clock.now_ms();
    Some(beyond(asked, there, told))
}

/// 0 if the node's time lies between the question and the answer.
fn beyond(asked: i64, there: i64, told: i64) -> i64 {
    (there - told).max(0) + (there - asked).min(0)
}

fn numbers(list: &Value) -> Vec<u64> {
    let list = list.as_array().map_or(&[][..], Vec::as_slice);
    list.iter().filter_map(Value::as_u64).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_answer_is_no_skew() {
        assert_eq!(beyond(1_000, 2_500, 9_000), 0);
        assert_eq!(beyond(1_000, 9_500, 9_000), 500);
        assert_eq!(beyond(1_000, 400, 9_000), -600);
    }
}
