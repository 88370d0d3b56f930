//! `auxo admin`: what a cluster is made of and how it is.
//!
//! Reads the resources of `/v1` and prints them as they come: a list as a table, one thing as a
//! line for each value; has shards moved and nodes emptied, and waits for that if asked to.
//!
//! Room: `doctor` (looks for what is broken).
//!
//! Never here: how a change is carried out.

mod doctor;

use std::borrow::Cow;
use std::io::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use auxo_client::Client;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use crate::config::Config;
use crate::config::units::Period;
use crate::environment::Environment;
use crate::exit::Exit;
use crate::flags::ConnectionArgs;
use crate::interrupt::Interrupts;
use crate::output::{Output, notice};
use crate::sql::print::grid;

/// A list is followed over at most so many pages.
const PAGES_MAX: usize = 10_000;

#[derive(Debug, Args)]
pub(crate) struct AdminArgs {
    #[command(subcommand)]
    command: AdminCommand,
    /// How the answer is written
    #[arg(short, long, value_enum, default_value = "table", global = true)]
    output: Layout,
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Layout {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
enum AdminCommand {
    /// The cluster on one screen; ends with 7 if something needs care
    Status {
        /// Show it again every two seconds until interrupted
        #[arg(long)]
        watch: bool,
    },
    /// Look for what is broken, here and in the cluster; ends with 7 if anything is
    Doctor,
    /// What meta keeps in etcd
    #[command(subcommand)]
    Meta(MetaVerb),
    /// Nodes: what they lead and how loaded they are
    #[command(subcommand)]
    Node(NodeVerb),
    /// Shards: who leads them and how far they are
    #[command(subcommand)]
    Shard(ShardVerb),
    /// Tables: their schema and where they lie
    #[command(subcommand)]
    Table(Verb),
    /// Procedures: what is being changed
    #[command(subcommand)]
    Procedure(ProcedureVerb),
}

#[derive(Debug, Subcommand)]
enum MetaVerb {
    /// Read all of it and name what does not hold; ends with 7 if anything does not
    Check,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// All of them
    List,
    /// One of them
    Show {
        /// Its name or number
        name: String,
    },
}

#[derive(Debug, Subcommand)]
enum NodeVerb {
    #[command(flatten)]
    Look(Verb),
    /// Has all its shards moved away; it gets none until it is undrained
    Drain {
        /// Its name or number
        name: String,
        /// Wait until it is empty, at most so long: 90s, 10m
        #[arg(long)]
        wait: Option<Period>,
    },
    /// Gives it shards again
    Undrain {
        /// Its name or number
        name: String,
    },
}

#[derive(Debug, Subcommand)]
enum ShardVerb {
    #[command(flatten)]
    Look(Verb),
    /// Has another node lead it
    Move {
        /// Its number
        shard: String,
        /// Name or number of the node
        #[arg(long)]
        to: String,
        /// Wait until it is done, at most so long: 90s, 10m
        #[arg(long)]
        wait: Option<Period>,
    },
}

#[derive(Debug, Subcommand)]
enum ProcedureVerb {
    #[command(flatten)]
    Look(Verb),
    /// Has one that is stuck go on, once what it names is mended
    Retry {
        /// Its number
        procedure: String,
    },
}

/// Time between two looks at what is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Time between two screens of what is watched.
const WATCH_EVERY: Duration = Duration::from_secs(2);

/// What clears a terminal.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Runs the subcommand.
pub(crate) async fn run(
    args: &AdminArgs,
    client: &Client,
    config: &Config,
    environment: &Environment,
) -> anyhow::Result<Exit> {
    let (kind, verb) = match &args.command {
        AdminCommand::Status { watch: false } => return status(client, args.output).await,
        AdminCommand::Status { watch: true } => return watch(client, args.output).await,
        AdminCommand::Doctor => {
            return doctor::run(args.output, client, config, environment).await;
        }
        AdminCommand::Meta(MetaVerb::Check) => return meta_check(client, args.output).await,
        AdminCommand::Node(NodeVerb::Look(verb)) => ("nodes", verb),
        AdminCommand::Node(NodeVerb::Drain { name, wait }) => {
            let accepted = client.post(&["v1", "nodes", name, "drain"], &[]).await?;
            let empty = |node: &Value| (node["state"] == "drained").then_some(true);
            let path = ["v1", "nodes", &accepted["node"].to_string()];
            return settled(args.output, accepted.clone(), *wait, client, &path, empty).await;
        }
        AdminCommand::Node(NodeVerb::Undrain { name }) => {
            let accepted = client.post(&["v1", "nodes", name, "undrain"], &[]).await?;
            return print(args.output, &accepted, Exit::Done);
        }
        AdminCommand::Shard(ShardVerb::Look(verb)) => ("shards", verb),
        AdminCommand::Shard(ShardVerb::Move { shard, to, wait }) => {
            let path = ["v1", "shards", shard, "move"];
            let accepted = client.post(&path, &[("to", to)]).await?;
            let ended = |procedure: &Value| {
                let outcome = procedure["outcome"].as_object()?;
                Some(outcome.contains_key("done"))
            };
            if accepted["procedure"].is_null() {
                return print(args.output, &accepted, Exit::Done);
            }
            let path = ["v1", "procedures", &accepted["procedure"].to_string()];
            return settled(args.output, accepted.clone(), *wait, client, &path, ended).await;
        }
        AdminCommand::Table(verb) => ("tables", verb),
        AdminCommand::Procedure(ProcedureVerb::Look(verb)) => ("procedures", verb),
        AdminCommand::Procedure(ProcedureVerb::Retry { procedure }) => {
            let path = ["v1", "procedures", procedure, "retry"];
            let accepted = client.post(&path, &[]).await?;
            return print(args.output, &accepted, Exit::Done);
        }
    };
    let mut output = Output::stdout();
    match verb {
        Verb::List => {
            let items = list(client, &["v1", kind]).await?;
            match args.output {
                Layout::Json => writeln!(output, "{}", Value::from(items))?,
                Layout::Table if items.is_empty() => notice(format_args!("there are none")),
                Layout::Table => write_items(&items, &mut output)?,
            }
        }
        Verb::Show { name } => {
            let thing = client.get(&["v1", kind, name], &[]).await?;
            return print(args.output, &thing, Exit::Done);
        }
    }
    output.finish()?;
    Ok(Exit::Done)
}

/// Prints what was accepted, or, where there is time to wait, what became of it.
///
/// * over: `None` while it goes on, then whether it did.
async fn settled(
    layout: Layout,
    accepted: Value,
    wait: Option<Period>,
    client: &Client,
    path: &[&str],
    over: impl Fn(&Value) -> Option<bool>,
) -> anyhow::Result<Exit> {
    let Some(Period(wait)) = wait else {
        return print(layout, &accepted, Exit::Done);
    };
    let looking = async {
        loop {
            let thing = client.get(path, &[]).await?;
            if let Some(done) = over(&thing) {
                return anyhow::Ok((thing, done));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    match tokio::time::timeout(wait, looking).await {
        Ok(looked) => {
            let (thing, done) = looked?;
            let exit = if done { Exit::Done } else { Exit::Unhealthy };
            print(layout, &thing, exit)
        }
        Err(_) => {
            eprintln!("auxo: {} goes on after {wait:?}", path.join("/"));
            Ok(Exit::Timeout)
        }
    }
}

fn print(layout: Layout, thing: &Value, exit: Exit) -> anyhow::Result<Exit> {
    let mut output = Output::stdout();
    match layout {
        Layout::Json => writeln!(output, "{thing}")?,
        Layout::Table => write_thing(thing, &mut output)?,
    }
    output.finish()?;
    Ok(exit)
}

/// All items of a list, page after page.
async fn list(client: &Client, path: &[&str]) -> anyhow::Result<Vec<Value>> {
    let mut items = Vec::new();
    let mut cursor: Option<String> = None;
    for _ in 0..PAGES_MAX {
        let query: Vec<_> = cursor
            .iter()
            .map(|cursor| ("cursor", cursor.as_str()))
            .collect();
        let page = client.get(path, &query).await?;
        let mut page = match page {
            Value::Object(page) => page,
            Value::Array(all) if cursor.is_none() => return Ok(all),
            _ => anyhow::bail!("{} answered no list", path.join("/")),
        };
        match page.remove("items") {
            Some(Value::Array(more)) => items.extend(more),
            _ => anyhow::bail!("{} answered no list", path.join("/")),
        }
        match page.remove("next") {
            Some(Value::String(next)) if !next.is_empty() => cursor = Some(next),
            _ => return Ok(items),
        }
    }
    anyhow::bail!("{} has more than {PAGES_MAX} pages", path.join("/"))
}

/// Shows the cluster until interrupted, also while nobody answers.
async fn watch(client: &Client, layout: Layout) -> anyhow::Result<Exit> {
    let mut interrupts = Interrupts::listen()?;
    let shown = show_again(client, layout);
    tokio::select! {
        () = interrupts.next() => Ok(Exit::Done),
        shown = shown => shown,
    }
}

async fn show_again(client: &Client, layout: Layout) -> anyhow::Result<Exit> {
    loop {
        if Output::is_terminal() {
            let mut output = Output::stdout();
            output.write(CLEAR.as_bytes())?;
            output.finish()?;
        }
        if let Err(error) = status(client, layout).await {
            if error.downcast_ref::<std::io::Error>().is_some() {
                // Nobody reads what is written.
                return Err(error);
            }
            notice(format_args!("{error:#}"));
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// Prints a line for each violation.
async fn meta_check(client: &Client, layout: Layout) -> anyhow::Result<Exit> {
    let told = client.get(&["v1", "meta", "check"], &[]).await?;
    let violations = told["violations"]
        .as_array()
        .context("no violations told")?;
    let mut output = Output::stdout();
    match layout {
        Layout::Json => writeln!(output, "{told}")?,
        Layout::Table => write_items(violations, &mut output)?,
    }
    output.finish()?;
    Ok(match violations.is_empty() {
        true => Exit::Done,
        false => Exit::Unhealthy,
    })
}

async fn status(client: &Client, layout: Layout) -> anyhow::Result<Exit> {
    let ready = client.ready().await?;
    let cluster = client
        .get(&["v1", "cluster"], &[])
        .await
        .context("cluster")?;
    let nodes = list(client, &["v1", "nodes"]).await.context("nodes")?;
    let is_up = |node: &Value| node["online"] == true;
    let healthy = ready["ready"] == true && nodes.iter().all(is_up);
    let mut output = Output::stdout();
    match layout {
        Layout::Json => {
            let all =
                json!({"healthy": healthy, "cluster": cluster, "ready": ready, "nodes": nodes});
            writeln!(output, "{all}")?;
        }
        Layout::Table => {
            write_thing(&cluster, &mut output)?;
            writeln!(output)?;
            write_items(&nodes, &mut output)?;
            writeln!(output)?;
            let checks = ready["checks"].as_array();
            write_items(checks.map_or(&[][..], Vec::as_slice), &mut output)?;
        }
    }
    output.finish()?;
    Ok(match healthy {
        true => Exit::Done,
        false => Exit::Unhealthy,
    })
}

/// A table with a column for each key any item has, in the order they are first seen.
fn write_items(items: &[Value], output: &mut impl std::io::Write) -> std::io::Result<()> {
    let flat: Vec<_> = items.iter().map(flattened).collect();
    let mut names: Vec<&str> = Vec::new();
    for item in &flat {
        for name in item.keys() {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
    }
    let rows: Vec<Vec<_>> = flat
        .iter()
        .map(|item| names.iter().map(|&name| shown(item.get(name))).collect())
        .collect();
    let is_number = |name: &&str| {
        let values = flat.iter().filter_map(|item| item.get(*name));
        values.fold(false, |_, value| value.is_number())
    };
    let rights: Vec<bool> = names.iter().map(is_number).collect();
    let names: Vec<_> = names.into_iter().map(Cow::Borrowed).collect();
    grid(&names, &rights, &rows, output)
}

/// A line for each value.
fn write_thing(thing: &Value, output: &mut impl std::io::Write) -> std::io::Result<()> {
    let flat = flattened(thing);
    let width = flat
        .keys()
        .map(|name| name.chars().count())
        .max()
        .unwrap_or(0);
    flat.iter()
        .try_for_each(|(name, value)| writeln!(output, "{name:width$}  {}", shown(Some(value))))
}

/// Objects within objects become keys with dots; lists stay what they are.
fn flattened(thing: &Value) -> Map<String, Value> {
    let mut flat = Map::new();
    match thing {
        Value::Object(object) => {
            for (name, value) in object {
                match value {
                    Value::Object(_) => {
                        let inner = flattened(value).into_iter();
                        flat.extend(inner.map(|(key, value)| (format!("{name}.{key}"), value)));
                    }
                    _ => {
                        flat.insert(name.clone(), value.clone());
                    }
                }
            }
        }
        other => {
            flat.insert("value".to_owned(), other.clone());
        }
    }
    flat
}

fn shown(value: Option<&Value>) -> Cow<'_, str> {
    match value {
        None | Some(Value::Null) => Cow::Borrowed(""),
        Some(Value::String(text)) => Cow::Owned(text.escape_debug().to_string()),
        Some(Value::Array(items)) if items.iter().all(|item| !item.is_object()) => {
            let items: Vec<_> = items.iter().map(|item| shown(Some(item))).collect();
            Cow::Owned(items.join(","))
        }
        Some(other) => Cow::Owned(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_become_a_table() {
        let items = [
            json!({"node": "c1", "state": "up", "shards": {"leader": 4}, "tags": ["a", "b"]}),
            json!({"node": "c2", "state": "down", "zone": "b\n", "shards": {"leader": 12}, "gone": null}),
        ];
        let mut out = Vec::new();
        write_items(&items, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "node | state | shards.leader | tags | zone | gone\n\
             -----+-------+---------------+------+------+-----\n\
             c1   | up    |             4 | a,b  |      |\n\
             c2   | down  |            12 |      | b\\n  |\n"
        );
        let mut out = Vec::new();
        write_items(&[], &mut out).unwrap();
        assert_eq!(out, b"\n\n");
    }

    #[test]
    fn a_thing_becomes_lines() {
        let mut out = Vec::new();
        write_thing(
            &json!({"shard": 7, "load": {"cpu": 0.5}, "x": [{"a": 1}]}),
            &mut out,
        )
        .unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "shard     7\nload.cpu  0.5\nx         [{\"a\":1}]\n"
        );
    }
}
