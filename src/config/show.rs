//! `auxo config check` and `auxo config print`.
//!
//! Never prints a secret: a configuration holds only their names.

use std::fmt::Write as _;

use clap::Subcommand;
use serde_json::Value;

use super::load::{Loaded, keys_of, tree_of};
use super::machine;
use crate::exit::Exit;
use crate::output::{Output, notice};

#[derive(Debug, clap::Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Read every source and say whether a node would start with it
    Check,
    /// Print the settings in force, as a file that could be read back
    Print {
        /// Write beside each key where its value comes from
        #[arg(long)]
        origin: bool,
    },
}

/// Runs the subcommand; that the sources could be read at all is known already.
pub(crate) fn run(args: &ConfigArgs, loaded: &Loaded) -> anyhow::Result<Exit> {
    match args.command {
        ConfigCommand::Check => {
            let (available, told_by) = machine::memory();
            let budget = loaded.config.memory.budget.of(available);
            notice(format_args!(
                "configuration is good; memory budget {budget} bytes of {available} ({told_by})"
            ));
        }
        ConfigCommand::Print { origin } => {
            let mut output = Output::stdout();
            output.write(print(loaded, origin).as_bytes())?;
            output.finish()?;
        }
    }
    Ok(Exit::Done)
}

/// The tree as TOML, in the order of the documentation.
fn print(loaded: &Loaded, with_origin: bool) -> String {
    let mut text = String::new();
    let mut section = "";
    let keys = keys_of(&tree_of(&loaded.config));
    for (key, value) in &keys {
        let (in_section, name) = key.split_once('.').unwrap_or(("", key));
        if in_section != section {
            section = in_section;
            let _ = writeln!(text, "\n[{section}]");
        }
        let _ = write!(text, "{name} = {}", toml_of(value));
        if with_origin {
            let _ = write!(text, "  # {}", loaded.origin(key));
        }
        text.push('\n');
    }
    text
}

fn toml_of(value: &Value) -> String {
    match value {
        Value::String(text) => toml::Value::String(text.clone()).to_string(),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(toml_of).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::load::{Sources, load};
    use super::*;
    use crate::environment::Environment;

    #[test]
    fn what_is_printed_can_be_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("auxo.toml");
        let sources = Sources {
            only_file: None,
            environment: Environment::of([
                ("AUXO_ZONE", "b\"\\c"),
                ("AUXO_LIMITS__RESULT_ROWS", "7"),
            ]),
            flags: Vec::new(),
        };
        let loaded = load(&sources).unwrap();
        let printed = print(&loaded, true);
        assert!(
            printed.contains("result_rows = 7  # environment AUXO_LIMITS__RESULT_ROWS"),
            "{printed}"
        );
        assert!(
            printed.contains("[wal]\nurl = \"local://./auxo-data/wal\"  # default"),
            "{printed}"
        );
        std::fs::write(&file, &printed).unwrap();
        let again = load(&Sources {
            only_file: Some(file),
            ..Sources::default()
        })
        .unwrap();
        assert_eq!(print(&again, false), print(&loaded, false));
    }
}
