//! `auxo sql`: one statement, a file of them, or a shell.
//!
//! Rooms: [`split`] (where a statement ends), [`statement`] (one of them: asked, shown, cancelled),
//! [`print`] (tables for people), [`shell`] with [`commands`] and [`complete`].

mod commands;
mod complete;
pub(crate) mod print;
mod shell;
mod split;
mod statement;

use std::io::{IsTerminal as _, Read as _};
use std::path::PathBuf;

use anyhow::Context as _;
use auxo_client::{Client, Params};
use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::config::units::Period;
use crate::environment::Environment;
use crate::exit::{Exit, usage};
use crate::flags::ConnectionArgs;
use crate::interrupt::Interrupts;
use crate::output::{Output, notice};
use crate::report;

/// The longest script that is read, in bytes.
const SCRIPT_BYTES_MAX: u64 = 16 << 20;

#[derive(Debug, Args)]
pub(crate) struct SqlArgs {
    /// Run these statements and end
    #[arg(short, long, value_name = "SQL", conflicts_with = "file")]
    command: Option<String>,
    /// Run the statements of a file and end
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// How rows are written; a table on a terminal, else tsv
    #[arg(short, long, value_enum)]
    output: Option<Layout>,
    /// Value of $NAME or $1, as JSON or else as a string
    #[arg(short, long = "param", value_name = "NAME=VALUE")]
    params: Vec<String>,
    /// At most so many rows; 0 for all. Tables are made in memory and stop at 10000 unless told
    #[arg(long, value_name = "ROWS")]
    limit: Option<u64>,
    /// How long a statement may run
    #[arg(long, value_name = "TIME", default_value = "30s")]
    timeout: Period,
    /// How fresh the rows must be: strong, bounded(MS), eventual
    #[arg(long, value_name = "MODE")]
    read_mode: Option<String>,
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
}

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Layout {
    /// Columns below their names
    Table,
    /// The node's JSON reply
    Json,
    /// A row a line as JSON
    Ndjson,
    /// Comma-separated with a header
    Csv,
    /// Tab-separated with a header
    Tsv,
    /// A line for each value
    Vertical,
}

/// How messages are told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Saying {
    pub(crate) json_errors: bool,
    pub(crate) quiet: bool,
}

/// How statements are asked and shown.
#[derive(Clone, Debug)]
pub(crate) struct Asking {
    layout: Layout,
    params: Option<Params>,
    limit: Option<u64>,
    timeout: Period,
    read_mode: Option<String>,
    timing: bool,
    saying: Saying,
}

/// Runs the subcommand.
pub(crate) async fn run(
    args: &SqlArgs,
    client: &Client,
    environment: &Environment,
    saying: Saying,
) -> anyhow::Result<Exit> {
    let asking = Asking {
        layout: args.output.unwrap_or(match Output::is_terminal() {
            true => Layout::Table,
            false => Layout::Tsv,
        }),
        params: params(&args.params)?,
        limit: args.limit,
        timeout: args.timeout,
        read_mode: args.read_mode.clone(),
        timing: false,
        saying,
    };
    let script = match (&args.command, &args.file) {
        (Some(command), _) => command.clone(),
        (None, Some(file)) => {
            let file = std::fs::File::open(file)
                .map_err(|error| usage(format!("{}: {error}", file.display())))?;
            script(file)?
        }
        (None, None) if std::io::stdin().is_terminal() => {
            return shell::run(client, asking, environment).await;
        }
        (None, None) => tokio::task::block_in_place(|| script(std::io::stdin().lock()))?,
    };
    run_script(&script, client, &asking).await
}

fn script(from: impl std::io::Read) -> anyhow::Result<String> {
    let mut text = String::new();
    from.take(SCRIPT_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .context("script")?;
    if text.len() as u64 > SCRIPT_BYTES_MAX {
        return Err(usage(format!(
            "a script is at most {SCRIPT_BYTES_MAX} bytes"
        )));
    }
    Ok(text)
}

/// Runs statements one after the other, up to the first that fails.
async fn run_script(script: &str, client: &Client, asking: &Asking) -> anyhow::Result<Exit> {
    let mut interrupts = Interrupts::listen()?;
    let mut output = Output::stdout();
    for statement in split::statements(script) {
        let shown = statement::run(client, statement, asking, &mut interrupts, &mut output).await;
        let shown = shown.and_then(|told| {
            output.finish()?;
            Ok(told)
        });
        match shown {
            Ok(told) => told
                .into_iter()
                .for_each(|line| notice(format_args!("{line}"))),
            Err(error) => {
                output.finish().ok();
                let as_json = asking.saying.json_errors;
                return Ok(report::report(&error, Some(statement), as_json));
            }
        }
    }
    Ok(Exit::Done)
}

/// `1=5` and `host=web1` as the request's parameters: a list if all names are numbers from 1.
fn params(given: &[String]) -> anyhow::Result<Option<Params>> {
    if given.is_empty() {
        return Ok(None);
    }
    let mut named = serde_json::Map::new();
    for param in given {
        let Some((name, text)) = param.split_once('=') else {
            return Err(usage(format!("--param {param}: not NAME=VALUE")));
        };
        let value = serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
        named.insert(name.trim_start_matches('$').to_owned(), value);
    }
    let numbered = (1..=named.len()).map(|number| named.get(&number.to_string()).cloned());
    Ok(Some(match numbered.collect() {
        Some(list) => Params::Positional(list),
        None => Params::Named(named),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_params(given: &[&str], expected: Params) {
        let given: Vec<_> = given.iter().map(|&text| text.to_owned()).collect();
        assert_eq!(params(&given).unwrap(), Some(expected));
    }

    #[test]
    fn parameters_are_a_list_or_an_object() {
        check_params(
            &["2=x", "1=5"],
            Params::Positional(vec![5.into(), "x".into()]),
        );
        let named = [
            ("h".to_owned(), Value::from("web 1")),
            ("n".to_owned(), Value::Null),
            ("s".to_owned(), Value::from("7")),
        ];
        check_params(
            &["$h=web 1", "n=null", "s=\"7\""],
            Params::Named(named.into_iter().collect()),
        );
        assert!(params(&["x".to_owned()]).is_err());
        assert_eq!(params(&[]).unwrap(), None);
    }
}
