//! The one binary: parses the command line, reads the configuration, runs a subcommand, and ends
//! with the exit code that says how it went.
//!
//! One file per subcommand: [`standalone`], [`sql`], [`write`](mod@write), [`bench`], [`admin`],
//! [`version`], and [`config::show`]. Beside them what they share: [`config`], [`flags`] and [`environment`],
//! [`compute`] and [`services`] (what a node is made of), [`connection`], [`interrupt`], [`output`], [`report`] and [`exit`], [`logging`]. Never here:
//! anything a test of the lower floors would need.

mod admin;
mod bench;
mod compute;
mod config;
mod connection;
mod environment;
mod exit;
mod flags;
mod interrupt;
mod logging;
mod meta;
mod output;
mod report;
mod services;
mod sql;
mod standalone;
mod version;
mod write;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tokio_util::sync::CancellationToken;

use config::load::{Loaded, Origin, Sources, load};
use environment::Environment;
use exit::Exit;
use interrupt::Interrupts;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A time-series database whose compute and storage are separate.
///
/// Without a command: one process on this machine that needs no configuration, keeps its data in
/// ./auxo-data and listens on 127.0.0.1:7400.
#[derive(Debug, Parser)]
#[command(name = "auxo", version = version::VERSION, max_term_width = 100, after_help = EXIT_CODES)]
struct Arguments {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Stack of a worker thread. Statements are limited in depth before they are parsed, but planning
/// recurses over long chains of operators as well; the pages are taken only when they are used.
const STACK_BYTES: usize = 16 << 20;

const EXIT_CODES: &str =
    "Settings: defaults < /etc/auxo/auxo.toml < ./auxo.toml < AUXO_SECTION__KEY < flags
Exit codes: 0 done, 1 refused, 2 usage or configuration, 3 no connection, 4 not allowed, 5 timeout,
            6 partly done, 7 unhealthy, 130 cancelled";

#[derive(Debug, clap::Args)]
struct GlobalArgs {
    /// Read this file instead of /etc/auxo/auxo.toml and ./auxo.toml
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Set any key of the configuration, as wal.url=memory://
    #[arg(long = "setting", value_name = "KEY=VALUE", global = true)]
    settings: Vec<String>,
    /// What to log: error, warn, info, debug, trace [key: log.level]
    #[arg(long, value_name = "LEVEL", global = true)]
    log_level: Option<String>,
    /// Write errors as one JSON object
    #[arg(long, global = true)]
    json_errors: bool,
    /// Write nothing but data and errors
    #[arg(long, short, global = true)]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything in one process (also what happens without a command)
    Standalone(flags::NodeArgs),
    /// Run a meta node of a cluster
    Meta(flags::NodeArgs),
    /// Run a compute node of a cluster
    Compute(flags::NodeArgs),
    /// Run SQL: one statement, a file, or a shell
    Sql(sql::SqlArgs),
    /// Write line protocol from files or the standard input
    Write(write::WriteArgs),
    /// Measure how fast a node takes rows and answers
    Bench(bench::BenchArgs),
    /// Look at a cluster: nodes, shards, tables, procedures
    Admin(admin::AdminArgs),
    /// Check or print the configuration
    Config(config::show::ConfigArgs),
    /// Print the version
    Version(version::VersionArgs),
}

impl Arguments {
    /// The flags that are keys of the configuration.
    fn assignments(&self) -> anyhow::Result<Vec<flags::Assigned>> {
        let mut found = match &self.command {
            None | Some(Command::Config(_)) => Vec::new(),
            Some(Command::Standalone(args) | Command::Meta(args) | Command::Compute(args)) => {
                args.assignments()
            }
            Some(Command::Sql(args)) => args.connection.assignments(),
            Some(Command::Write(args)) => args.connection.assignments(),
            Some(Command::Bench(args)) => args.assignments(),
            Some(Command::Admin(args)) => args.connection.assignments(),
            Some(Command::Version(args)) => args.connection.assignments(),
        };
        for assignment in &self.global.settings {
            let Some((key, value)) = assignment.split_once('=') else {
                return Err(exit::usage(format!(
                    "--setting {assignment}: not KEY=VALUE"
                )));
            };
            found.push(("--setting".to_owned(), key.to_owned(), value.to_owned()));
        }
        if let Some(level) = &self.global.log_level {
            let key = "log.level".to_owned();
            found.push(("--log-level".to_owned(), key, level.clone()));
        }
        Ok(found)
    }
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(told) => {
            let _ = told.print();
            return if told.use_stderr() {
                Exit::Usage.into()
            } else {
                Exit::Done.into()
            };
        }
    };
    let json_errors = arguments.global.json_errors;
    match run(arguments) {
        Ok(exit) => exit.into(),
        Err(error) => report::report(&error, None, json_errors).into(),
    }
}

fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    let environment = Environment::of_process();
    let mut loaded = load(&Sources {
        only_file: arguments.global.config.clone(),
        environment: environment.clone(),
        flags: arguments.assignments()?,
    })?;
    let serves = matches!(
        arguments.command,
        None | Some(Command::Standalone(_) | Command::Meta(_) | Command::Compute(_))
    );
    // A client that works says nothing: it logs warnings only, unless told otherwise.
    if !serves && *loaded.origin("log.level") == Origin::Default {
        loaded.config.log.level = "warn".parse().map_err(anyhow::Error::msg)?;
    }
    logging::start(&loaded.config.log)?;
    if auxo_engine::UNFENCED {
        tracing::warn!(
            "built without the fence: this binary loses acknowledged rows, for tests only"
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(STACK_BYTES)
        .build()?;
    let ended = runtime.block_on(command(arguments, loaded, environment));
    // A read of the standard input that nobody waits for must not hold the process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    ended
}

async fn command(
    arguments: Arguments,
    loaded: Loaded,
    environment: Environment,
) -> anyhow::Result<Exit> {
    let global = &arguments.global;
    let client = || connection::client(&loaded.config.client, &environment);
    let surroundings = || (loaded.config.clone(), environment.clone());
    match arguments.command {
        None => {
            let args = flags::NodeArgs::default();
            let (config, environment) = surroundings();
            serve(&args, |stop| standalone::run(config, environment, stop)).await
        }
        Some(Command::Standalone(args)) => {
            let (config, environment) = surroundings();
            serve(&args, |stop| standalone::run(config, environment, stop)).await
        }
        Some(Command::Meta(args)) => {
            serve(&args, |stop| meta::run(loaded.config.clone(), stop)).await
        }
        Some(Command::Compute(args)) => {
            let (config, environment) = surroundings();
            serve(&args, |stop| compute::run(config, environment, stop)).await
        }
        Some(Command::Sql(args)) => {
            let said = sql::Saying {
                json_errors: global.json_errors,
                quiet: global.quiet,
            };
            sql::run(&args, &client()?, &environment, said).await
        }
        Some(Command::Write(args)) => write::run(&args, &client()?, global.quiet).await,
        Some(Command::Bench(args)) => bench::run(&args, &client()?, global.quiet).await,
        Some(Command::Admin(args)) => {
            admin::run(&args, &client()?, &loaded.config, &environment).await
        }
        Some(Command::Config(args)) => config::show::run(&args, &loaded),
        Some(Command::Version(args)) => version::run(&args, client).await,
    }
}

/// Runs a node until it is told to stop.
async fn serve<F>(
    args: &flags::NodeArgs,
    run: impl FnOnce(CancellationToken) -> F,
) -> anyhow::Result<Exit>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let shutdown = CancellationToken::new();
    if args.stop_with_stdin {
        interrupt::cancel_at_end_of_input(shutdown.clone())?;
    }
    let work = run(shutdown.clone());
    match Interrupts::listen()?.guard(shutdown, work).await {
        Some(ended) => ended.map(|()| Exit::Done),
        None => Ok(Exit::Cancelled),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
        // A flag of every command must not be one of some command too; the check above allows it.
        let command = Arguments::command();
        let globals: Vec<_> = command
            .get_arguments()
            .map(|flag| flag.get_id().clone())
            .collect();
        let mut waiting: Vec<_> = command.get_subcommands().cloned().collect();
        while let Some(command) = waiting.pop() {
            for flag in command.get_arguments() {
                assert!(
                    !globals.contains(flag.get_id()),
                    "{} {flag}",
                    command.get_name()
                );
            }
            waiting.extend(command.get_subcommands().cloned());
        }
    }

    #[test]
    fn flags_of_a_subcommand_do_not_hide_the_global_ones() {
        let words = [
            "auxo",
            "bench",
            "gen",
            "--kind",
            "iot",
            "--setting",
            "zone=b",
        ];
        let parsed = Arguments::try_parse_from(words).unwrap();
        assert_eq!(parsed.global.settings, ["zone=b"]);
    }

    #[test]
    fn flags_become_assignments() {
        let parsed = Arguments::try_parse_from([
            "auxo",
            "sql",
            "--url",
            "http://n:1",
            "-c",
            "SELECT 1",
            "--setting",
            "zone=b",
            "--log-level",
            "debug",
        ])
        .unwrap();
        let assigned = parsed.assignments().unwrap();
        let keys: Vec<_> = assigned
            .iter()
            .map(|(_, key, value)| (key.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            keys,
            [
                ("client.url", "http://n:1"),
                ("zone", "b"),
                ("log.level", "debug")
            ]
        );
        let wrong = Arguments::try_parse_from(["auxo", "--setting", "zone"]).unwrap();
        assert_eq!(Exit::of(&wrong.assignments().unwrap_err()), Exit::Usage);
    }
}
